"""Rewrites of ONNX graphs, each of which keeps the pictures within one 8-bit step."""
