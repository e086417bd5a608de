"""The `.nerv` format: container, entropy coding, quantization and topology.

Encoders and decoders must agree on it. The package imports no torch.
"""
