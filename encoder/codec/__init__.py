"""What an encoder and a decoder must agree on: container, entropy coding, quantisation, topology. Imports no torch."""
