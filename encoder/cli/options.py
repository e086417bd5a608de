"""What several of the encoder's commands take."""

import argparse
from pathlib import Path

from encoder.common.errors import SettingsError
from encoder.media.reading import Options

SAMPLE = Path(__file__).parents[1] / "data" / "bunny_720p.mp4"
"""The video that is taken when none is named."""
SEGMENT_FRAMES = 150
KEY_INTERVAL = 8
MAX_SEED = 2**63 - 1


def add_device(command: argparse.ArgumentParser) -> None:
    """Add the option that says where to fit."""
    command.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to fit (default: auto)",
    )


def add_fit(command: argparse.ArgumentParser, *, budget: str) -> None:
    """Add the options that say how long to fit, in which segments, and from which seed."""
    limit = command.add_mutually_exclusive_group()
    limit.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help=f"time to fit all, however many fit (default: {budget})",
    )
    limit.add_argument("--epochs", type=int, help="passes over the frames, instead of a budget")
    command.add_argument(
        "--segment-frames",
        type=int,
        default=SEGMENT_FRAMES,
        metavar="N",
        help=f"most frames that share a network (default: {SEGMENT_FRAMES})",
    )
    command.add_argument(
        "--key-interval",
        type=int,
        default=KEY_INTERVAL,
        metavar="N",
        help=f"most segments from one that is coded alone to the next (default: {KEY_INTERVAL})",
    )
    command.add_argument(
        "--seed", type=int, default=0, help="seed of everything random (default: 0)"
    )


def add_coding(group: Options, bits_group: Options | None = None) -> None:
    """Add the options of the papers' pipeline; the number of bits may exclude others."""
    (bits_group or group).add_argument(
        "--bits",
        type=int,
        metavar="N",
        help="quantise to N bits after the fit, instead of fitting for a rate",
    )
    group.add_argument(
        "--prune",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the layers' weights to set to zero",
    )
    group.add_argument(
        "--coder",
        choices=("range", "huffman"),
        default="range",
        help="entropy coder (default: range)",
    )


def check_seed(seed: int) -> None:
    """Raise SettingsError for a seed that torch does not take."""
    if not 0 <= seed <= MAX_SEED:
        raise SettingsError(f"seed must be in 0..{MAX_SEED}, got {seed}")
