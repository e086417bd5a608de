"""The command `compress`: write a fitted network again, at other sizes."""

import argparse
from pathlib import Path

from encoder.cli.evaluate import report
from encoder.cli.options import add_device
from encoder.common.atomic_file import replacing
from encoder.common.console import Commands
from encoder.common.progress import progress

RUNG_START = 0.3
"""Share of the schedule at which a rung of a ladder goes on with the fitted network."""


def add(commands: Commands) -> None:
    """Add the command."""
    compress = commands.add(
        "compress",
        _compress,
        summary="write a fitted network again, at other sizes",
        example="python -m encoder compress bunny.safetensors --bits-per-pixel 0.05 0.1 0.2",
    )
    compress.add_argument("checkpoint", type=Path, help="what `fit --checkpoint` wrote")
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
        help="file to write, with the rate in its name (default: the checkpoint's)",
    )
    compress.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="time for each size (default: half of the fit's)",
    )
    compress.add_argument(
        "--source", type=Path, metavar="VIDEO", help="the video, if it is no longer where it was"
    )
    add_device(compress)


def _compress(args: argparse.Namespace) -> None:
    from encoder.config import Budget, Compression, bits_per_pixel
    from encoder.jobs.checkpoint import Checkpoint
    from encoder.jobs.segment_encoder import SegmentEncoder, pick_device
    from encoder.media.source import Source
    from encoder.presets import find_preset
    from encoder.segmentation.mask import read_mask
    from encoder.segmentation.plan import make_plan

    targets = {rate: bits_per_pixel(rate) for rate in args.bits_per_pixel}
    how, states = Checkpoint.load(args.checkpoint)
    limit = Budget(seconds=how.seconds / 2 if args.budget is None else args.budget)
    output = args.output or args.checkpoint.with_suffix(".nerv")
    source = Source(
        args.source or Path(how.source), size=(how.width, how.height), reading=how.reading
    )
    frames = read_mask(Path(how.mask), source) if how.mask else source
    preset = find_preset(how.preset)
    plan = make_plan(
        frames,
        preset,
        size=how.size,
        segment_frames=how.segment_frames,
        key_interval=how.key_interval,
    )
    encoders: dict[
        float, SegmentEncoder
    ] = {}  # all of them before the first fit, so that wrong rates are told at once
    for rate, target in targets.items():
        encoders[rate] = SegmentEncoder(
            frames,
            preset,
            Compression(file_bytes=target(source)),
            plan=plan,
            size=how.size,
            device=pick_device(args.device),
            settings=how.settings(f" --bits-per-pixel {rate:g} after {how.seconds:.0f} s")
            + source.assumption,
            seed=how.seed,
            states=states,
        )
    for rate, encoder in encoders.items():
        path = output.with_stem(f"{output.stem}-{rate:g}bpp")
        with replacing(path) as part, progress("fitting") as update:
            for step in encoder.run(limit, start=RUNG_START):
                update(
                    step.done,
                    f"segment {step.segment + 1}/{len(plan.runs)}, {step.psnr_db:.2f} dB in training",
                )
            part.write_bytes(bytes(encoder.clip()))
        report(path, source, targets[rate](source))
