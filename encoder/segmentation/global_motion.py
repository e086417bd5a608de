"""Global motion: the place of each frame on a canvas that all frames of a segment share.

Under a moving camera, a network that stores positions on the screen stores the same scene many
times. On a canvas that moves with the camera, it stores the scene once.

Gauss-Newton steps on reduced frames find the motion, from coarse to fine (Lucas and Kanade,
"An iterative image registration technique", 1981). They are reweighted to minimize the sum of
absolute differences.
"""

import contextlib
from collections.abc import Callable, Mapping
from math import ceil
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.common.errors import SourceError
from encoder.models.base import as_given

MAX_MARGIN = 0.125
"""Largest displacement, as a share of the frame's side."""
COARSEST_PIXELS = 40
"""Smallest longer side to which the frames are halved for the coarsest level."""
FINEST_PIXELS = 160
"""Largest longer side of the reduced frames at the finest level."""
BLOCK = 8
"""Number of frames that are processed at once."""
FIRST_STEPS = 12
"""Number of steps at the coarsest level."""
STEPS = 5
"""Number of steps at each other level."""
OUTLIER = 0.25
"""Difference in brightness, 0..1, of an outlier: an object that moves by itself, or is covered."""
EXACT = 0.03
"""Difference below which squares count, so that all weights are finite."""
DAMPING = 1e-3
"""Share of the mean curvature that is added to the diagonal, so that flat pictures move nothing."""
WORTHWHILE = 0.9
"""Largest difference with motion that is accepted, as a share of the one without motion."""


def estimate_motion(frames: Tensor) -> Tensor:
    """Return the displacements (T, 2, 2, 2) of the corners of uint8 frames (T, 3, H, W), in pixels.

    They are relative to the middle frame: [t, 0] to the right and [t, 1] down. The last two axes
    are the rows and columns of the corners, top left first. Displacements inside a frame are
    bilinear between its corners. They are zero if a motion of the whole picture explains little.
    """
    count, _, height, width = frames.shape
    size = torch.tensor([width, height], device=frames.device)[:, None, None]
    motion = torch.zeros(count, 2, 2, 2, device=frames.device)  # in shares of the frame's side
    pyramid = [
        torch.cat(
            [
                _reduced(part, -(-max(height, width) // FINEST_PIXELS))
                for part in frames.split(BLOCK)
            ]
        )
    ]
    while max(pyramid[-1].shape[2:]) >= 2 * COARSEST_PIXELS:
        pyramid.append(F.avg_pool2d(pyramid[-1], 2, ceil_mode=True))
    for level, small in enumerate(reversed(pyramid)):
        blocks = zip(small.split(BLOCK), motion.split(BLOCK), strict=True)
        steps = STEPS if level else FIRST_STEPS
        motion = torch.cat(
            [_aligned(block, moved, small[count // 2], steps) for block, moved in blocks]
        )
    if _difference(pyramid[0], motion) > WORTHWHILE * _difference(
        pyramid[0], torch.zeros_like(motion)
    ):
        return torch.zeros_like(motion)
    found = motion.clamp(-MAX_MARGIN, MAX_MARGIN)
    # Centred displacements make the smallest canvas.
    center = (found.amax((0, 2, 3), keepdim=True) + found.amin((0, 2, 3), keepdim=True)) / 2
    return (found - center) * size


def _reduced(frames: Tensor, factor: int) -> Tensor:
    """Map frames (T, 3, H, W) to their brightness (T, 1, h, w) in 0..1, reduced by a factor."""
    return F.avg_pool2d(
        frames.sum(1, keepdim=True, dtype=torch.float32) / (3 * 255), factor, ceil_mode=True
    )


def _aligned(small: Tensor, motion: Tensor, middle: Tensor, steps: int) -> Tensor:
    """Refine the motion of reduced frames (T, 1, h, w) against the middle one (1, h, w)."""
    height, width = middle.shape[1:]
    # Slopes of the picture, per motion by its whole side.
    padded = F.pad(middle[None], (1, 1, 1, 1), mode="replicate")[0]
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2 * (width - 1)
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2 * (height - 1)
    corners = torch.eye(4, device=small.device).view(1, 4, 2, 2)
    # Shares of the corners in each pixel's displacement, (1, 4, h, w).
    shares = F.interpolate(corners, size=(height, width), mode="bilinear", align_corners=True)
    identity = torch.eye(8, device=small.device)
    for _ in range(steps):
        moved, *slopes = _moved(torch.cat([middle, across, down]), motion).split(1, dim=1)
        error = (moved - small).flatten(2)  # (T, 1, P)
        weight = (error.abs() < OUTLIER) / error.abs().clamp(min=EXACT)
        slope = torch.cat([slope * shares for slope in slopes], dim=1).flatten(2)  # (T, 8, P)
        curvature = (slope * weight) @ slope.mT
        damping = DAMPING * curvature.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-9
        step = torch.linalg.solve(curvature + damping * identity, (slope * weight) @ error.mT)
        motion = motion - step.view_as(motion)
    return motion


def _moved(planes: Tensor, motion: Tensor) -> Tensor:
    """Move planes (C, h, w) by the motion of each of T frames; return them as (T, C, h, w)."""
    corners = motion.new_tensor([-1.0, 1.0])
    # Coordinates x and y of the corners.
    still = torch.stack([corners.expand(2, 2), corners[:, None].expand(2, 2)])
    grid = F.interpolate(
        still + 2 * motion, size=planes.shape[1:], mode="bilinear", align_corners=True
    )
    planes = planes.expand(len(motion), -1, -1, -1)
    return F.grid_sample(
        planes, grid.permute(0, 2, 3, 1), padding_mode="border", align_corners=True
    )


def _difference(small: Tensor, motion: Tensor) -> float:
    """Return the mean difference between frames (T, 1, h, w) and the moved middle frame."""
    return (_moved(small[len(small) // 2], motion) - small).abs().clamp(max=OUTLIER).mean().item()


LOOKS = 12
"""Largest number of segments whose motion decides on the size of the canvas."""

Read = Callable[[int], Tensor]
"""Function from a segment's number to its frames (T, 3, H, W); raises SourceError."""


class Canvas:
    """Camera motion in each segment; the motions known at first decide on the canvas's size."""

    def __init__(self, read: Read, motions: Mapping[int, Tensor]) -> None:
        """Take the corners' displacements in some segments, as `estimate_motion` returns them."""
        self._read = read
        self.motions = dict(motions)
        """Displacements (T, 2, 2, 2) of the corners in pixels, by segment, as far as known."""
        self.margin: tuple[int, int] | None = None
        """Pixels by which the canvas is taller and wider than a frame; None without motion."""
        if any(motion.any() for motion in motions.values()):
            across, down = (
                torch.stack([motion.abs().amax((0, 2, 3)) for motion in motions.values()])
                .amax(0)
                .tolist()
            )
            self.margin = 2 * ceil(down), 2 * ceil(across)

    @classmethod
    def look(cls, read: Read, segments: int) -> Self:
        """Return a canvas whose size follows from the motion in some of the segments."""
        motions: dict[int, Tensor] = {}
        for index in sorted(
            {round(place) for place in np.linspace(0, segments - 1, min(LOOKS, segments))}
        ):
            with contextlib.suppress(SourceError):  # raised again when the segment is fitted
                motions[index] = _estimate(read(index))
        return cls(read, motions)

    def motion(self, index: int) -> Tensor:
        """Return the motion of a segment, clamped to the canvas; raises SourceError."""
        if index not in self.motions:
            down, right = self.margin or (0, 0)
            limits = torch.tensor([right / 2, down / 2])[:, None, None]
            self.motions[index] = _estimate(self._read(index)).clamp(-limits, limits)
        return self.motions[index]


def _estimate(frames: Tensor) -> Tensor:
    # Rounded as the camera's parameters are, so that a resumed run finds the same canvas.
    return as_given(estimate_motion(frames).cpu())
