"""Turn a clip into ONNX graphs and TensorRT engines, and run them. Imports no torch."""
