"""Fit the network of one segment: steps, schedule, quantization, rate control."""
