"""The encoder of HNeRV (CVPR 2023, section 3.1), which runs during the fit only.

ConvNeXt stages turn a frame into a small feature map.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 64
"""Channels of all stages but the last."""
EXPANSION = 4
"""Ratio of a block's inner width to its channels."""
EPSILON = 1e-6
"""Value added to the variance in a normalization."""
LAYER_SCALE = 1e-6
"""Initial factor of a block's output."""


class ConvNextEncoder(nn.Module):
    """Network that maps frames to feature maps."""

    def __init__(self, *, channels: int, strides: Sequence[int], canvas: tuple[int, int]) -> None:
        super().__init__()
        self.canvas = canvas
        widths = [3, *[CHANNELS] * (len(strides) - 1), channels]
        stages: list[nn.Module] = []
        for index, ((before, after), stride) in enumerate(
            zip(pairwise(widths), strides, strict=True)
        ):
            reduce = nn.Conv2d(before, after, stride, stride)
            stages += (
                [reduce, _ChannelNorm(after)] if index == 0 else [_ChannelNorm(before), reduce]
            )
            stages.append(_Block(after))
        self.stages = nn.Sequential(*stages)
        self.apply(_initialise)

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames (B, 3, H, W) in 0..1 to feature maps (B, C, h, w).

        The frames are at most as large as the canvas.
        """
        height, width = self.canvas
        padding = (0, width - frames.shape[3], 0, height - frames.shape[2])
        return self.stages(F.pad(frames, padding, mode="replicate"))


class _ChannelNorm(nn.Module):
    """Layer normalization over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.widen = nn.Linear(channels, EXPANSION * channels)
        self.narrow = nn.Linear(EXPANSION * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).movedim(1, -1))  # (B, H, W, C)
        return x + (self.scale * self.narrow(F.gelu(self.widen(y)))).movedim(-1, 1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        assert module.bias is not None  # every layer here has one
        nn.init.zeros_(module.bias)
