"""Fit a neural network to a video, write it as a bitstream, and measure the file."""

from collections.abc import Sequence

from encoder.cli import bench, compare, compress, evaluate, fit, models
from encoder.common.console import Commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code."""
    commands = Commands("encoder", __doc__, install="nervcast[encoder]")
    for module in (fit, compress, evaluate, models, compare, bench):
        module.add(commands)
    return commands.main(argv)
