"""PS-NeRV (ICIP 2023, arXiv 2208.03742), a reconstruction from the abstract.

There is no public code, and only the abstract was available.
NeRV's blocks compute a patch of a frame from the encoded time and the patch's encoded place.
An embedding of time and place scales and shifts normalized features (AdaIN).
The number of patches and the width of the embedding are our guesses.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import ceil, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.models.base import VideoNetwork, VideoShape
from encoder.models.layers import ConvBlock, PositionalEncoding, colours, normalised, steps
from encoder.models.nerv import CELLS, STRIDES
from encoder.models.sizing import Layout, halved, layout, narrowed, share

PATCHES = 2
"""Number of patches along each side of a frame."""
LEVELS = 40
"""Number of frequencies of each of the three positional encodings."""
STYLE = 128
"""Width of the embedding that scales and shifts features."""
FLOOR = 96
"""Smallest number of channels of a stage."""


@dataclass(frozen=True, kw_only=True)
class PsNervConfig(VideoShape):
    """Configuration of a segment's network."""

    stem_channels: int = 26
    """Channels of the stem's feature map, which alone set the network's size."""

    @property
    def layout(self) -> Layout:
        """Strides of the stages, and the grid of a patch that they start from."""
        height = ceil(self.height / PATCHES)
        width = ceil(self.width / PATCHES)
        return layout(height, width, choices=STRIDES, cells=CELLS // PATCHES)


class PsNerv(VideoNetwork):
    """Network that maps times to frames."""

    def __init__(self, config: PsNervConfig) -> None:
        super().__init__()
        part = share(config.height, config.width)
        hidden = narrowed(512, part)
        style = narrowed(STYLE, part)
        stem = narrowed(config.stem_channels, part)
        layout = config.layout
        channels = halved(stem, len(layout.strides), narrowed(FLOOR, part))
        self.grid = layout.grid
        self.encoding = PositionalEncoding(base=1.25, levels=LEVELS, count=config.frames)
        self.stem_time = nn.Linear(2 * LEVELS, hidden)
        self.stem_place = nn.Linear(4 * LEVELS, hidden)
        self.stem2 = nn.Linear(hidden, stem * prod(layout.grid))
        self.style_time = nn.Linear(2 * LEVELS, style)
        self.style_place = nn.Linear(4 * LEVELS, style)
        self.style = nn.Linear(style, style)
        stages = list(zip(pairwise((stem, *channels)), layout.strides, strict=True))
        self.styles = nn.ModuleList(nn.Linear(style, 2 * before) for (before, _), _ in stages)
        self.blocks = nn.ModuleList(
            ConvBlock(before, after, stride, kernel=3, activation=F.gelu)
            for (before, after), stride in stages
        )
        self.head = nn.Conv2d(channels[-1], 3, 1)

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W) in 0..1.

        Each patch of a frame has the size of the layout's canvas.
        """
        time = self.encoding(t)[:, None]  # (B, 1, 2 * LEVELS)
        places = self._places()  # (P * P, 4 * LEVELS)
        stem = F.gelu(self.stem_time(time) + self.stem_place(places)).flatten(
            0, 1
        )  # (B * P * P, hidden)
        style = F.gelu(self.style_time(time) + self.style_place(places)).flatten(0, 1)
        x = F.gelu(self.stem2(stem)).unflatten(1, (-1, *self.grid))
        style = F.gelu(self.style(style))
        for block, styles in zip(self.blocks, self.styles, strict=True):
            scale, shift = styles(style)[..., None, None].chunk(2, dim=1)
            x = block(normalised(x) * (1 + scale) + shift)
        patches = colours(self.head(x))  # (B * P * P, 3, H / P, W / P)
        rows = patches.unflatten(0, (-1, PATCHES, PATCHES)).permute(
            0, 3, 1, 4, 2, 5
        )  # (B, 3, P, H / P, P, W / P)
        return rows.flatten(4).flatten(2, 3)

    def _places(self) -> Tensor:
        """Return the encoded row and column of each patch, (P * P, 4 * LEVELS)."""
        encoded = self.encoding.shares(steps(PATCHES, self.stem2.bias) / PATCHES)  # (P, 2 * LEVELS)
        down = encoded[:, None].expand(PATCHES, PATCHES, -1)
        across = encoded.expand(PATCHES, PATCHES, -1)
        return torch.cat([down, across], dim=2).flatten(0, 1)
