"""What an encoder and a decoder must agree on: container, entropy coding, quantisation, topology. Imports no torch."""

import os

# ONNX Runtime reports to its maker unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
