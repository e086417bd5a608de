"""Global motion: where each frame lies on a canvas that all frames of a segment share.

A network that stores positions on the screen must store what a moving camera shows at each of them anew. Fitted on a canvas
that moves with the camera, it stores the scene once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_MARGIN = 0.125
"""Largest displacement, as a share of the frame's side."""
COARSEST_PIXELS, FINEST_PIXELS = 40, 160
"""Longest side of the frames that the motion is sought in, at first and at last."""
BLOCK = 8
"""Frames that are turned into floating-point numbers at once."""
STEPS = 50
"""Steps at each resolution."""
OUTLIER = 0.25
"""Difference of two colours in 0..1 above which they do not count more: what moves by itself, or is covered."""
WORTHWHILE = 0.9
"""Share of the difference without motion that must at most be left with it."""


def estimate_motion(frames: Tensor) -> Tensor:
    """Return the displacement (T, 2, 2, 2) of the corners of uint8 frames (T, 3, H, W) against the middle frame, in pixels.

    [t, 0] is to the right and [t, 1] down; rows and columns are those of the corners, top left first. Displacements inside
    of a frame are bilinear between them. Zeros are returned where a motion of the whole picture explains little.
    """
    count, _, height, width = frames.shape
    size = torch.tensor([width, height], device=frames.device)[:, None, None]
    motion = torch.zeros(count, 2, 2, 2, device=frames.device, requires_grad=True)  # in shares of the frame's side
    finest = -(-max(height, width) // FINEST_PIXELS)
    factor = max(finest, max(height, width) // COARSEST_PIXELS)
    still = moving = 0.0
    while factor >= finest:
        small = torch.cat([_reduced(part, factor) for part in frames.split(BLOCK)])
        still = _difference(small, torch.zeros_like(motion)).item()
        moving = _align(small, motion, learning_rate=factor / max(height, width))
        if factor == finest:
            break
        factor = max(factor // 2, finest)
    if moving > WORTHWHILE * still:
        return torch.zeros_like(motion)
    found = motion.detach().clamp(-MAX_MARGIN, MAX_MARGIN)
    # Half of the way to each side makes the smallest canvas.
    middle = (found.amax((0, 2, 3), keepdim=True) + found.amin((0, 2, 3), keepdim=True)) / 2
    return (found - middle) * size


def _reduced(frames: Tensor, factor: int) -> Tensor:
    """Return the brightness of frames (T, 3, H, W), made smaller by a factor: (T, 1, h, w) in 0..1."""
    return F.avg_pool2d(frames.float().mean(1, keepdim=True) / 255, factor, ceil_mode=True)


def _align(small: Tensor, motion: Tensor, *, learning_rate: float) -> float:
    """Improve a motion on frames (T, 1, h, w) of reduced size; return the difference that it leaves."""
    optimizer = torch.optim.Adam([motion], lr=learning_rate)
    difference = torch.zeros(())
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - step / STEPS)
        difference = _difference(small, motion)
        optimizer.zero_grad(set_to_none=True)
        (difference * len(small)).backward()
        optimizer.step()
    return difference.item()


def _difference(small: Tensor, motion: Tensor) -> Tensor:
    """Return the mean difference between frames (T, 1, h, w) and the middle one moved to where they are."""
    middle = small[len(small) // 2].expand(len(small), -1, -1, -1)
    corners = motion.new_tensor([-1.0, 1.0])
    still = torch.stack([corners.expand(2, 2), corners[:, None].expand(2, 2)])  # x and y of the corners
    grid = F.interpolate(still + 2 * motion, size=small.shape[2:], mode="bilinear", align_corners=True)
    moved = F.grid_sample(middle, grid.permute(0, 2, 3, 1), padding_mode="border", align_corners=True)
    return (moved - small).abs().clamp(max=OUTLIER).mean()
