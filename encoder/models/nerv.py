"""NeRV (NeurIPS 2021), NeRV++ and NeRV*++ (arXiv 2402.18305): an MLP, then upsampling blocks.

The MLP takes the encoded time. Papers and their codes disagree in places; the choices here:

- NeRV++'s blocks are those of its figure 2, which its code never had.

- NeRV++'s head is the code's 1x1 convolution, not the figure's 3x3.
  Only the 1x1 fits the paper's ratio of multiplications to NeRV.

- The time is encoded at 40 frequencies, as in both codes' commands for Bunny.
  These give the papers' numbers of parameters.
  NeRV's text has 80, and so has the NeRV that NeRV++ compares sizes with.
  Its average size is 5.96 M; here it is 5.92 M.

- NeRV's activation is the text's GELU, its best, not the SiLU of its commands.

- NeRV++'s stem has the SiLU of its code.

NeRV*++ is not specified anywhere. Ours is a reconstruction: two separable blocks in a row.
Their inner width is 1.5 times their channels.
It has the number of parameters and the ratio of multiplications to NeRV++ that its paper reports.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from encoder.models.base import VideoNetwork, VideoShape
from encoder.models.layers import ConvBlock, PositionalEncoding, UpsamplingBlock, colours
from encoder.models.sizing import Layout, halved, layout, narrowed, share

STRIDES = ((5, 2), (5, 2, 2), (5, 2, 2, 2), (5, 2, 2, 2, 2), (5, 3, 2, 2, 2), (5, 2, 2, 2, 2, 2))
"""Choices for the strides of the stages."""
CELLS = 16
"""Preferred number of cells on the long side of the stem's grid."""


@dataclass(frozen=True, kw_only=True)
class NervConfig(VideoShape):
    """Configuration of a segment's network. The defaults are size S of NeRV++ at 1280x720."""

    stem_channels: int = 26
    """Channels of the stem's feature map, which alone set the network's size."""
    block: Literal["convolution", "separable"] = "separable"
    """Kind of block: NeRV's convolution or NeRV++'s separable block."""
    floor: int = 80
    """Smallest number of channels of a stage: 80 in NeRV++, 96 in NeRV."""
    expansion: float = 1.0
    """Ratio of a separable block's inner width to its channels: 1.5 in our NeRV*++."""
    depth: int = 1
    """Number of separable blocks in a row: 2 in our NeRV*++."""
    levels: int = 40
    """Number of frequencies of the positional encoding."""

    @property
    def layout(self) -> Layout:
        """Strides of the stages, and the grid that they start from."""
        return layout(self.height, self.width, choices=STRIDES, cells=CELLS)

    @property
    def stem_widths(self) -> tuple[int, int]:
        """Number of hidden units of the stem, and channels of its feature map."""
        part = share(self.height, self.width)
        return narrowed(512, part), narrowed(self.stem_channels, part)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage."""
        floor = narrowed(self.floor, share(self.height, self.width))
        return halved(self.stem_widths[1], len(self.layout.strides), floor)


class Nerv(VideoNetwork):
    """Network that maps times to frames."""

    def __init__(self, config: NervConfig) -> None:
        super().__init__()
        hidden, stem = config.stem_widths
        self.grid = config.layout.grid
        self.activation = F.silu if config.block == "separable" else F.gelu
        self.encoding = PositionalEncoding(base=1.25, levels=config.levels, count=config.frames)
        self.stem1 = nn.Linear(2 * config.levels, hidden)
        self.stem2 = nn.Linear(hidden, stem * prod(self.grid))
        stages = zip(pairwise((stem, *config.channels)), config.layout.strides, strict=True)
        self.blocks = nn.Sequential(
            *(_block(config, before, after, stride) for (before, after), stride in stages)
        )
        self.head = nn.Conv2d(config.channels[-1], 3, 1)
        if config.block == "separable":
            self.apply(_initialise)

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W) in 0..1 of the layout's canvas size."""
        x = self.activation(self.stem1(self.encoding(t)))
        x = self.activation(self.stem2(x)).unflatten(1, (-1, *self.grid))  # (B, C, h, w)
        return colours(self.head(self.blocks(x)))


def _block(config: NervConfig, before: int, after: int, stride: int) -> nn.Module:
    if config.block == "convolution":
        return ConvBlock(before, after, stride, kernel=3, activation=F.gelu)
    return UpsamplingBlock(
        before,
        after,
        stride,
        activation=F.gelu,
        shuffle_activation=F.silu,
        expansion=config.expansion,
        depth=config.depth,
    )


def _initialise(module: nn.Module) -> None:
    """Initialize a convolution as NeRV++'s code does."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        assert module.bias is not None  # every convolution here has one
        nn.init.zeros_(module.bias)
