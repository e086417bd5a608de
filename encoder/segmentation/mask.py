"""Masks: which pixels of a video are unknown, and are filled by the network that was fitted to the others."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.common.errors import SettingsError
from encoder.media.source import Source
from encoder.media.video import Frames, Reduced, Size, Video, blocks

WHITE = 128
"""Value from which on a pixel of a mask's picture counts as masked."""
GREY = 128
"""What stands where a pixel is unknown."""


class Masked:
    """A video without what is masked, so that nothing of it can reach a network."""

    def __init__(self, source: Frames, pictures: Frames, *, name: str = "the mask") -> None:
        """Take one picture for all frames, or one for each; raises SettingsError for another number of them."""
        self._source = source
        self._pictures = pictures
        self._name = name
        if pictures.count not in (1, source.count):
            raise SettingsError(
                f"a mask has 1 or {source.count} pictures, {name} has {pictures.count}"
            )
        if pictures.count == 1:
            self.mask(range(1))  # what is wrong with it is told before the fit

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

    def read(self, run: range) -> NDArray[np.uint8]:
        """Return RGB frames (T, 3, H, W) with grey in place of what is masked; raises SourceError, SettingsError."""
        frames = self._source.read(run)
        if isinstance(self._source, Video):  # these are its own
            frames = frames.copy()
        for block in blocks(len(run)):  # or a long run would be in memory several times
            part = frames[block.start : block.stop]
            mask = self.mask(range(run.start + block.start, run.start + block.stop))
            np.copyto(part, np.uint8(GREY), where=mask[:, None])
        return frames

    def mask(self, run: range) -> NDArray[np.bool_]:
        """Return which pixels of frames are masked, (T, H, W); raises SettingsError where nothing is left of a frame."""
        single = self._pictures.count == 1
        mask = self._pictures.read(range(1) if single else run).max(1) >= WHITE
        if mask.all((1, 2)).any():
            raise SettingsError(f"{self._name} leaves nothing of a frame")
        return np.broadcast_to(mask, (len(run), *mask.shape[1:])) if single else mask

    def thumbnails(self) -> Frames:
        """Return the same frames, made small."""
        return Reduced(self)


def read_mask(path: Path, source: Frames) -> Masked:
    """Return a video as a picture for all of its frames masks it, or a folder or video of a picture for each: white is masked.

    Raises SourceError for what cannot be read, SettingsError for another number of pictures, or one that masks everything.
    """
    return Masked(source, Source(path, size=source.size), name=f"mask {path}")
