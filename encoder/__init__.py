"""Fit a neural network to a video and write it as a small bitstream."""
