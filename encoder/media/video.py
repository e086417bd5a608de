"""Interface of videos, which are read in runs of frames, and the sizes of frames."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from encoder.common.errors import SettingsError, SourceError
from encoder.media.size import Size, size_text

BLOCK_FRAMES = 32
"""Number of frames that are read at once where all are needed in order."""
THUMBNAIL = 48
"""Approximate long side of thumbnails, in pixels."""


class Frames(Protocol):
    """Frames that can be read in runs, from a clip in memory or from a file."""

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

    @property
    def assumption(self) -> str:
        """Note for the record in the clip about colours that are assumed, or nothing."""
        ...

    def read(self, run: range) -> NDArray[np.uint8]:
        """Return RGB frames (T, 3, H, W); raises SourceError."""
        ...

    def thumbnails(self) -> "Frames":
        """Return the same frames in thumbnail size."""
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

    @property
    def assumption(self) -> str:
        """Nothing, since RGB frames are taken as they are."""
        return ""

    def read(self, run: range) -> NDArray[np.uint8]:
        """Return a run of frames (T, 3, H, W)."""
        return self.frames[run.start : run.stop]

    def thumbnails(self) -> Frames:
        """Return the same frames in thumbnail size."""
        return Reduced(self)


class View(ABC):
    """Another video with changed pixels."""

    def __init__(self, source: Frames) -> None:
        self._source = source

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        return self._source.rate

    @property
    def count(self) -> int:
        """Number of frames."""
        return self._source.count

    @property
    def size(self) -> Size:
        """Width and height of the frames."""
        return self._source.size

    @property
    def assumption(self) -> str:
        """Note for the record in the clip about colours that are assumed, or nothing."""
        return self._source.assumption

    @abstractmethod
    def read(self, run: range) -> NDArray[np.uint8]:
        """Return RGB frames (T, 3, H, W); raises SourceError."""

    def thumbnails(self) -> Frames:
        """Return the same frames in thumbnail size."""
        return Reduced(self)


class Reduced(View):
    """Frames of another video, reduced to the means of square blocks of pixels."""

    def __init__(self, source: Frames) -> None:
        super().__init__(source)
        self._step = -(-max(source.size) // THUMBNAIL)

    @property
    def size(self) -> Size:
        """Width and height of the frames."""
        width, height = self._source.size
        return -(-width // self._step), -(-height // self._step)

    def read(self, run: range) -> NDArray[np.uint8]:
        """Return RGB frames (T, 3, H, W); raises SourceError."""
        frames = self._source.read(run)
        counts = np.ones(frames.shape[2:], np.uint32)
        for axis in (-2, -1):
            starts = np.arange(0, frames.shape[axis], self._step)
            frames = np.add.reduceat(frames, starts, axis, np.uint32)
            counts = np.add.reduceat(counts, starts, axis)
        return ((frames + counts // 2) // counts).astype(np.uint8)

    def thumbnails(self) -> Frames:
        """Return this video, which is small already."""
        return self


def blocks(count: int, length: int = BLOCK_FRAMES) -> Iterator[range]:
    """Yield consecutive runs of `length` frames that cover `count`; the last may be shorter."""
    return (range(start, min(start + length, count)) for start in range(0, count, length))


def frames_of(video: Frames) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames (3, H, W) of a video, with one block of them in memory at a time."""
    for run in blocks(video.count):
        yield from video.read(run)


def check_count(source: Frames, frames: int) -> None:
    """Raise SettingsError if a source and a clip differ in their number of frames."""
    if source.count != frames:
        raise SettingsError(f"the clip has {frames} frames, the source {source.count}")


def check_memory(count: int, size: Size, *, shorter: str = "") -> None:
    """Raise SourceError if frames do not fit into half of the memory.

    `shorter` extends the advice in the message by other ways to need less memory.
    """
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if 3 * size[0] * size[1] * count > half:
        raise SourceError(
            f"{count} frames of {size_text(size)} do not fit in half of the memory: "
            f"use --resize{shorter}"
        )
