"""The command `fit`: fit a network to a video and write it as a clip."""

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.cli.evaluate import report
from encoder.cli.options import SAMPLE, add_coding, add_device, add_fit, check_seed
from encoder.common.atomic_file import writable
from encoder.common.console import Commands
from encoder.common.errors import SettingsError
from encoder.common.progress import progress
from encoder.media.reading import STANDARD_INPUT, add_reading, reading, source_file

if TYPE_CHECKING:
    from encoder.config import Budget, Compression, Target
    from encoder.jobs.checkpoint import Checkpoint
    from encoder.jobs.job import Job
    from encoder.jobs.scheduler import WorkerBackend
    from encoder.jobs.segment_encoder import DeviceName
    from encoder.media.source import Source

SAMPLE_OUTPUT = "bunny.nerv"
BUDGET_SECONDS = 120.0
"""Time for the frames of a segment, by default."""
SAVE_SECONDS = 60.0
MAX_WORKERS = 1024

logger = logging.getLogger(__name__)


def add(commands: Commands) -> None:
    """Add the command."""
    fit = commands.add(
        "fit",
        _fit,
        summary="fit a network to a video and write it as a clip",
        example="python -m encoder fit encoder/data/bunny_720p.mp4 -o bunny.nerv --resize 320x180 --budget 120",
    )
    fit.add_argument(
        "video",
        nargs="?",
        type=Path,
        help="video file, folder of images, pipe, or - for standard input, like Y4M of ffmpeg (default: the bundled sample)",
    )
    fit.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="CLIP",
        help="file to write (default: the video's name, .nerv)",
    )
    fit.add_argument(
        "--preset",
        default="fast",
        metavar="NAME",
        help="network and recipe, see `models` (default: fast)",
    )
    fit.add_argument(
        "--size",
        choices=("XS", "S", "M", "L"),
        default="S",
        help="size of the network (default: S)",
    )
    fit.add_argument(
        "--resize",
        metavar="WxH",
        help="frame size, or 'source' for the video's own (default: the shape it is shown in, with at most 320x180 pixels)",
    )
    add_reading(fit)
    add_fit(fit, budget=f"{BUDGET_SECONDS:g} for as many frames as a segment may have")
    add_device(fit)
    fit.add_argument(
        "--mask",
        type=Path,
        metavar="PATH",
        help="picture, or folder or video of one for each frame: white is not fitted to",
    )
    fit.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="also write what `compress` needs"
    )
    _add_size(fit)
    long = fit.add_argument_group("long videos")
    long.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="how many fit side by side (default: 1, or all of a cluster)",
    )
    long.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="fit on a Ray cluster: its address, or auto for this machine's",
    )
    long.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of each, on which the bytes depend (default: a share of the cores; 1 on a cluster)",
    )
    long.add_argument(
        "--resume",
        action="store_true",
        help="go on where an interrupted run of the same settings stopped",
    )
    long.add_argument(
        "--save-every",
        type=float,
        default=SAVE_SECONDS,
        metavar="SECONDS",
        help=f"time between two states that --resume goes on from (default: {SAVE_SECONDS:g})",
    )


def _add_size(fit: argparse.ArgumentParser) -> None:
    group = fit.add_argument_group("size")
    size = group.add_mutually_exclusive_group()
    size.add_argument(
        "--rate",
        type=float,
        metavar="LAMBDA",
        help="weight of a bit per pixel (default: the preset's)",
    )
    size.add_argument(
        "--bits-per-pixel", type=float, metavar="X", help="size of the file, in bits per pixel"
    )
    size.add_argument("--file-size", metavar="BYTES", help="size of the file, like 200kB")
    size.add_argument(
        "--bitrate", metavar="BITS", help="size of the file, in bits per second of video, like 500k"
    )
    add_coding(group, size)


def _fit(args: argparse.Namespace) -> None:
    # torch takes seconds to import, which help need not wait for.
    from encoder.config import Budget
    from encoder.media.source import Source
    from encoder.media.video import parse_size
    from encoder.presets import find_preset

    check_seed(args.seed)
    _check_workers(args)
    find_preset(args.preset)  # before the video is read
    keep_size = args.resize == "source"
    size = None if keep_size or args.resize is None else parse_size(args.resize)
    limit = (
        None
        if args.budget is None and args.epochs is None
        else Budget(seconds=args.budget, epochs=args.epochs)
    )
    video = args.video or SAMPLE
    output = _output(args)
    writable(output, video, args.mask, args.checkpoint)
    if args.checkpoint:
        writable(args.checkpoint, video, args.mask)
    with source_file(video, copy=output.with_name(f".{output.name}.source")) as path:
        _fit_source(
            args, Source(path, size=size, keep_size=keep_size, reading=reading(args)), output, limit
        )


def _output(args: argparse.Namespace) -> Path:
    if args.output is None and args.video == STANDARD_INPUT:
        raise SettingsError("name the clip that is made of standard input: -o CLIP")
    return args.output or Path(f"{args.video.resolve().stem}.nerv" if args.video else SAMPLE_OUTPUT)


def _fit_source(
    args: argparse.Namespace, source: "Source", output: Path, limit: "Budget | None"
) -> None:
    from encoder.jobs.runner import Run, run_job

    compression = _compression(args)
    target = _target(args)
    began = time.perf_counter()
    if target:
        compression = replace(compression, file_bytes=target(source))
    how = _how(args, source)
    crew = _crew(args)
    try:
        run = Run(
            output=output,
            crew=crew,
            workers=args.workers,
            resume=args.resume,
            save_seconds=args.save_every,
            checkpoint=args.checkpoint,
            notes=source.notes(),
        )
        run_job(_job(args, how, source, compression, limit, device=_device(args, crew)), how, run)
    finally:
        if crew is not None:
            crew.close()
    logger.info("fitted in %.1f s", time.perf_counter() - began)
    report(output, source, compression.file_bytes)


def _how(args: argparse.Namespace, source: "Source") -> "Checkpoint":
    from encoder.jobs.checkpoint import Checkpoint

    width, height = source.size
    return Checkpoint(
        source=str(source.path.resolve()),
        width=width,
        height=height,
        preset=args.preset,
        size=args.size,
        mask=str(args.mask.resolve()) if args.mask else None,
        segment_frames=args.segment_frames,
        key_interval=args.key_interval,
        seed=args.seed,
        seconds=0.0,
        track=args.track,
        matrix=args.matrix,
        background=args.background,
    )


def _job(
    args: argparse.Namespace,
    how: "Checkpoint",
    source: "Source",
    compression: "Compression",
    limit: "Budget | None",
    *,
    device: "DeviceName",
) -> "Job":
    from encoder.config import Budget
    from encoder.jobs.job import Job
    from encoder.presets import find_preset
    from encoder.segmentation.mask import read_mask
    from encoder.segmentation.plan import make_plan

    frames = read_mask(args.mask, source) if args.mask else source
    preset = find_preset(args.preset)
    lengths = {"segment_frames": args.segment_frames, "key_interval": args.key_interval}
    with progress("looking for scenes") as update:
        plan = make_plan(frames, preset, size=args.size, **lengths, show=update)
    limit = limit or Budget(seconds=BUDGET_SECONDS * max(source.count / args.segment_frames, 1.0))
    return Job(
        source=Path(how.source),
        width=how.width,
        height=how.height,
        mask=None if how.mask is None else Path(how.mask),
        preset=args.preset,
        size=args.size,
        compression=compression,
        plan=plan,
        limit=limit,
        device=device,
        seed=args.seed,
        threads=args.threads or _threads(args, len(plan.groups)),
        settings=how.settings(_limit_text(limit) + _rate_text(args)) + source.assumption,
        reading=how.reading,
        keep_states=args.checkpoint is not None,
    )


def _threads(args: argparse.Namespace, groups: int) -> int:
    """Return how many threads a worker has, unless the user says so."""
    import torch

    if args.cluster is not None:
        return 1
    return max(torch.get_num_threads() // min(args.workers or 1, groups), 1)


def _check_workers(args: argparse.Namespace) -> None:
    """Raise SettingsError for numbers out of range."""
    if args.workers is not None and not 1 <= args.workers <= MAX_WORKERS:
        raise SettingsError(
            f"the number of workers must be in 1..{MAX_WORKERS}, got {args.workers}"
        )
    if args.threads is not None and not 1 <= args.threads <= MAX_WORKERS:
        raise SettingsError(
            f"the number of threads must be in 1..{MAX_WORKERS}, got {args.threads}"
        )
    if not args.save_every > 0:
        raise SettingsError(
            f"the time between two states must be over 0 seconds, got {args.save_every:g}"
        )


def _crew(args: argparse.Namespace) -> "WorkerBackend | None":
    """Return where workers come from; None if this process shall do it."""
    if args.cluster is not None:
        try:
            from encoder.jobs.ray_workers import RayWorkers
        except ModuleNotFoundError:
            raise SettingsError("--cluster needs Ray: pip install 'nervcast[cluster]'") from None
        return RayWorkers(args.cluster)
    if args.workers is None or args.workers == 1:
        return None
    from encoder.jobs.local_workers import LocalWorkers

    return LocalWorkers()


def _device(args: argparse.Namespace, crew: "WorkerBackend | None") -> "DeviceName":
    """Return where the fits run; raises SettingsError where there is no GPU but one is wanted."""
    from encoder.jobs.segment_encoder import pick_device

    if crew is None or crew.gpus is None:
        return "cuda" if pick_device(args.device).type == "cuda" else "cpu"
    if args.device == "cuda" and not crew.gpus:
        raise SettingsError("no GPU in the cluster: use --device cpu")
    return "cuda" if crew.gpus and args.device != "cpu" else "cpu"


def _compression(args: argparse.Namespace) -> "Compression":
    from encoder.config import Compression

    return Compression(rate_weight=args.rate, bits=args.bits, prune=args.prune, coder=args.coder)


def _target(args: argparse.Namespace) -> "Target | None":
    from encoder import config

    if args.bits_per_pixel is not None:
        return config.bits_per_pixel(args.bits_per_pixel)
    if args.file_size is not None:
        return config.file_size(args.file_size)
    return None if args.bitrate is None else config.bitrate(args.bitrate)


def _rate_text(args: argparse.Namespace) -> str:
    options = ("rate", "bits_per_pixel", "file_size", "bitrate", "bits", "prune", "coder")
    given = {
        name: value
        for name in options
        if (value := getattr(args, name)) not in (None, 0.0, "range")
    }
    return "".join(f" --{name.replace('_', '-')} {value}" for name, value in given.items())


def _limit_text(limit: "Budget") -> str:
    return (
        f" --budget {limit.seconds:g}" if limit.seconds is not None else f" --epochs {limit.epochs}"
    )
