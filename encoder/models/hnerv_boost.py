"""HNeRV-Boost (Boosting-NeRV, CVPR 2024): HNeRV with sines and a condition.

The *condition* is a vector computed from the time. It scales and shifts the features.
"""

from dataclasses import dataclass, replace
from functools import cache
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.models.base import VideoNetwork, VideoShape
from encoder.models.hnerv import CELLS as FEWEST_CELLS
from encoder.models.hnerv import EMBEDDING, FLOOR, REDUCTION, frame_encoder
from encoder.models.hnerv import STRIDES as MORE_STRIDES
from encoder.models.layers import ConvBlock, PositionalEncoding, TemporalGrid, colours
from encoder.models.nerv import CELLS, STRIDES
from encoder.models.sizing import Layout, largest, layout, narrowed, parameters, share

LEVELS = 80
"""Number of frequencies of the positional encoding."""
CONDITION = 32
"""Channels of the condition, for frames of 1280 pixels."""
KERNELS = (1, 3)
"""Kernel sizes of the first stage and of all others."""
REPEATS = (1, 1, 2)
"""Blocks of the first two stages and of all others. Only the first block of a stage enlarges."""


@dataclass(frozen=True, kw_only=True)
class BoostConfig(VideoShape):
    """Configuration of a segment's network."""

    parameters: float = 1.5e6
    """Number of weights and elements of feature maps, which determines the channels."""
    stem_channels: int | None = None
    """Channels before the first stage; None for the most that `parameters` allows."""

    @property
    def layout(self) -> Layout:
        """Strides of the stages, and the grid that they start from.

        The grid is coarser for smaller frames, whose feature maps would otherwise outgrow all else.
        """
        cells = max(round(CELLS * share(self.height, self.width)), FEWEST_CELLS)
        return layout(self.height, self.width, choices=(*STRIDES, *MORE_STRIDES), cells=cells)

    @property
    def floor(self) -> int:
        """Smallest number of channels."""
        return narrowed(FLOOR, share(self.height, self.width))

    @property
    def condition(self) -> int:
        """Channels of the condition."""
        return narrowed(CONDITION, share(self.height, self.width))


class Boost(VideoNetwork):
    """Network that maps times to frames."""

    def __init__(self, config: BoostConfig) -> None:
        super().__init__()
        self.layout = layout = config.layout
        stem = config.stem_channels or _stem_channels(config)
        self.latents = nn.ModuleList(
            [TemporalGrid(frames=config.frames, period=1, shape=(EMBEDDING, *layout.grid))]
        )
        self.encoding = PositionalEncoding(base=1.25, levels=LEVELS, count=config.frames)
        self.condition1 = nn.Conv2d(2 * LEVELS, 2 * config.condition, 1)
        self.condition2 = nn.Conv2d(2 * config.condition, config.condition, 1)
        self.stem = nn.Conv2d(EMBEDDING, stem, 1)
        self.stem_block = ConditionedBlock(stem, config.condition)
        self.blocks = nn.ModuleList()
        self.conditioned = nn.ModuleList()
        before = stem
        for stage, stride in enumerate(layout.strides):
            after = max(round(before / REDUCTION), config.floor)
            kernel = KERNELS[min(stage, 1)]
            for repeat in range(REPEATS[min(stage, len(REPEATS) - 1)]):
                enlarging = stride if repeat == 0 else 1
                self.blocks.append(
                    ConvBlock(before, after, enlarging, kernel=kernel, activation=torch.sin)
                )
                self.conditioned.append(ConditionedBlock(after, config.condition))
                before = after
        self.head = nn.Conv2d(before, 3, 3, padding=1)

    def latent_parameters(self) -> list[nn.Parameter]:
        """Return the feature maps of the frames."""
        return list(self.latents.parameters())

    def frame_encoder(self) -> nn.Module:
        """Return a new encoder of frames, that of HNeRV."""
        return frame_encoder(self.layout)

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W) in 0..1 of the layout's canvas size."""
        (latent,) = self.latents
        encoded = self.encoding(t)[..., None, None]  # (B, 2 * LEVELS, 1, 1)
        condition = torch.sin(self.condition2(torch.sin(self.condition1(encoded))))
        x = self.stem_block(torch.sin(self.stem(latent(t))), condition)
        for block, conditioned in zip(self.blocks, self.conditioned, strict=True):
            x = conditioned(block(x), condition)
        return colours(self.head(x))


class ConditionedBlock(nn.Module):
    """Temporal affine residual block (Boosting-NeRV, section 3.2).

    It computes x + conv2(sft2(gelu(conv1(sft1(x))))).
    """

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.affine1 = _Affine(channels, condition)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.affine2 = _Affine(channels, condition)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape, given a condition (B, K, 1, 1)."""
        y = F.gelu(self.conv1(self.affine1(x, condition)))
        return x + self.conv2(self.affine2(y, condition))


class _Affine(nn.Module):
    """Scaling and shifting of channels: x * (1 + scale) + shift."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.scale, self.shift = (
            nn.Sequential(
                nn.Conv2d(condition, condition, 1), nn.ReLU(), nn.Conv2d(condition, channels, 1)
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return x * (1 + self.scale(condition)) + self.shift(condition)


@cache
def _stem_channels(config: BoostConfig) -> int:
    """Return the widest stem within the number of parameters.

    The weights get at least half of the parameters.
    Where feature maps take more than the other half, the network is larger than requested.
    """
    maps = EMBEDDING * prod(config.layout.grid) * config.frames
    most = max(config.parameters, maps + config.parameters / 2)
    return largest(
        lambda channels: parameters(lambda: Boost(replace(config, stem_channels=channels))),
        most,
        lowest=config.floor,
    )
