"""The command `fit`: fit a network to a video and write it as a clip."""

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.cli.evaluate import report
from encoder.cli.options import SAMPLE, add_device
from encoder.common.atomic_file import writable
from encoder.common.console import Commands
from encoder.common.errors import SettingsError
from encoder.common.flags import add_flags, from_flags
from encoder.common.progress import progress
from encoder.config import SEGMENT_SECONDS, FitConfig
from encoder.media.reading import STANDARD_INPUT, source_file

if TYPE_CHECKING:
    from encoder.config import DeviceName
    from encoder.jobs.job import Job
    from encoder.jobs.scheduler import WorkerBackend
    from encoder.media.source import Source

SAMPLE_OUTPUT = "bunny.nerv"
SAVE_SECONDS = 60.0
MAX_WORKERS = 1024

logger = logging.getLogger(__name__)


def add(commands: Commands) -> None:
    """Add the command."""
    fit = commands.add(
        "fit",
        _fit,
        summary="fit a network to a video and write it as a clip",
        example="python -m encoder fit encoder/data/bunny_720p.mp4 -o bunny.nerv "
        "--resize 320x180 --budget 120",
    )
    fit.add_argument(
        "video",
        nargs="?",
        type=Path,
        help="video file, folder of images, pipe, or - for standard input, such as Y4M from ffmpeg "
        "(default: the bundled sample)",
    )
    fit.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="CLIP",
        help="file to write (default: the video's name, .nerv)",
    )
    seconds = f"{SEGMENT_SECONDS:g}"
    budget = f"{seconds} for every --segment-frames frames, at least {seconds}"
    add_flags(fit, FitConfig, defaults={"budget": budget})
    add_device(fit)
    fit.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="also write a checkpoint for `compress`"
    )
    _add_long(fit)


def _add_long(fit: argparse.ArgumentParser) -> None:
    long = fit.add_argument_group("long videos")
    long.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of workers that fit in parallel (default: 1, or as many as a cluster holds)",
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
        help="threads of a worker, on which the bytes depend "
        "(default: a share of the cores; 1 on a cluster)",
    )
    long.add_argument(
        "--resume",
        action="store_true",
        help="go on where an interrupted run with the same settings stopped",
    )
    long.add_argument(
        "--save-every",
        type=float,
        default=SAVE_SECONDS,
        metavar="SECONDS",
        help=f"time between two saved states for --resume (default: {SAVE_SECONDS:g})",
    )


def _fit(args: argparse.Namespace) -> None:
    # torch takes seconds to import, and help does not need it.
    from encoder.media.source import Source
    from encoder.presets import find_preset

    config = from_flags(FitConfig, args)
    _check_workers(args)
    find_preset(config.preset)  # before the video is read
    video = args.video or SAMPLE
    output = _output(args)
    writable(output, video, args.mask and Path(args.mask), args.checkpoint)
    if args.checkpoint:
        writable(args.checkpoint, video, args.mask and Path(args.mask))
    if config.mask is not None:
        config = replace(config, mask=str(Path(config.mask).resolve()))
    with source_file(video, copy=output.with_name(f".{output.name}.source")) as path:
        source = Source(
            path,
            size=config.frame_size,
            keep_size=config.resize == "source",
            reading=config.reading,
        )
        _fit_source(args, config, source, output)


def _output(args: argparse.Namespace) -> Path:
    if args.output is None and args.video == STANDARD_INPUT:
        raise SettingsError("name the clip that is made of standard input: -o CLIP")
    if args.output is not None:
        return args.output
    return Path(f"{args.video.resolve().stem}.nerv" if args.video else SAMPLE_OUTPUT)


def _fit_source(
    args: argparse.Namespace, config: FitConfig, source: "Source", output: Path
) -> None:
    from encoder.jobs.runner import Run, run_job

    began = time.perf_counter()
    config.compression(source)  # a wrong size is an error before the scenes are looked for
    backend = _backend(args)
    try:
        run = Run(
            output=output,
            backend=backend,
            workers=args.workers,
            resume=args.resume,
            save_seconds=args.save_every,
            checkpoint=args.checkpoint,
            notes=source.notes(),
        )
        run_job(_job(args, config, source, device=_device(args, backend)), run)
    finally:
        if backend is not None:
            backend.close()
    logger.info("fitted in %.1f s", time.perf_counter() - began)
    report(output, source, config.target_bytes(source))


def _job(
    args: argparse.Namespace, config: FitConfig, source: "Source", *, device: "DeviceName"
) -> "Job":
    from encoder.jobs.job import Job, extras_of, masked, plan_of
    from encoder.presets import find_preset

    preset = find_preset(config.preset)
    with progress("looking for scenes") as update:
        plan = plan_of(masked(source, config), config, preset, on_progress=update)
    return Job(
        source=source.path.resolve(),
        size=source.size,
        config=config,
        plan=plan,
        budget=config.limit(source.count),
        device=device,
        threads=args.threads or _threads(args, len(plan.groups)),
        settings=config.text(source),
        keep_states=args.checkpoint is not None,
        extras=extras_of(source, config, plan),
    )


def _threads(args: argparse.Namespace, groups: int) -> int:
    """Return the default number of threads of a worker."""
    import torch

    if args.cluster is not None:
        return 1
    return max(torch.get_num_threads() // min(args.workers or 1, groups), 1)


def _check_workers(args: argparse.Namespace) -> None:
    """Raise SettingsError for numbers out of range."""
    for name in ("workers", "threads"):
        count = getattr(args, name)
        if count is not None and not 1 <= count <= MAX_WORKERS:
            raise SettingsError(f"the number of {name} must be in 1..{MAX_WORKERS}, got {count}")
    if not args.save_every > 0:
        raise SettingsError(
            f"the time between two states must be over 0 seconds, got {args.save_every:g}"
        )


def _backend(args: argparse.Namespace) -> "WorkerBackend | None":
    """Return the source of workers; None if this process does the fit."""
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


def _device(args: argparse.Namespace, backend: "WorkerBackend | None") -> "DeviceName":
    """Return the device of the fits; raises SettingsError for an absent GPU."""
    from encoder.training.device import pick_device

    if backend is None or backend.gpus is None:
        return "cuda" if pick_device(args.device).type == "cuda" else "cpu"
    if args.device == "cuda" and not backend.gpus:
        raise SettingsError("no GPU in the cluster: use --device cpu")
    return "cuda" if backend.gpus and args.device != "cpu" else "cpu"
