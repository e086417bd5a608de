"""NeRV++ (arXiv 2402.18305): an MLP stem on the encoded time, then upsampling blocks with separable convolutions.

Where paper and public code disagree: the blocks are those of figure 2 (the code never had them), the head is the code's
1x1 convolution (the paper's ratio of multiplications to NeRV fits it, and not the figure's 3x3).
"""

from dataclasses import dataclass
from itertools import pairwise
from math import ceil, prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.models.layers import PositionalEncoding, UpsamplingBlock

STRIDES = ((5, 2), (5, 2, 2), (5, 2, 2, 2), (5, 2, 2, 2, 2), (5, 3, 2, 2, 2), (5, 2, 2, 2, 2, 2))
"""Strides of the stages, of which the one whose stem has about 16 cells on its long side is taken."""

MIN_CHANNELS = 4


@dataclass(frozen=True, kw_only=True)
class NervPPConfig:
    """The network of a segment: its frame size, and what the paper's size S (3.17 M weights at 1280x720) makes of it."""

    height: int
    """Height of a frame, in pixels."""
    width: int
    """Width of a frame, in pixels."""
    frames: int
    """Frames of a segment."""
    levels: int = 40
    """Frequencies of the positional encoding."""
    base: float = 1.25
    """Ratio of one frequency to the one before."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Upscaling factor of each stage."""
        return min(STRIDES, key=lambda strides: abs(prod(strides) - max(self.height, self.width) / 16))

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the stem's feature map."""
        return ceil(self.height / prod(self.strides)), ceil(self.width / prod(self.strides))

    @property
    def scale(self) -> float:
        """Share of the paper's widths: all of them from 1280 pixels on, fewer for small frames."""
        return min(1.0, max(self.height, self.width) / 1280)

    @property
    def stem_widths(self) -> tuple[int, int]:
        """Hidden units of the stem, and channels of its feature map."""
        return max(round(512 * self.scale), MIN_CHANNELS), max(round(26 * sqrt(self.scale)), MIN_CHANNELS)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage: halved from one to the next, with a floor."""
        first, floor = self.stem_widths[1], max(round(80 * self.scale), MIN_CHANNELS)
        return first, *(max(first // 2**stage, floor) for stage in range(1, len(self.strides)))


class NervPP(nn.Module):
    """Map times to frames."""

    def __init__(self, config: NervPPConfig) -> None:
        super().__init__()
        hidden, stem = config.stem_widths
        self.frames, self.grid = config.frames, config.grid
        self.encoding = PositionalEncoding(base=config.base, levels=config.levels)
        self.stem1 = nn.Linear(2 * config.levels, hidden)
        self.stem2 = nn.Linear(hidden, stem * prod(config.grid))
        widths = pairwise((stem, *config.channels))
        self.blocks = nn.Sequential(
            *(
                UpsamplingBlock(before, after, stride, activation=F.gelu, shuffle_activation=F.silu)
                for (before, after), stride in zip(widths, config.strides, strict=True)
            )
        )
        self.head = nn.Conv2d(config.channels[-1], 3, 1)
        self.apply(_initialise)

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W) in 0..1, H and W padded to the strides' product."""
        x = F.silu(self.stem1(self.encoding(t / self.frames)))
        x = F.silu(self.stem2(x)).unflatten(1, (-1, *self.grid))  # (B, C, h, w)
        return (torch.tanh(self.head(self.blocks(x))) + 1) / 2


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        assert module.bias is not None  # every convolution here has one
        nn.init.zeros_(module.bias)
