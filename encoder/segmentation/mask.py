"""Masks of unknown pixels, which a network fitted to the other pixels fills in."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.common.errors import SettingsError
from encoder.media.source import Source
from encoder.media.video import Frames, Video, View, blocks

WHITE = 128
"""Smallest value of a masked pixel in a mask's picture."""
GREY = 128
"""Colour of unknown pixels."""


class Masked(View):
    """A video with its masked pixels greyed out, so that none of them can reach a network."""

    def __init__(self, source: Frames, pictures: Frames, *, name: str = "the mask") -> None:
        """Take one picture for all frames, or one for each frame.

        Raises SettingsError for another number of pictures.
        """
        super().__init__(source)
        self._pictures = pictures
        self._name = name
        if pictures.count not in (1, source.count):
            raise SettingsError(
                f"a mask has 1 or {source.count} pictures, {name} has {pictures.count}"
            )
        if pictures.count == 1:
            self.mask(range(1))  # raises before the fit if the picture is unusable

    def read(self, run: range) -> NDArray[np.uint8]:
        """Return RGB frames (T, 3, H, W) with masked pixels in grey.

        Raises SourceError, SettingsError.
        """
        frames = self._source.read(run)
        if isinstance(self._source, Video):  # it returns a view of its own frames
            frames = frames.copy()
        for block in blocks(len(run)):  # otherwise a long run would be in memory several times
            part = frames[block.start : block.stop]
            mask = self.mask(range(run.start + block.start, run.start + block.stop))
            np.copyto(part, np.uint8(GREY), where=mask[:, None])
        return frames

    def mask(self, run: range) -> NDArray[np.bool_]:
        """Return the mask (T, H, W) of frames, True for masked pixels.

        Raises SettingsError if all pixels of a frame are masked.
        """
        single = self._pictures.count == 1
        mask = self._pictures.read(range(1) if single else run).max(1) >= WHITE
        if mask.all((1, 2)).any():
            raise SettingsError(f"{self._name} leaves nothing of a frame")
        return np.broadcast_to(mask, (len(run), *mask.shape[1:])) if single else mask


def read_mask(path: Path, source: Frames) -> Masked:
    """Return a video with a mask; white pixels of the mask's pictures are masked.

    The path is a picture for all frames, or a folder or video with a picture for each frame.

    Raises SourceError for a mask that cannot be read, SettingsError for a wrong number of pictures
    or a picture that masks all pixels.
    """
    return Masked(source, Source(path, size=source.size), name=f"mask {path}")
