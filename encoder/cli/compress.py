"""The command `compress`: write a fitted network at other file sizes."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.cli.evaluate import report
from encoder.cli.options import add_device
from encoder.common.atomic_file import replacing
from encoder.common.console import Commands
from encoder.common.progress import progress

if TYPE_CHECKING:
    from encoder.codec.extras import Extras
    from encoder.config import Budget
    from encoder.jobs.segment_encoder import SegmentEncoder

RUNG_START = 0.3
"""Progress of the schedule at which the fit to another size starts."""


def add(commands: Commands) -> None:
    """Add the command."""
    compress = commands.add(
        "compress",
        _compress,
        summary="write a fitted network at other file sizes",
        example="python -m encoder compress bunny.safetensors --bits-per-pixel 0.05 0.1 0.2",
    )
    compress.add_argument("checkpoint", type=Path, help="file that `fit --checkpoint` wrote")
    compress.add_argument(
        "--bits-per-pixel",
        type=float,
        nargs="+",
        required=True,
        metavar="X",
        help="size of each file, in bits per pixel",
    )
    compress.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="CLIP",
        help="file to write; the size is added to its name (default: the checkpoint's name, .nerv)",
    )
    compress.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="time for each size (default: half of the fit's)",
    )
    compress.add_argument(
        "--source", type=Path, metavar="VIDEO", help="the video, if it has moved since the fit"
    )
    add_device(compress)


def _compress(args: argparse.Namespace) -> None:
    from encoder.config import Budget, FitConfig
    from encoder.jobs.checkpoint import Checkpoint
    from encoder.jobs.job import extras_of, masked, open_encoder, plan_of
    from encoder.media.source import Source
    from encoder.presets import find_preset
    from encoder.training.device import pick_device

    for rate in args.bits_per_pixel:
        FitConfig(bits_per_pixel=rate)  # a wrong rate is an error before anything is read
    kept, states = Checkpoint.load(args.checkpoint)
    sizeless = dict.fromkeys(("lambda_", "file_size", "bitrate", "psnr", "bits"))
    unlimited = replace(kept.config, **sizeless, prune=0.0, coder="range")
    configs = {rate: replace(unlimited, bits_per_pixel=rate) for rate in args.bits_per_pixel}
    budget = Budget(seconds=kept.seconds / 2 if args.budget is None else args.budget)
    output = args.output or args.checkpoint.with_suffix(".nerv")
    path = args.source or Path(kept.source)
    source = Source(path, size=kept.size, reading=kept.config.reading)
    preset = find_preset(unlimited.preset)
    plan = plan_of(masked(source, unlimited), unlimited, preset)
    extras = extras_of(source, unlimited, plan)
    # All encoders are made before the first fit, so that wrong rates are errors at once.
    encoders = {
        rate: open_encoder(
            source,
            config,
            device=pick_device(args.device),
            plan=plan,
            extras=extras,
            settings=config.text(source, after=f" after {kept.seconds:.0f} s"),
            states=states,
        )
        for rate, config in configs.items()
    }
    for rate, encoder in encoders.items():
        path = output.with_stem(f"{output.stem}-{rate:g}bpp")
        write_rung(encoder, budget, extras, path)
        report(path, source, configs[rate].target_bytes(source))


def write_rung(encoder: "SegmentEncoder", budget: "Budget", extras: "Extras", path: Path) -> None:
    """Continue the fit of an encoder's states at another size, and write the clip."""
    segments = len(encoder.plan.runs)
    with replacing(path) as part, progress("fitting") as update:
        for step in encoder.run(budget, start=RUNG_START):
            quality = f"{step.psnr_db:.2f} dB in training"
            update(step.done, f"segment {step.segment + 1}/{segments}, {quality}")
        part.write_bytes(bytes(replace(encoder.clip(), extras=extras)))
