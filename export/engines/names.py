"""Names and limits for command lines, without the engines' libraries, so that help is fast."""

ENGINE_NAMES = ("tensorrt", "onnxruntime-cuda", "tensorrt-rtx", "openvino", "onnxruntime-cpu")
"""Names of the engines, in the order in which they are tried."""
BUILDERS = ("auto", "tensorrt", "rtx")
"""Names of the builders of TensorRT engines."""
DEFAULT_BATCH = 8
"""Default number of frames that are decoded at once."""
MAX_BATCH = 256
"""Maximum number of frames that are decoded at once."""
