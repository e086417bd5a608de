"""The commands `info` and `evaluate`: show a clip's facts, and measure it against its source."""

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.codec.container import MAGIC
from encoder.common.console import Commands, show
from encoder.common.flags import add_flags, from_flags
from encoder.common.progress import progress
from encoder.media.reading import Reading, source_file

if TYPE_CHECKING:
    from encoder.codec.clip import Clip
    from encoder.compare.evaluation import Evaluation, FrameQuality
    from encoder.media.video import Frames

SIZE_TOLERANCE = 0.03
"""Largest relative deviation of a file from its target size without a warning."""
PSNR_TOLERANCE = 0.5
"""Largest difference of a file's PSNR below its target without a warning, in dB."""

logger = logging.getLogger(__name__)


def add(commands: Commands) -> None:
    """Add the commands."""
    info = commands.add(
        "info",
        _info,
        summary="show the facts of a clip, or how a video or folder of images would be read",
        example="python -m encoder info bunny.nerv --json",
    )
    info.add_argument("clip", type=Path, help="a .nerv file, a video or a folder of images")
    evaluate = commands.add(
        "evaluate",
        _evaluate,
        summary="measure a clip against its source: quality of all decoded frames, and file size",
        example="python -m encoder evaluate bunny.nerv encoder/data/bunny_720p.mp4 --json",
    )
    evaluate.add_argument("clip", type=Path, help="a .nerv file")
    for command in (info, evaluate):
        command.add_argument("--json", action="store_true", help="print one JSON object")
        add_flags(command, Reading)
    evaluate.add_argument(
        "source", type=Path, help="the video or folder that the clip was fitted to"
    )
    evaluate.add_argument(
        "--mask", type=Path, metavar="PATH", help="mask of the fit, to measure its pixels as well"
    )


def _info(args: argparse.Namespace) -> None:
    if _is_clip(args.clip):
        _show_clip(args)
        return
    from encoder.media.source import Source

    with source_file(args.clip) as path:
        show(
            Source(path, keep_size=True, reading=from_flags(Reading, args)).facts(),
            as_json=args.json,
        )


def _is_clip(path: Path) -> bool:
    """Return whether a path is a clip, by its suffix or its first bytes."""
    if path.suffix.lower() == ".nerv" or not path.is_file():
        return path.suffix.lower() == ".nerv"
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _show_clip(args: argparse.Namespace) -> None:
    from encoder.codec.clip import Clip

    clip = Clip.read(args.clip, strict=False)
    header = clip.header
    size = args.clip.stat().st_size
    show(
        {
            "version": clip.topology.version,
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
            **_extra_facts(clip, size),
            "bits_per_weight": clip.bits_per_weight,
            "settings": header.settings,
        },
        as_json=args.json,
    )


def _extra_facts(clip: "Clip", size: int) -> dict[str, object]:
    """Return the facts about sound, subtitles and film, by name; absent ones are left out."""
    facts: dict[str, object] = {}
    sound = clip.sound
    about = clip.extras.about
    if sound is not None:
        facts |= {
            "audio": f"Opus, {'stereo' if sound.format.channels > 1 else 'mono'}",
            "audio_language": sound.format.language,
            "audio_bytes": sound.file_bytes,
        }
    if tracks := clip.extras.subtitles:
        facts["subtitles"] = ", ".join(track.title or track.language or "?" for track in tracks)
        facts["cues"] = sum(len(track.cues) for track in tracks)
    told = {"title": about.title, "language": about.language, "date": about.date}
    facts |= {name: text for name, text in told.items() if text}
    if about.chapters:
        facts["chapters"] = len(about.chapters)
    if extra := clip.extra_bytes:
        facts["picture_bits_per_pixel"] = 8 * (size - extra) / clip.header.pixels
    return facts


def _evaluate(args: argparse.Namespace) -> None:
    from encoder.codec.clip import Clip
    from encoder.media.source import Source

    header = Clip.read(args.clip).header
    with source_file(args.source) as path:
        source = Source(path, size=(header.width, header.height), reading=from_flags(Reading, args))
        show(asdict(_measure(args.clip, source, args.mask)), as_json=args.json)


def report(
    path: Path, source: "Frames", wanted_bytes: int | None, wanted_db: float | None = None
) -> None:
    """Log a file's PSNR and size, with a warning if it missed its target size or PSNR."""
    from encoder.codec.clip import Clip
    from encoder.compare.evaluation import pictures
    from encoder.media.metrics import psnr_db

    clip = Clip.read(path)
    size = path.stat().st_size
    found: list[float] = []
    with progress("measuring", total=clip.header.frames) as update:
        # PSNR alone: MS-SSIM would take longer than everything else here.
        for decoded, original in pictures(clip, source):
            found.append(psnr_db(decoded, original))
            update(len(found))
    cost = f"{size} bytes, {8 * size / clip.header.pixels:.4f} bits per pixel"
    if clip.sound is not None:
        cost += f", {clip.sound.file_bytes} bytes of them sound"
    mean = sum(found) / len(found)
    logger.info("%s: %.2f dB in %s", path, mean, cost)
    if wanted_db and mean < wanted_db - PSNR_TOLERANCE:
        logger.warning(
            "the frames have %.2f dB instead of %g; a larger budget or --size may reach it",
            mean,
            wanted_db,
        )
    if wanted_bytes and abs(size / wanted_bytes - 1) > SIZE_TOLERANCE:
        logger.warning(
            "the file misses its target size of %d bytes; a larger budget may reach it",
            wanted_bytes,
        )


def _measure(path: Path, source: "Frames", mask_path: Path | None) -> "Evaluation":
    from encoder.codec.clip import Clip
    from encoder.compare.evaluation import evaluation, qualities
    from encoder.segmentation.mask import read_mask

    clip = Clip.read(path)
    frames: list[FrameQuality] = []
    with progress("measuring", total=clip.header.frames) as update:
        for quality in qualities(clip, source, read_mask(mask_path, source) if mask_path else None):
            frames.append(quality)
            update(len(frames))
    return evaluation(path.stat().st_size, clip, frames)
