"""Size of a network for a frame: strides, grid, and share of the published widths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod, sqrt

import torch
from torch import nn

REFERENCE = 1280
"""Long side of a frame, in pixels, from which networks have the published widths.

For smaller frames, widths shrink with the long side.
Numbers of parameters are products of two widths, so they shrink with its square.
The number of pixels does so too, so bits per pixel stay the same.
"""
MIN_CHANNELS = 2
"""Smallest number of channels of a narrowed layer."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Upscaling factors of a network's stages, and the grid that they start from."""

    strides: tuple[int, ...]
    grid: tuple[int, int]
    """Height and width of the feature map before the first stage."""

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the output frames, in pixels: at least the requested ones."""
        rows, columns = self.grid
        return rows * prod(self.strides), columns * prod(self.strides)


def layout(height: int, width: int, *, choices: Sequence[tuple[int, ...]], cells: int) -> Layout:
    """Return the layout that balances padding of a frame against a preferred grid.

    `cells` is the preferred number of cells on the grid's long side.
    """

    def cost(found: Layout) -> float:
        rows, columns = found.canvas
        ratio = max(found.grid) / cells
        return rows * columns / (height * width) * sqrt(max(ratio, 1 / ratio))

    grids = [(ceil(height / prod(strides)), ceil(width / prod(strides))) for strides in choices]
    return min(
        (Layout(strides=strides, grid=grid) for strides, grid in zip(choices, grids, strict=True)),
        key=cost,
    )


def share(height: int, width: int, reference: int = REFERENCE) -> float:
    """Return the share of the published widths for a frame: 1 from the long side `reference`."""
    return min(1.0, max(height, width) / reference)


def narrowed(channels: int, part: float) -> int:
    """Return a share of a number of channels, at least MIN_CHANNELS."""
    return max(round(channels * part), MIN_CHANNELS)


def halved(first: int, stages: int, floor: int) -> tuple[int, ...]:
    """Return the channels of stages: halved at each stage, with a floor (NeRV, section 3.1)."""
    return first, *(max(first // 2**stage, floor) for stage in range(1, stages))


def largest(count: Callable[[int], float], budget: float, *, lowest: int) -> int:
    """Return the largest number, at least `lowest`, whose count is within a budget.

    `count` must grow with the number.
    """
    step = 1
    while count(lowest + step) <= budget:
        step *= 2
    found = lowest
    while step:
        if count(found + step) <= budget:
            found += step
        step //= 2
    return found


def parameters(build: Callable[[], nn.Module]) -> int:
    """Return the number of parameters of a network, without memory for their values."""
    with torch.device("meta"):
        return sum(x.numel() for x in build().parameters())
