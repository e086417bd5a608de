"""Serve clips to browsers, publish them to media servers, and decode them to files."""

from collections.abc import Sequence

from encoder.common.console import Commands
from player.cli import decode, publish, serve


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code."""
    commands = Commands("player", __doc__, install="nervcast[player]")
    for command in (serve, publish, decode):
        command.add(commands)
    return commands.main(argv)
