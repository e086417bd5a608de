"""The `.nerv` format: container, entropy coding, quantization and topology.

Encoders and decoders must agree on it. The package imports no torch.
"""

import os

# ONNX Runtime sends telemetry to its maker unless this is set before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
