"""The clips to play: complete files, growing files, and downloads from the web."""

import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from encoder.codec.clip import Clip
from encoder.codec.growing_file import GrowingFile
from encoder.codec.ladder import SUFFIX, Ladder, check_alike
from encoder.common.atomic_file import clips_here
from encoder.common.console import printable
from encoder.common.errors import BitstreamError
from export.engines.base import Engine
from player.playback.clip_source import ClipSource
from player.playback.download import Download

SAMPLE = Path(__file__).parents[1] / "data" / "bunny.nerv"
"""Clip that is played if no other is given or found."""
FIRST_SECONDS = 60.0
"""Longest wait for the first segment of a download."""
SCHEMES = ("http://", "https://")
MAX_NOTES = 10
"""Largest number of log lines about the damage of a clip."""

Open = Callable[[Clip, Collection[str]], Engine]
"""Function that opens an engine for a clip, but none of the named engines, which have failed."""

logger = logging.getLogger(__name__)


def find_items(
    names: Sequence[str], open_engine: Open, downloads: contextlib.ExitStack
) -> list[ClipSource]:
    """Return the named clips, each with a unique name.

    Without names, return the readable clips of the current folder, or else the sample.
    Downloads end with the stack.
    Raises BitstreamError or SourceError if a named clip cannot be read.
    """
    items = [_named(name, open_engine, downloads) for name in names]
    if not names:
        for path in clips_here():
            try:
                items.append(_find(path, open_engine))
            except BitstreamError as error:
                logger.warning("%s is left out: %s", path, error)
    if not items:
        items.append(_find(SAMPLE, open_engine))
    taken: set[str] = set()
    for item in items:
        name = item.name
        number = 2
        while item.name in taken:
            item.name = f"{name}-{number}"
            number = number + 1
        taken.add(item.name)
        for rung in item.rungs:
            rung.name = item.name
    return items


def _named(name: str, open_engine: Open, downloads: contextlib.ExitStack) -> ClipSource:
    """Return the clip or ladder of a path or an address; raises BitstreamError, SourceError."""
    if name.startswith(SCHEMES):
        return _fetch(name, open_engine, downloads)
    path = Path(name)
    return _ladder(path, open_engine) if path.suffix == SUFFIX else _find(path, open_engine)


def _ladder(path: Path, open_engine: Open) -> ClipSource:
    """Return the largest clip of a ladder, with all of them as its rungs; raises BitstreamError."""
    rungs: list[ClipSource] = []
    for rung in Ladder.load(path).rungs:
        file = path.with_name(rung.file)
        rungs.append(_item(file, path.stem, read(file), open_engine))
    check_alike([(rung.path.name, rung.clip) for rung in rungs if rung.path])
    rungs.sort(key=lambda rung: rung.file_bytes)
    top = rungs[-1]
    top.rungs = rungs
    return top


def _find(path: Path, open_engine: Open) -> ClipSource:
    """Read a clip from a file, which may still be growing if it has no end."""
    follower = GrowingFile(path)
    if not follower.is_whole:
        clip = follower.clip
        warn(str(path), follower.damage)
        logger.info(
            "%s is being written, or was cut off: %d of %d frames are there",
            path,
            clip.end,
            clip.header.frames,
        )
        return _item(path, path.stem, clip, open_engine, follower)
    follower.close()
    return _item(path, path.stem, read(path), open_engine)


def _fetch(url: str, open_engine: Open, downloads: contextlib.ExitStack) -> ClipSource:
    """Start to download a clip, and return it once its first segment is there."""
    download = downloads.enter_context(contextlib.closing(Download(url)))
    follower = download.first_segment(FIRST_SECONDS)
    item = _item(download.path, download.name, follower.clip, open_engine, follower)

    def is_over() -> bool:
        if download.error is not None:
            logger.warning("%s ends at frame %d: %s", item.name, item.clip.end, download.error)
        return download.is_whole or download.error is not None

    item.is_over = is_over
    return item


def _item(
    path: Path, name: str, clip: Clip, open_engine: Open, follower: GrowingFile | None = None
) -> ClipSource:
    size = path.stat().st_size if follower is None else follower.file_bytes
    return ClipSource(
        printable(name), clip, lambda failed: open_engine(clip, failed), size, path, follower
    )


def read(path: Path) -> Clip:
    """Read a clip without its damaged segments, which are logged. Raises BitstreamError."""
    clip = Clip.read(path, strict=False)
    warn(str(path), clip.damage)
    return clip


def warn(name: str, damage: Sequence[str]) -> None:
    """Log the faults of a clip: the first ones, and the number of the others."""
    for note in damage[:MAX_NOTES]:
        logger.warning("%s: %s", name, note)
    if len(damage) > MAX_NOTES:
        logger.warning("%s: and %d more", name, len(damage) - MAX_NOTES)
