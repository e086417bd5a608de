"""Fit a neural network to a video, write it as a bitstream, and measure what was written."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.codec.clip import Clip
from encoder.codec.console import Commands, progress, replacing, show
from encoder.codec.container import VERSION
from encoder.codec.errors import SettingsError

if TYPE_CHECKING:
    from encoder.evaluate import Evaluation, FrameQuality
    from encoder.fit import Limit
    from encoder.video import Video

SAMPLE = Path(__file__).parent / "data" / "bunny_720p.mp4"
"""What `fit` takes when nothing is named."""
SAMPLE_OUTPUT = "bunny.nerv"
BUDGET_SECONDS = 120.0
SEGMENT_FRAMES = 150
MAX_SEED = 2**63 - 1

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code."""
    commands = Commands("encoder", __doc__, install="nervcast[encoder]")
    fit = commands.add(
        "fit",
        _fit,
        summary="fit a network to a video and write it as a clip",
        example="python -m encoder fit encoder/data/bunny_720p.mp4 -o bunny.nerv --resize 320x180 --budget 120",
    )
    fit.add_argument("video", nargs="?", type=Path, help="video file or folder of images (default: the bundled sample)")
    fit.add_argument("-o", "--output", type=Path, metavar="CLIP", help="file to write (default: the video's name, .nerv)")
    fit.add_argument("--preset", default="fast", help="network and recipe: fast or nerv++ (default: fast)")
    fit.add_argument(
        "--resize",
        metavar="WxH",
        help="frame size, or 'source' for the video's own (default: the video's shape with at most 320x180 pixels)",
    )
    limit = fit.add_mutually_exclusive_group()
    limit.add_argument("--budget", type=float, metavar="SECONDS", help=f"time to fit (default: {BUDGET_SECONDS:g})")
    limit.add_argument("--epochs", type=int, help="passes over the frames, instead of a budget")
    fit.add_argument(
        "--segment-frames",
        type=int,
        default=SEGMENT_FRAMES,
        metavar="N",
        help=f"most frames that share a network (default: {SEGMENT_FRAMES})",
    )
    fit.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to fit (default: auto)")
    fit.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    info = commands.add("info", _info, summary="show what a clip holds", example="python -m encoder info bunny.nerv --json")
    evaluate = commands.add(
        "evaluate",
        _evaluate,
        summary="measure a clip against its source: quality of every decoded frame, size of the file",
        example="python -m encoder evaluate bunny.nerv encoder/data/bunny_720p.mp4 --json",
    )
    for command in (info, evaluate):
        command.add_argument("clip", type=Path, help="a .nerv file")
        command.add_argument("--json", action="store_true", help="print one JSON object")
    evaluate.add_argument("source", type=Path, help="the video or folder that the clip was fitted to")
    return commands.main(argv)


def _fit(args: argparse.Namespace) -> None:
    # torch takes seconds to import, which help need not wait for.
    import torch

    from encoder.encode import Encoder, pick_device
    from encoder.fit import Limit
    from encoder.presets import find_preset
    from encoder.video import parse_size, read_video

    if not 0 <= args.seed <= MAX_SEED:
        raise SettingsError(f"seed must be in 0..{MAX_SEED}, got {args.seed}")
    preset = find_preset(args.preset)
    keep_size = args.resize == "source"
    size = None if keep_size or args.resize is None else parse_size(args.resize)
    budget = BUDGET_SECONDS if args.budget is None and args.epochs is None else args.budget
    limit = Limit(seconds=budget, epochs=args.epochs)
    device = pick_device(args.device)
    output = args.output or Path(f"{args.video.resolve().stem}.nerv" if args.video else SAMPLE_OUTPUT)
    with replacing(output) as part:
        video = read_video(args.video or SAMPLE, size=size, keep_size=keep_size)
        frames, _, height, width = video.frames.shape
        torch.manual_seed(args.seed)
        encoder = Encoder(video, preset, segment_frames=args.segment_frames, device=device)
        logger.info("fitting %d frames of %dx%d on %s", frames, width, height, device)
        with progress("fitting") as update:
            for step in encoder.run(limit):
                update(step.done, f"segment {step.segment + 1}/{len(encoder.runs)}, {step.psnr_db:.2f} dB in training")
        settings = f"--preset {args.preset} --resize {width}x{height} {_limit_text(limit)}"
        part.write_bytes(bytes(encoder.clip(f"{settings} --segment-frames {args.segment_frames} --seed {args.seed}")))
    result = _measure(output, video)
    similarity = "" if result.ms_ssim is None else f", MS-SSIM {result.ms_ssim:.4f}"
    cost = f"{result.file_bytes} bytes, {result.bits_per_pixel:.4f} bits per pixel"
    logger.info("%s: %.2f dB%s in %s", output, result.psnr_db, similarity, cost)


def _limit_text(limit: "Limit") -> str:
    return f"--budget {limit.seconds:g}" if limit.seconds is not None else f"--epochs {limit.epochs}"


def _info(args: argparse.Namespace) -> None:
    clip = Clip.read(args.clip)
    header, weights = clip.header, clip.topology.weights * len(clip.segments)
    size = args.clip.stat().st_size
    show(
        {
            "version": VERSION,
            "width": header.width,
            "height": header.height,
            "frames": header.frames,
            "fps": float(header.rate),
            "duration_seconds": header.duration_seconds,
            "continuous": header.continuous,
            "segments": len(clip.segments),
            "weights": weights,
            "file_bytes": size,
            "topology_bytes": len(bytes(clip.topology)),
            "bits_per_pixel": 8 * size / header.pixels,
            "bits_per_weight": 8 * sum(len(bytes(segment)) for segment in clip.segments) / weights,
            "settings": header.settings,
        },
        as_json=args.json,
    )


def _evaluate(args: argparse.Namespace) -> None:
    from encoder.video import read_video

    header = Clip.read(args.clip).header
    video = read_video(args.source, size=(header.width, header.height))
    show(asdict(_measure(args.clip, video)), as_json=args.json)


def _measure(path: Path, video: "Video") -> "Evaluation":
    from encoder.evaluate import evaluation, qualities

    clip = Clip.read(path)
    frames: list[FrameQuality] = []
    with progress("measuring", total=clip.header.frames) as update:
        for quality in qualities(clip, video):
            frames.append(quality)
            update(len(frames))
    return evaluation(path, clip, frames)
