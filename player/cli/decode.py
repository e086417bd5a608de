"""The command `decode`."""

import argparse
import contextlib
import logging
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from encoder.codec.container import MAX_DENOMINATOR
from encoder.common.console import Commands
from encoder.common.progress import progress
from player.cli.options import add_engine_options

logger = logging.getLogger(__name__)


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    command = commands.add(
        "decode",
        _run,
        summary="decode a clip to a video file, a pipe or PNG images",
        example="python -m player decode bunny.nerv bunny.mp4 --fps 50",
    )
    command.add_argument("clip", type=Path, help="a .nerv file")
    command.add_argument(
        "output",
        help="OUT.mp4, OUT.mkv, OUT.webm or OUT.y4m, a pipe or - for Y4M, "
        "or a new FOLDER/ for PNG images",
    )
    command.add_argument(
        "--frames",
        metavar="A:B",
        help="part of the clip, from frame A to before frame B (default: all)",
    )
    command.add_argument(
        "--resize",
        metavar="WxH",
        help="size of the pictures, shown in the clip's shape (default: the clip's)",
    )
    command.add_argument(
        "--fps",
        type=_frame_rate,
        help="frames per second; other than the clip's, times in between are decoded",
    )
    add_engine_options(command)


def _frame_rate(text: str) -> Fraction:
    # Fraction alone would compute 1e99999999.
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}|/0*[1-9]\d{0,8})?", text):
        raise argparse.ArgumentTypeError(f"not a rate like 50 or 30000/1001: {text!r}")
    return Fraction(text).limit_denominator(MAX_DENOMINATOR)


def _run(args: argparse.Namespace) -> None:
    from av.video.reformatter import VideoReformatter

    from encoder.media.size import parse_size
    from export.engines.registry import open_engine
    from player.playback.catalog import read
    from player.playback.excerpt import Excerpt
    from player.playback.frame_selection import frame_range, frame_times
    from player.playback.frame_writers import pick_writer, resized, shape_of

    clip = read(args.clip)
    times = frame_times(clip.header, args.fps, frame_range(args.frames, clip.header.frames))
    writer = pick_writer(args.output)
    size = parse_size(args.resize) if args.resize else None
    shape = shape_of(clip.header, args.fps or clip.header.rate, size, even=writer.pixels == "i420")
    if writer.has_extras:
        start, seconds = Fraction(times[0]) / clip.header.rate, len(times) / shape.rate
        excerpt = Excerpt(extras=clip.extras, start=start, seconds=seconds)
        shape = replace(shape, excerpt=excerpt)
    elif clip.sound is not None or clip.extras.subtitles:
        logger.info("sound and subtitles are left out: OUT.mp4, OUT.mkv and OUT.webm hold them")
    engine = open_engine(
        clip, args.engine, batch=args.batch, pixels="rgb" if size else writer.pixels
    )
    scaler = VideoReformatter()
    with (
        contextlib.closing(engine),
        writer.open(Path(args.output), shape) as write,
        progress(f"decoding on {engine.name}", total=len(times)) as update,
    ):
        for start in range(0, len(times), args.batch):
            frames = engine.frames(times[start : start + args.batch])
            write(resized(frames, size, writer.pixels, scaler) if size else frames)
            update(min(start + args.batch, len(times)))
