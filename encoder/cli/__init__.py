"""The command line of the encoder."""
