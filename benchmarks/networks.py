"""Variants of the default network."""

import torch
from torch import Tensor, nn

from encoder.models.layers import TemporalGrid, planes
from encoder.models.pyramid import SHUFFLE, Pyramid, PyramidConfig


class FullChroma(Pyramid):
    """Network whose colours have as many pixels as its luma."""

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__(config)
        self.luma = nn.Conv2d(config.channels, 3 * SHUFFLE**2, 1)
        self.chroma = nn.Identity()

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W)."""
        field = None if self.field is None else self.field(t)
        return self.camera(torch.sigmoid(planes(self.luma(self.features(t)), SHUFFLE)), t, field)


class TimeAffine(Pyramid):
    """Network that scales and shifts the trunk's channels by the time."""

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__(config)
        self.affine = TemporalGrid(
            frames=config.frames, period=1, shape=(2 * config.channels, 1, 1)
        )

    def features(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to the trunk's features (B, C, h, w)."""
        scale, shift = self.affine(t).chunk(2, dim=1)
        return (1 + scale) * super().features(t) + shift
