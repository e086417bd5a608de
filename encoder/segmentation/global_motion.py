"""Global motion: where each frame lies on a canvas that all frames of a segment share.

A network that stores positions on the screen must store what a moving camera shows at each of them anew. Fitted on a canvas
that moves with the camera, it stores the scene once.

The motion is found by Gauss-Newton steps on reduced frames, from coarse to fine (Lucas and Kanade, "An iterative image
registration technique", 1981), reweighted so that the sum of absolute differences becomes smallest.
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
FINEST_PIXELS = 160
"""Longest side of the frames that the motion is sought in, at first and at last."""
BLOCK = 8
"""Frames that are worked on at once."""
FIRST_STEPS = 12
STEPS = 5
"""Steps at the coarsest resolution, and at each other."""
OUTLIER = 0.25
"""Difference of two colours in 0..1 above which they do not count more: what moves by itself, or is covered."""
EXACT = 0.03
"""Difference under which what counts is its square, or no weight would be finite."""
DAMPING = 1e-3
"""Part of the mean curvature that is added to all, so that flat pictures move nothing."""
WORTHWHILE = 0.9
"""Share of the difference without motion that must at most be left with it."""


def estimate_motion(frames: Tensor) -> Tensor:
    """Return the displacement (T, 2, 2, 2) of the corners of uint8 frames (T, 3, H, W) against the middle frame, in pixels.

    [t, 0] is to the right and [t, 1] down; rows and columns are those of the corners, top left first. Displacements inside
    of a frame are bilinear between them. Zeros are returned where a motion of the whole picture explains little.
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
    # Half of the way to each side makes the smallest canvas.
    center = (found.amax((0, 2, 3), keepdim=True) + found.amin((0, 2, 3), keepdim=True)) / 2
    return (found - center) * size


def _reduced(frames: Tensor, factor: int) -> Tensor:
    """Return the brightness of frames (T, 3, H, W), made smaller by a factor: (T, 1, h, w) in 0..1."""
    return F.avg_pool2d(
        frames.sum(1, keepdim=True, dtype=torch.float32) / (3 * 255), factor, ceil_mode=True
    )


def _aligned(small: Tensor, motion: Tensor, middle: Tensor, steps: int) -> Tensor:
    """Return a better motion of reduced frames (T, 1, h, w) against the middle one (1, h, w)."""
    height, width = middle.shape[1:]
    # How the picture changes if it moves by its whole side.
    padded = F.pad(middle[None], (1, 1, 1, 1), mode="replicate")[0]
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2 * (width - 1)
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2 * (height - 1)
    corners = torch.eye(4, device=small.device).view(1, 4, 2, 2)
    shares = F.interpolate(
        corners, size=(height, width), mode="bilinear", align_corners=True
    )  # of each corner, (1, 4, h, w)
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
    """Return planes (C, h, w) moved to where each of some frames is: (T, C, h, w)."""
    corners = motion.new_tensor([-1.0, 1.0])
    still = torch.stack(
        [corners.expand(2, 2), corners[:, None].expand(2, 2)]
    )  # x and y of the corners
    grid = F.interpolate(
        still + 2 * motion, size=planes.shape[1:], mode="bilinear", align_corners=True
    )
    planes = planes.expand(len(motion), -1, -1, -1)
    return F.grid_sample(
        planes, grid.permute(0, 2, 3, 1), padding_mode="border", align_corners=True
    )


def _difference(small: Tensor, motion: Tensor) -> float:
    """Return the mean difference between frames (T, 1, h, w) and the middle one moved to where they are."""
    return (_moved(small[len(small) // 2], motion) - small).abs().clamp(max=OUTLIER).mean().item()


LOOKS = 12
"""Segments, at most, whose motion is looked at to find how large a canvas must be."""

Read = Callable[[int], Tensor]
"""Returns the frames (T, 3, H, W) of the segment of a number; raises SourceError."""


class Canvas:
    """How far the camera moves in each segment; its size is that of the segments whose motion is known at first."""

    def __init__(self, read: Read, motions: Mapping[int, Tensor]) -> None:
        """Take the displacements of the corners in some segments, as `estimate_motion` returns them."""
        self._read = read
        self.motions = dict(motions)
        """Of the segments that have been looked at."""
        self.margin: tuple[int, int] | None = None
        """Pixels by which the canvas is larger than a frame, downwards and to the right; None if the camera stands still."""
        if any(motion.any() for motion in motions.values()):
            across, down = (
                torch.stack([motion.abs().amax((0, 2, 3)) for motion in motions.values()])
                .amax(0)
                .tolist()
            )
            self.margin = 2 * ceil(down), 2 * ceil(across)

    @classmethod
    def look(cls, read: Read, segments: int) -> Self:
        """Look at some of the segments."""
        motions: dict[int, Tensor] = {}
        for index in sorted(
            {round(place) for place in np.linspace(0, segments - 1, min(LOOKS, segments))}
        ):
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
