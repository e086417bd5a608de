"""Names and limits that command lines show, without the libraries behind them: help is fast."""

ENGINE_NAMES = ("tensorrt", "onnxruntime-cuda", "openvino", "onnxruntime-cpu")
"""Of the engines, in the order in which they are tried."""
DEFAULT_BATCH = 8
MAX_BATCH = 256
"""Frames that are decoded at once."""
