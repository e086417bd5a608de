"""Fit a neural network to a video, write it as a bitstream, and measure what was written."""

import argparse
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from encoder import cli_compare, cli_models
from encoder.cli_common import SAMPLE, add_coding, add_device, add_fit, check_seed
from encoder.codec.clip import Clip
from encoder.codec.console import Commands, progress, replacing, show
from encoder.codec.container import VERSION

if TYPE_CHECKING:
    import torch

    from encoder.checkpoint import Checkpoint, State
    from encoder.compression import Compression
    from encoder.encode import Encoder
    from encoder.evaluate import Evaluation, FrameQuality
    from encoder.fit import Limit
    from encoder.target import Target
    from encoder.video import Video

SAMPLE_OUTPUT = "bunny.nerv"
BUDGET_SECONDS = 120.0
SIZE_TOLERANCE = 0.03
"""How far a file may be from the size that was asked for, as a share, without a warning."""
RUNG_START = 0.3
"""Share of the schedule at which a rung of a ladder goes on with the fitted network."""

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code."""
    commands = Commands("encoder", __doc__, install="nervcast[encoder]")
    _add_fit(commands)
    _add_compress(commands)
    info = commands.add("info", _info, summary="show what a clip holds", example="python -m encoder info bunny.nerv --json")
    evaluate = commands.add(
        "evaluate",
        _evaluate,
        summary="measure a clip against its source: quality of every decoded frame, size of the file",
        example="python -m encoder evaluate bunny.nerv encoder/data/bunny_720p.mp4 --json",
    )
    cli_models.add(commands)
    cli_compare.add(commands)
    for command in (info, evaluate):
        command.add_argument("clip", type=Path, help="a .nerv file")
        command.add_argument("--json", action="store_true", help="print one JSON object")
    evaluate.add_argument("source", type=Path, help="the video or folder that the clip was fitted to")
    evaluate.add_argument("--mask", type=Path, metavar="PATH", help="also measure what was masked in the fit")
    return commands.main(argv)


def _add_fit(commands: Commands) -> None:
    fit = commands.add(
        "fit",
        _fit,
        summary="fit a network to a video and write it as a clip",
        example="python -m encoder fit encoder/data/bunny_720p.mp4 -o bunny.nerv --resize 320x180 --budget 120",
    )
    fit.add_argument("video", nargs="?", type=Path, help="video file or folder of images (default: the bundled sample)")
    fit.add_argument("-o", "--output", type=Path, metavar="CLIP", help="file to write (default: the video's name, .nerv)")
    fit.add_argument("--preset", default="fast", metavar="NAME", help="network and recipe, see `models` (default: fast)")
    fit.add_argument("--size", choices=("XS", "S", "M", "L"), default="S", help="size of the network (default: S)")
    fit.add_argument(
        "--resize",
        metavar="WxH",
        help="frame size, or 'source' for the video's own (default: the video's shape with at most 320x180 pixels)",
    )
    add_fit(fit, budget_seconds=BUDGET_SECONDS)
    add_device(fit)
    fit.add_argument(
        "--mask", type=Path, metavar="PATH", help="picture, or folder or video of one for each frame: white is not fitted to"
    )
    _add_size(fit)
    fit.add_argument("--checkpoint", type=Path, metavar="FILE", help="also write what `compress` needs")


def _add_compress(commands: Commands) -> None:
    compress = commands.add(
        "compress",
        _compress,
        summary="write a fitted network again, at other sizes",
        example="python -m encoder compress bunny.safetensors --bits-per-pixel 0.05 0.1 0.2",
    )
    compress.add_argument("checkpoint", type=Path, help="what `fit --checkpoint` wrote")
    compress.add_argument(
        "--bits-per-pixel", type=float, nargs="+", required=True, metavar="X", help="size of each file, in bits per pixel"
    )
    compress.add_argument(
        "-o", "--output", type=Path, metavar="CLIP", help="file to write, with the rate in its name (default: the checkpoint's)"
    )
    compress.add_argument("--budget", type=float, metavar="SECONDS", help="time for each size (default: half of the fit's)")
    compress.add_argument("--source", type=Path, metavar="VIDEO", help="the video, if it is no longer where it was")
    add_device(compress)


def _add_size(fit: argparse.ArgumentParser) -> None:
    group = fit.add_argument_group("size")
    size = group.add_mutually_exclusive_group()
    size.add_argument("--rate", type=float, metavar="LAMBDA", help="weight of a bit per pixel (default: the preset's)")
    size.add_argument("--bits-per-pixel", type=float, metavar="X", help="size of the file, in bits per pixel")
    size.add_argument("--file-size", metavar="BYTES", help="size of the file, like 200kB")
    size.add_argument("--bitrate", metavar="BITS", help="size of the file, in bits per second of video, like 500k")
    add_coding(group, size)


def _fit(args: argparse.Namespace) -> None:
    # torch takes seconds to import, which help need not wait for.
    from encoder.checkpoint import Checkpoint
    from encoder.compression import Compression
    from encoder.encode import pick_device
    from encoder.fit import Limit
    from encoder.presets import find_preset
    from encoder.video import parse_size, read_video

    check_seed(args.seed)
    find_preset(args.preset)  # before the video is read
    keep_size = args.resize == "source"
    size = None if keep_size or args.resize is None else parse_size(args.resize)
    budget = BUDGET_SECONDS if args.budget is None and args.epochs is None else args.budget
    limit = Limit(seconds=budget, epochs=args.epochs)
    device = pick_device(args.device)
    compression = Compression(rate_weight=args.rate, bits=args.bits, prune=args.prune, coder=args.coder)
    target = _target(args)
    source = args.video or SAMPLE
    output = args.output or Path(f"{args.video.resolve().stem}.nerv" if args.video else SAMPLE_OUTPUT)
    with contextlib.ExitStack() as stack:
        part = stack.enter_context(replacing(output))
        checkpoint = stack.enter_context(replacing(args.checkpoint)) if args.checkpoint else None
        video = read_video(source, size=size, keep_size=keep_size)
        frames, _, height, width = video.frames.shape
        if target:
            compression = replace(compression, file_bytes=target(video))
        how = Checkpoint(
            source=str(source.resolve()),
            width=width,
            height=height,
            preset=args.preset,
            size=args.size,
            mask=str(args.mask.resolve()) if args.mask else None,
            segment_frames=args.segment_frames,
            seed=args.seed,
            seconds=0.0,
        )
        options = _limit_text(limit) + _rate_text(args)
        keep_states = args.checkpoint is not None
        encoder = _encoder(how, video, compression, device=device, options=options, keep_states=keep_states)
        logger.info("fitting %d frames of %dx%d on %s", frames, width, height, device)
        began = time.perf_counter()
        _run(encoder, limit, part)
        if checkpoint:
            replace(how, seconds=time.perf_counter() - began).save(checkpoint, encoder.states)
    _report(output, video, compression.file_bytes)


def _compress(args: argparse.Namespace) -> None:
    from encoder.checkpoint import Checkpoint
    from encoder.compression import Compression
    from encoder.encode import pick_device
    from encoder.fit import Limit
    from encoder.target import bits_per_pixel
    from encoder.video import read_video

    targets = {rate: bits_per_pixel(rate) for rate in args.bits_per_pixel}
    how, states = Checkpoint.load(args.checkpoint)
    limit = Limit(seconds=how.seconds / 2 if args.budget is None else args.budget)
    device = pick_device(args.device)
    output = args.output or args.checkpoint.with_suffix(".nerv")
    video = read_video(args.source or Path(how.source), size=(how.width, how.height))
    encoders: dict[float, Encoder] = {}  # all of them before the first fit, so that wrong rates are told at once
    for rate, target in targets.items():
        compression = Compression(file_bytes=target(video))
        options = f" --bits-per-pixel {rate:g} after {how.seconds:.0f} s"
        encoders[rate] = _encoder(how, video, compression, device=device, options=options, states=states)
    for rate, encoder in encoders.items():
        path = output.with_stem(f"{output.stem}-{rate:g}bpp")
        with replacing(path) as part:
            _run(encoder, limit, part, start=RUNG_START)
        _report(path, video, targets[rate](video))


def _encoder(
    how: "Checkpoint",
    video: "Video",
    compression: "Compression",
    *,
    device: "torch.device",
    options: str,
    states: "Sequence[State] | None" = None,
    keep_states: bool = False,
) -> "Encoder":
    from encoder.encode import Encoder
    from encoder.mask import read_mask
    from encoder.presets import find_preset

    mask = f" --mask {Path(how.mask).name}" if how.mask else ""
    common = f"--preset {how.preset} --size {how.size} --resize {how.width}x{how.height}{mask}"
    return Encoder(
        video,
        find_preset(how.preset),
        compression,
        size=how.size,
        segment_frames=how.segment_frames,
        device=device,
        settings=f"{common}{options} --segment-frames {how.segment_frames} --seed {how.seed}",
        seed=how.seed,
        states=states,
        keep_states=keep_states,
        mask=read_mask(Path(how.mask), video) if how.mask else None,
    )


def _target(args: argparse.Namespace) -> "Target | None":
    from encoder import target

    if args.bits_per_pixel is not None:
        return target.bits_per_pixel(args.bits_per_pixel)
    if args.file_size is not None:
        return target.file_size(args.file_size)
    return None if args.bitrate is None else target.bitrate(args.bitrate)


def _rate_text(args: argparse.Namespace) -> str:
    options = ("rate", "bits_per_pixel", "file_size", "bitrate", "bits", "prune", "coder")
    given = {name: value for name in options if (value := getattr(args, name)) not in (None, 0.0, "range")}
    return "".join(f" --{name.replace('_', '-')} {value}" for name, value in given.items())


def _run(encoder: "Encoder", limit: "Limit", path: Path, *, start: float = 0.0) -> None:
    """Fit, and write the clip."""
    with progress("fitting") as update:
        for step in encoder.run(limit, start=start):
            update(step.done, f"segment {step.segment + 1}/{len(encoder.runs)}, {step.psnr_db:.2f} dB in training")
    path.write_bytes(bytes(encoder.clip()))


def _report(path: Path, video: "Video", wanted_bytes: int | None) -> None:
    result = _measure(path, video)
    similarity = "" if result.ms_ssim is None else f", MS-SSIM {result.ms_ssim:.4f}"
    cost = f"{result.file_bytes} bytes, {result.bits_per_pixel:.4f} bits per pixel"
    logger.info("%s: %.2f dB%s in %s", path, result.psnr_db, similarity, cost)
    if wanted_bytes and abs(result.file_bytes / wanted_bytes - 1) > SIZE_TOLERANCE:
        logger.warning("that is not the size of %d bytes that was asked for; a larger budget may reach it", wanted_bytes)


def _limit_text(limit: "Limit") -> str:
    return f" --budget {limit.seconds:g}" if limit.seconds is not None else f" --epochs {limit.epochs}"


def _info(args: argparse.Namespace) -> None:
    clip = Clip.read(args.clip, strict=False)
    header = clip.header
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
            "key_segments": sum(segment.is_key for segment in clip.segments),
            "damage": "; ".join(clip.damage),
            "weights": clip.topology.weights * len(clip.segments),
            "file_bytes": size,
            "topology_bytes": len(clip.topology.packed),
            "bits_per_pixel": 8 * size / header.pixels,
            "bits_per_weight": clip.bits_per_weight,
            "settings": header.settings,
        },
        as_json=args.json,
    )


def _evaluate(args: argparse.Namespace) -> None:
    from encoder.video import read_video

    header = Clip.read(args.clip).header
    video = read_video(args.source, size=(header.width, header.height))
    show(asdict(_measure(args.clip, video, args.mask)), as_json=args.json)


def _measure(path: Path, video: "Video", mask_path: Path | None = None) -> "Evaluation":
    from encoder.evaluate import evaluation, qualities
    from encoder.mask import read_mask

    clip = Clip.read(path)
    frames: list[FrameQuality] = []
    with progress("measuring", total=clip.header.frames) as update:
        for quality in qualities(clip, video, read_mask(mask_path, video) if mask_path else None):
            frames.append(quality)
            update(len(frames))
    return evaluation(path, clip, frames)
