"""How a network fits a frame: upscaling factors, the grid that they start from, and the share of the published widths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod, sqrt

import torch
from torch import nn

REFERENCE = 1280
"""Long side of a frame, in pixels, from which on networks have the published widths.

For smaller frames, widths shrink with the long side, and numbers of parameters, which are products of two widths, with its
square: as the pixels do, so that the bits per pixel stay what they are.
"""
MIN_CHANNELS = 2


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Upscaling factors of a network's stages, and the grid that they start from."""

    strides: tuple[int, ...]
    grid: tuple[int, int]
    """Height and width of the feature map before the first stage."""

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the frames that come out, in pixels: at least those that are wanted."""
        rows, columns = self.grid
        return rows * prod(self.strides), columns * prod(self.strides)


def layout(height: int, width: int, *, choices: Sequence[tuple[int, ...]], cells: int) -> Layout:
    """Return the layout that pads a frame least and whose grid has nearest to a number of cells on its long side."""

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
    """Return the share of the published widths for a frame: all of it from a long side on."""
    return min(1.0, max(height, width) / reference)


def narrowed(channels: int, part: float) -> int:
    """Return a share of a number of channels."""
    return max(round(channels * part), MIN_CHANNELS)


def halved(first: int, stages: int, floor: int) -> tuple[int, ...]:
    """Return the channels of stages: halved from one to the next, with a floor (NeRV, section 3.1)."""
    return first, *(max(first // 2**stage, floor) for stage in range(1, stages))


def largest(count: Callable[[int], float], budget: float, *, lowest: int) -> int:
    """Return the largest number, but at least the lowest, whose count, which grows with it, is within a budget."""
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
    """Return the number of parameters of a network, which takes no memory for them."""
    with torch.device("meta"):
        return sum(x.numel() for x in build().parameters())
