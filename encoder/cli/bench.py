"""The command `bench`: measure the speed of a fit on this machine."""

import argparse
import os
from dataclasses import asdict

from encoder.cli.options import add_device
from encoder.common.console import Commands, show, show_table
from encoder.common.errors import SettingsError
from encoder.common.flags import add_flags
from encoder.config import SIZES, FitConfig

FRAME_SIZE = "320x180"


def add(commands: Commands) -> None:
    """Add the command."""
    bench = commands.add(
        "bench",
        _bench,
        summary="measure the speed of a fit, and its share of the machine's peak arithmetic",
        example="python -m encoder bench --resize 320x180 --json",
    )
    bench.add_argument(
        "--preset",
        default="fast",
        metavar="NAME",
        help="network and recipe, see `models` (default: fast)",
    )
    bench.add_argument(
        "--size",
        choices=SIZES,
        default="S",
        help="size of the network (default: S)",
    )
    bench.add_argument(
        "--resize", metavar="WxH", default=FRAME_SIZE, help=f"frame size (default: {FRAME_SIZE})"
    )
    add_flags(bench, FitConfig, ("precision",))
    add_device(bench)
    bench.add_argument(
        "--profile",
        action="store_true",
        help="print where the time of a step goes, and the least that each part could take (CPUs)",
    )
    bench.add_argument("--json", action="store_true", help="print one JSON object")


def _bench(args: argparse.Namespace) -> None:
    # Before torch is imported: its profiler would tell of each start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from encoder.compare.benchmark import bench, profiled
    from encoder.media.size import parse_size
    from encoder.presets import find_preset
    from encoder.training.device import pick_device

    width, height = parse_size(args.resize)
    device = pick_device(args.device)
    if args.profile:
        if device.type != "cpu":
            raise SettingsError("--profile is for CPUs: add --device cpu")
        parts = profiled(
            find_preset(args.preset),
            args.size,
            height=height,
            width=width,
            precision=args.precision,
        )
        show_table([asdict(part) for part in parts], as_json=args.json)
        return
    show(
        asdict(
            bench(
                find_preset(args.preset),
                args.size,
                height=height,
                width=width,
                device=device,
                precision=args.precision,
            )
        ),
        as_json=args.json,
    )
