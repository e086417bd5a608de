"""Videos as everything else sees them: frames that are read run by run, and their size."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from encoder.codec.container import MAX_SIDE
from encoder.common.errors import SettingsError, SourceError

BLOCK_FRAMES = 32
"""Frames that are read at once where all are needed one after the other."""
THUMBNAIL = 48
"""Long side of thumbnails, about, in pixels."""

Size = tuple[int, int]
"""Width and height in pixels."""


class Frames(Protocol):
    """Frames that can be read run by run: of a clip in memory, or of a file."""

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        ...

    @property
    def count(self) -> int:
        """Number of frames."""
        ...

    @property
    def size(self) -> Size:
        """Width and height of the frames."""
        ...

    def read(self, run: range) -> NDArray[np.uint8]:
        """Return RGB frames (T, 3, H, W); raises SourceError."""
        ...

    def thumbnails(self) -> "Frames":
        """Return the same frames, made small."""
        ...


@dataclass(frozen=True)
class Video:
    """A clip in memory."""

    frames: NDArray[np.uint8]
    """RGB pixels, (T, 3, H, W)."""
    rate: Fraction
    """Frames per second."""

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.frames)

    @property
    def size(self) -> Size:
        """Width and height of the frames."""
        return self.frames.shape[3], self.frames.shape[2]

    def read(self, run: range) -> NDArray[np.uint8]:
        """Return a run of frames (T, 3, H, W)."""
        return self.frames[run.start : run.stop]

    def thumbnails(self) -> Frames:
        """Return the same frames, made small."""
        return Reduced(self)


class Reduced:
    """The frames of another video, made small by leaving pixels out."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._step = -(-max(frames.size) // THUMBNAIL)

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        return self._frames.rate

    @property
    def count(self) -> int:
        """Number of frames."""
        return self._frames.count

    @property
    def size(self) -> Size:
        """Width and height of the frames."""
        width, height = self._frames.size
        return -(-width // self._step), -(-height // self._step)

    def read(self, run: range) -> NDArray[np.uint8]:
        """Return RGB frames (T, 3, H, W); raises SourceError."""
        return self._frames.read(run)[:, :, :: self._step, :: self._step]

    def thumbnails(self) -> Frames:
        """Return the same frames, which are small."""
        return self


def blocks(count: int, length: int = BLOCK_FRAMES) -> Iterator[range]:
    """Yield runs of a length that cover a number of frames, and what is left."""
    return (range(start, min(start + length, count)) for start in range(0, count, length))


def frames_of(video: Frames) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames (3, H, W) of a video, of which some are in memory at once."""
    for run in blocks(video.count):
        yield from video.read(run)


def check_count(source: Frames, frames: int) -> None:
    """Raise SettingsError if a source does not have as many frames as a clip."""
    if source.count != frames:
        raise SettingsError(f"the clip has {frames} frames, the source {source.count}")


def check_memory(count: int, size: Size, *, shorter: str = "") -> None:
    """Raise SourceError for frames that do not fit in half of the memory; say what makes fewer of them, if something does."""
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if 3 * size[0] * size[1] * count > half:
        raise SourceError(
            f"{count} frames of {size_text(size)} do not fit in half of the memory: use --resize{shorter}"
        )


def parse_size(text: str) -> Size:
    """Return the width and height that a text like 640x360 names; raises SettingsError."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (0 < size[0] <= MAX_SIDE and 0 < size[1] <= MAX_SIDE):
        raise SettingsError(f"a size is two numbers of 1 to {MAX_SIDE} like 640x360, got {text!r}")
    return size


def size_text(size: Size) -> str:
    """Return a size as people write it."""
    return f"{size[0]}x{size[1]}"
