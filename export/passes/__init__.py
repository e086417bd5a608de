"""Rewrites of ONNX graphs that each keep pictures within one 8-bit step."""
