"""Options of several commands."""

import argparse
from pathlib import Path

SAMPLE = Path(__file__).parents[1] / "data" / "bunny_720p.mp4"
"""Bundled video, for commands without a named one."""


def add_device(command: argparse.ArgumentParser) -> None:
    """Add the option for the device of fits."""
    command.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device to fit on (default: auto)",
    )
