"""The command `fit`: fit a network to a video and write it as a clip."""

import argparse
import logging
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.cli.evaluate import report
from encoder.cli.fitter import SAVE_SECONDS, Fitter, check_workers, fitter_of
from encoder.cli.ladder import LadderFit, parse_wishes
from encoder.cli.options import SAMPLE, add_device
from encoder.common.atomic_file import writable
from encoder.common.console import Commands
from encoder.common.errors import SettingsError
from encoder.common.flags import add_flags, from_flags
from encoder.config import SEGMENT_SECONDS, FitConfig
from encoder.media.reading import STANDARD_INPUT, source_file

if TYPE_CHECKING:
    from encoder.media.source import Source

SAMPLE_STEM = "bunny"

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
        help="file to write (default: the video's name, .nerv, or .json with --ladder)",
    )
    seconds = f"{SEGMENT_SECONDS:g}"
    budget = f"{seconds} for every --segment-frames frames, at least {seconds}"
    add_flags(fit, FitConfig, defaults={"budget": budget})
    add_device(fit)
    fit.add_argument(
        "--ladder",
        nargs="+",
        metavar="RUNG",
        help="write several clips and a manifest, FILM.json: a size for each, such as 80kB or "
        "640x360@80kB",
    )
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
        help="threads of a worker, on which the bytes depend. A fit by time may take fewer "
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
    from encoder.presets import find_preset

    config = from_flags(FitConfig, args)
    check_workers(args)
    find_preset(config.preset)  # before the video is read
    video = args.video or SAMPLE
    wishes = parse_wishes(args, config) if args.ladder else []
    output = _output(args, ".json" if wishes else ".nerv")
    writable(output, video, args.mask and Path(args.mask), args.checkpoint)
    if args.checkpoint:
        writable(args.checkpoint, video, args.mask and Path(args.mask))
    if config.mask is not None:
        config = replace(config, mask=str(Path(config.mask).resolve()))
    with source_file(video, copy=output.with_name(f".{output.name}.source")) as path:
        open_source = partial(_open, path)
        with fitter_of(args) as fitter:
            if wishes:
                LadderFit(config, wishes, output, open_source, fitter).run()
            else:
                _fit_source(fitter, config, open_source(config), output)


def _fit_source(fitter: Fitter, config: FitConfig, source: "Source", output: Path) -> None:
    began = time.perf_counter()
    config.compression(source)  # a wrong size is an error before the scenes are looked for
    job = fitter.job(config, source, fitter.plan(source, config))
    fitter.run(job, source, output, fitter.args.checkpoint)
    logger.info("fitted in %.1f s", time.perf_counter() - began)
    report(output, source, config.target_bytes(source), config.psnr)


def _open(path: Path, config: FitConfig) -> "Source":
    from encoder.media.source import Source

    return Source(
        path,
        size=config.frame_size,
        keep_size=config.resize == "source",
        reading=config.reading,
    )


def _output(args: argparse.Namespace, suffix: str) -> Path:
    if args.output is None and args.video == STANDARD_INPUT:
        raise SettingsError("name the clip that is made of standard input: -o CLIP")
    if args.output is None:
        return Path(f"{args.video.resolve().stem if args.video else SAMPLE_STEM}{suffix}")
    if args.output.suffix == ".json" and suffix != ".json":
        raise SettingsError(f"{args.output} is the name of a ladder's manifest: name a CLIP.nerv")
    if suffix == ".json" and args.output.suffix != suffix:
        raise SettingsError(f"a ladder is written to its manifest, FILM.json, got {args.output}")
    return args.output
