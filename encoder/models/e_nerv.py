"""E-NeRV (ECCV 2022): separate embeddings of place and time.

The time scales and shifts the features of every stage.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.models.base import VideoNetwork, VideoShape
from encoder.models.layers import ConvBlock, PositionalEncoding, normalised, steps
from encoder.models.nerv import CELLS, STRIDES
from encoder.models.sizing import Layout, halved, largest, layout, narrowed, parameters, share

LEVELS = 80
"""Number of frequencies of each positional encoding."""
EMBEDDING = 256
"""Width of the embeddings of place and time."""
HIDDEN = 512
"""Width of the time's MLP."""
AFFINE = 128
"""Width of the embedding that scales and shifts features."""
HEAD = 64
"""Width of an attention head."""
HEADS = 8
"""Number of heads of the second transformer block; the first has one."""
EXPANSION = 3
"""Ratio of the first stage's channels to the stem's."""
FLOOR = 96
"""Smallest number of channels of a stage."""
SMALL = 2.5e6
"""Largest number of weights of a network with the smaller floor."""
SMALL_FLOOR = 48
"""Floor of small networks. With the paper's floor they could not be as small."""


@dataclass(frozen=True, kw_only=True)
class EnervConfig(VideoShape):
    """Configuration of a segment's network."""

    parameters: float = 3.3e6
    """Number of weights for frames of 1280 pixels, which determines the stem's channels."""
    stem_channels: int | None = None
    """Channels of the stem's feature map; None for the most that `parameters` allows."""

    @property
    def layout(self) -> Layout:
        """Strides of the stages, and the grid that they start from."""
        return layout(self.height, self.width, choices=STRIDES, cells=CELLS)

    @property
    def part(self) -> float:
        """Share of the published widths."""
        return share(self.height, self.width)


class Enerv(VideoNetwork):
    """Network that maps times to frames."""

    def __init__(self, config: EnervConfig) -> None:
        super().__init__()
        embedding, hidden, affine = (
            narrowed(width, config.part) for width in (EMBEDDING, HIDDEN, AFFINE)
        )
        layout = config.layout
        head = narrowed(HEAD, config.part)
        stem = config.stem_channels or _stem_channels(config)
        channels = halved(
            EXPANSION * stem,
            len(layout.strides),
            narrowed(FLOOR if config.parameters > SMALL else SMALL_FLOOR, config.part),
        )
        self.grid = layout.grid
        self.encoding = PositionalEncoding(base=1.25, levels=LEVELS, count=config.frames)
        self.time1 = nn.Linear(2 * LEVELS, hidden)
        self.time2 = nn.Linear(hidden, embedding)
        self.place = nn.Linear(4 * LEVELS, embedding)
        self.before = TransformerBlock(embedding, heads=1, head=head)
        self.after = TransformerBlock(embedding, heads=HEADS, head=head)
        self.stem = nn.Linear(embedding, stem)
        self.affine1 = nn.Linear(2 * LEVELS, affine)
        self.affine2 = nn.Linear(affine, affine)
        stages = list(zip(pairwise((stem, *channels)), layout.strides, strict=True))
        self.affines = nn.ModuleList(nn.Linear(affine, 2 * before) for (before, _), _ in stages)
        self.blocks = nn.ModuleList(
            _block(before, after, stride, first=index == 0)
            for index, ((before, after), stride) in enumerate(stages)
        )
        self.head = nn.Conv2d(channels[-1], 3, 1)

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W) in 0..1 of the layout's canvas size."""
        encoded = self.encoding(t)  # (B, 2 * LEVELS)
        time = F.gelu(self.time2(F.gelu(self.time1(encoded))))  # (B, E)
        tokens = self.before(F.gelu(self.place(self._places())))  # (1, h * w, E)
        tokens = F.gelu(self.stem(self.after(tokens * time[:, None])))
        x = tokens.transpose(1, 2).unflatten(2, self.grid)  # (B, C, h, w)
        condition = F.gelu(self.affine2(F.gelu(self.affine1(encoded))))
        for block, affine in zip(self.blocks, self.affines, strict=True):
            scale, shift = F.gelu(affine(condition))[..., None, None].chunk(2, dim=1)
            x = block(normalised(x) * scale + shift)
        return torch.sigmoid(self.head(x))

    def _places(self) -> Tensor:
        """Return the encoded column and row of each grid cell, (1, h * w, 4 * LEVELS)."""
        rows, columns = self.grid
        down, across = (
            self.encoding.shares(steps(count, self.place.bias) / count) for count in (rows, columns)
        )
        down = down[:, None].expand(rows, columns, -1)
        across = across.expand(rows, columns, -1)
        return torch.cat([across, down], dim=2).flatten(0, 1)[None]


class UpConvBlock(nn.Module):
    """Upsampling with few channels, then widening (E-NeRV's code, ConvUpBlock)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        middle = max(before // 4, 1)
        self.enlarge = ConvBlock(before, middle, stride, kernel=3, activation=None)
        self.widen = nn.Conv2d(middle, after, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C, stride * H, stride * W)."""
        return F.gelu(self.widen(self.enlarge(x)))


class TransformerBlock(nn.Module):
    """Attention and MLP, each with a residual connection.

    There is no normalization, as in E-NeRV's code.
    """

    def __init__(self, width: int, *, heads: int, head: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = head**-0.5
        self.mix = nn.Linear(width, 3 * heads * head, bias=False)
        self.project = nn.Linear(heads * head, width)
        self.widen = nn.Linear(width, width // 2)
        self.narrow = nn.Linear(width // 2, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, E) to the same shape."""
        mixed = self.mix(x).unflatten(2, (3, self.heads, -1))  # (B, N, 3, heads, head)
        queries, keys, values = (part.squeeze(2).transpose(1, 2) for part in mixed.split(1, dim=2))
        weights = torch.softmax(queries @ keys.transpose(2, 3) * self.scale, dim=3)
        x = x + self.project((weights @ values).transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.widen(x)))


def _block(before: int, after: int, stride: int, *, first: bool) -> nn.Module:
    if first:
        return UpConvBlock(before, after, stride)
    return ConvBlock(before, after, stride, kernel=3, activation=F.gelu)


@cache
def _stem_channels(config: EnervConfig) -> int:
    return largest(
        lambda channels: parameters(lambda: Enerv(replace(config, stem_channels=channels))),
        config.parameters * config.part**2,
        lowest=4,
    )
