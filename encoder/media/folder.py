"""Folders of images as sources: selection and order of their frames."""

import logging
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

from encoder.common.errors import SourceError
from encoder.media.decoding import Picture, Pictures
from encoder.media.geometry import display_size, orientation
from encoder.media.size import Size, size_text
from encoder.media.timeline import even_timeline
from encoder.media.tracks import Track, open_track

IMAGE_SUFFIXES = frozenset(
    {
        ".avif",
        ".bmp",
        ".gif",
        ".jp2",
        ".jpeg",
        ".jpg",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
    }
)
IMAGE_RATE = Fraction(25)
"""Frames per second of a folder of images, which declares no rate."""

logger = logging.getLogger(__name__)


def open_folder(path: Path) -> Track:
    """Return the images of a folder as a track; raises SourceError if there is none."""
    names = image_names(path)
    return Track(
        even_timeline(len(names), IMAGE_RATE),
        partial(_read, [name.absolute() for name in names]),
        f"{len(names)} images",
        seeks=True,
    )


def image_names(path: Path) -> list[Path]:
    """Return the images of a folder, ordered by the numbers in their names, then by name.

    Hidden files (which some systems put beside others), sub-folders and broken links are not
    frames. Raises SourceError if no image is left.
    """
    known = [
        file
        for file in path.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    ]
    names = sorted((file for file in known if file.is_file()), key=_natural_order)
    if broken := sorted(file.name for file in known if file.is_symlink() and not file.exists()):
        logger.warning("left out of %s: %s leads nowhere", path, " ".join(broken))
    if not names:
        folders = sorted(
            file.name for file in path.iterdir() if file.is_dir() and not file.name.startswith(".")
        )
        inside = f", but folders: {' '.join(folders)}" if folders else ""
        raise SourceError(
            f"no images in folder {path} (known: {' '.join(sorted(IMAGE_SUFFIXES))}){inside}"
        )
    return names


def _natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort 2.png before 10.png, and 01.png before 1.png."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"(\d+)", path.name)
    ], path.name


def _read(names: Sequence[Path], start: int) -> Pictures:
    first: Size | None = None
    for index, name in enumerate(names[start:], start):
        picture = next(open_track(name).open(0), None)
        if picture is None:
            raise SourceError(f"cannot read image {name}")
        # Many images declare a pixel density that nobody chose.
        size = display_size(
            (picture.frame.width, picture.frame.height), None, orientation(picture.frame)
        )
        first = first or size
        if size != first:
            raise SourceError(
                f"images differ in size: {name} is {size_text(size)}, not {size_text(first)}"
            )
        yield Picture(picture.frame, index, None)
