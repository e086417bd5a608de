"""Options that the commands share, and their values."""

import argparse
import os
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from encoder.common.quantities import parse_quantity
from export.engines.names import DEFAULT_BATCH, ENGINE_NAMES

if TYPE_CHECKING:
    from encoder.codec.clip import Clip
    from export.engines.base import Engine
    from player.rtc.ice import Ice

MIN_BITRATE = 50_000
MAX_BITRATE = 100_000_000
TOKEN = "NERVCAST_TOKEN"  # noqa: S105 (a name)
"""Environment variable for a token: other users of the machine can see a command's arguments."""


def add_stream_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the commands that stream."""
    command.add_argument(
        "--bitrate",
        type=_bitrate,
        metavar="BITS",
        help="bits per second of each encode, like 800k or 2.5M "
        "(default: by size and rate, 1M for 640x360 at 30 fps)",
    )
    command.add_argument(
        "--stun",
        metavar="URL",
        help="STUN server for viewers behind NAT, like stun:example.org:3478",
    )
    command.add_argument(
        "--turn", metavar="URL", help="TURN server, like turn:USER:PASSWORD@example.org:3478"
    )
    command.add_argument("--log-json", action="store_true", help="log JSON, an object a line")


def add_engine_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the engine."""
    command.add_argument(
        "--engine",
        default="auto",
        help=f"{', '.join(ENGINE_NAMES)}, or auto: the fastest here, "
        "which is measured once (default: auto)",
    )
    command.add_argument(
        "--batch",
        type=int,
        default=DEFAULT_BATCH,
        metavar="N",
        help=f"frames per call (default: {DEFAULT_BATCH})",
    )


def engine_opener(args: argparse.Namespace) -> "Callable[[Clip, Collection[str]], Engine]":
    """Return a function that opens the chosen engine for a clip, but none that has failed."""
    from export.engines.registry import open_engine

    return lambda clip, failed: open_engine(clip, args.engine, batch=args.batch, failed=failed)


def ice_of(args: argparse.Namespace) -> "Ice":
    """Return the settings of the network; raises SettingsError."""
    from player.rtc.ice import Ice

    return Ice.parse(args.stun, args.turn, getattr(args, "public_ip", None))


def set_log_format(args: argparse.Namespace) -> None:
    """Log JSON if it is asked for."""
    from player.json_log import log_json

    if args.log_json:
        log_json()


def token_of(given: str | None, variable: str) -> str | None:
    """Return a given token, or else the environment's.

    An empty argument, such as an unset variable of a shell, is a token, and so an error later.
    """
    return os.environ.get(variable) if given is None else given


def _bitrate(text: str) -> int:
    bitrate = parse_quantity(text)
    if not MIN_BITRATE <= bitrate <= MAX_BITRATE:
        raise argparse.ArgumentTypeError(f"not bits per second in 50k..100M: {text!r}")
    return round(bitrate)
