"""The canvas of a clip: as large as the camera's motion in its segments needs."""

import contextlib
from collections.abc import Callable, Mapping
from math import ceil
from typing import Self

import numpy as np
import torch
from torch import Tensor

from encoder.codec.errors import SourceError
from encoder.motion import estimate_motion
from encoder.quantizer import as_given

LOOKS = 12
"""Segments, at most, whose motion is looked at to find how large a canvas must be."""

Read = Callable[[int], Tensor]
"""Returns the frames (T, 3, H, W) of the segment of a number; raises SourceError."""


class Canvas:
    """How far the camera moves in each segment; its size is that of the segments whose motion is known at first."""

    def __init__(self, read: Read, motions: Mapping[int, Tensor]) -> None:
        """Take the displacements of the corners in some segments, as `estimate_motion` returns them."""
        self._read, self.motions = read, dict(motions)
        """Of the segments that have been looked at."""
        self.margin: tuple[int, int] | None = None
        """Pixels by which the canvas is larger than a frame, downwards and to the right; None if the camera stands still."""
        if any(motion.any() for motion in motions.values()):
            across, down = torch.stack([motion.abs().amax((0, 2, 3)) for motion in motions.values()]).amax(0).tolist()
            self.margin = 2 * ceil(down), 2 * ceil(across)

    @classmethod
    def look(cls, read: Read, segments: int) -> Self:
        """Look at some of the segments."""
        motions: dict[int, Tensor] = {}
        for index in sorted({round(place) for place in np.linspace(0, segments - 1, min(LOOKS, segments))}):
            with contextlib.suppress(SourceError):  # it is told when its turn comes
                motions[index] = _estimate(read(index))
        return cls(read, motions)

    def motion(self, index: int) -> Tensor:
        """Return the motion of a segment, as far as the canvas allows; raises SourceError."""
        if index not in self.motions:
            down, right = self.margin or (0, 0)
            limits = torch.tensor([right / 2, down / 2])[:, None, None]
            self.motions[index] = _estimate(self._read(index)).clamp(-limits, limits)
        return self.motions[index]


def _estimate(frames: Tensor) -> Tensor:
    # As the camera will have it, so that a run that goes on from this one's states finds the same canvas.
    return as_given(estimate_motion(frames).cpu())
