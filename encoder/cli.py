"""Fit a neural network to a video, write it as a bitstream, and measure what was written."""

from collections.abc import Sequence

from encoder import cli_bench, cli_compare, cli_compress, cli_evaluate, cli_fit, cli_models
from encoder.codec.console import Commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code."""
    commands = Commands("encoder", __doc__, install="nervcast[encoder]")
    for module in (cli_fit, cli_compress, cli_evaluate, cli_models, cli_compare, cli_bench):
        module.add(commands)
    return commands.main(argv)
