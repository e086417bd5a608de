"""Commands about models: `models` lists the presets, `import` reads published checkpoints."""

import argparse
from fractions import Fraction
from pathlib import Path

from encoder.codec.container import MAX_DENOMINATOR, MAX_RATE
from encoder.common.atomic_file import replacing
from encoder.common.console import Commands, show_table
from encoder.common.errors import SettingsError

FRAME_SIZE = "1280x720"
FRAMES = 132
"""Frames of Bunny; the papers size networks with feature maps per frame by it."""


def add(commands: Commands) -> None:
    """Add the commands."""
    models = commands.add(
        "models",
        _models,
        summary="list every preset and size: parameters and multiplications",
        example="python -m encoder models --resize 320x180",
    )
    models.add_argument(
        "--resize", metavar="WxH", default=FRAME_SIZE, help=f"frame size (default: {FRAME_SIZE})"
    )
    models.add_argument(
        "--frames",
        type=int,
        metavar="N",
        default=FRAMES,
        help=f"frames of a segment (default: {FRAMES})",
    )
    models.add_argument("--json", action="store_true", help="print one JSON list")
    read = commands.add(
        "import",
        _import,
        summary="convert a published checkpoint to a clip",
        example="python -m encoder import hnerv quant_vid.pth -o bunny.nerv",
    )
    read.add_argument("kind", choices=("hnerv",), help="kind of checkpoint: HNeRV's quantized one")
    read.add_argument("checkpoint", type=Path)
    read.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="CLIP",
        help="file to write (default: the checkpoint's name, .nerv)",
    )
    read.add_argument(
        "--fps",
        type=float,
        default=25.0,
        help="frames per second, which the checkpoint lacks (default: 25)",
    )


def _models(args: argparse.Namespace) -> None:
    from encoder.config import SIZES
    from encoder.media.size import parse_size
    from encoder.models.base import VideoShape
    from encoder.presets import PRESETS, complexity

    width, height = parse_size(args.resize)
    if args.frames < 1:
        raise SettingsError(f"a segment needs at least 1 frame, got {args.frames}")
    rows: list[dict[str, object]] = []
    for name, preset in PRESETS.items():
        shape = VideoShape(height=height, width=width, frames=preset.group_frames or args.frames)
        for size in SIZES:
            found = complexity(preset, size, shape)
            figures = {
                "parameters": found.parameters,
                "macs_per_pixel": round(found.macs_per_pixel, 1),
            }
            title = {} if args.json else {"title": preset.title}
            rows.append({"preset": name, "size": size, **figures, **title})
    show_table(rows, as_json=args.json)


def _import(args: argparse.Namespace) -> None:
    from encoder.importers.hnerv import read_hnerv

    if not 0 < args.fps <= MAX_RATE:
        raise SettingsError(f"fps must be over 0 and at most {MAX_RATE}, got {args.fps:g}")
    rate = Fraction(args.fps).limit_denominator(MAX_DENOMINATOR)
    with replacing(args.output or args.checkpoint.with_suffix(".nerv")) as part:
        part.write_bytes(
            bytes(
                read_hnerv(
                    args.checkpoint,
                    rate=rate,
                    settings=f"import {args.kind} {args.checkpoint.name}",
                )
            )
        )
