"""The default network, made for small machines: latents instead of a stem, and late upsampling.

All work is done on at most a quarter of the frame's height and width; one PixelShuffle makes the picture.
"""

from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.models.layers import TemporalGrid, UpsamplingBlock

SHUFFLE = 4
"""Upscaling factor of the head: the trunk works at a quarter of the frame's height and width."""
STRIDES = (5, 4, 6)
"""Upscaling factors that the trunk may have; the one that pads the frame least is taken."""


@dataclass(frozen=True, kw_only=True)
class FastConfig:
    """The network of a segment: its frame size, and the widths."""

    height: int
    """Height of a frame, in pixels."""
    width: int
    """Width of a frame, in pixels."""
    frames: int
    """Frames of a segment."""
    stem_channels: int = 40
    """Channels that the latents are mixed into."""
    trunk_channels: int = 32
    """Channels of the trunk."""
    latents: tuple[tuple[int, int], ...] = ((1, 2), (4, 8), (15, 16))
    """Period in frames and channels of each temporal grid."""

    @property
    def stride(self) -> int:
        """Upscaling factor of the trunk."""
        return min(STRIDES, key=lambda stride: self._rows(stride) * self._columns(stride) * stride**2)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return self._rows(self.stride), self._columns(self.stride)

    def _rows(self, stride: int) -> int:
        return ceil(self.height / (stride * SHUFFLE))

    def _columns(self, stride: int) -> int:
        return ceil(self.width / (stride * SHUFFLE))


class Fast(nn.Module):
    """Map times to frames."""

    def __init__(self, config: FastConfig) -> None:
        super().__init__()
        self.latents = nn.ModuleList(
            TemporalGrid(frames=config.frames, period=period, channels=channels, grid=config.grid)
            for period, channels in config.latents
        )
        channels = sum(channels for _, channels in config.latents)
        self.mix = nn.Conv2d(channels, config.stem_channels, 3, padding=1)
        self.trunk = UpsamplingBlock(
            config.stem_channels,
            config.trunk_channels,
            config.stride,
            activation=torch.sin,
            shuffle_activation=torch.sin,
        )
        self.head = nn.Conv2d(config.trunk_channels, 3 * SHUFFLE**2, 3, padding=1)

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W) in 0..1, H and W padded to the strides' product."""
        x = torch.cat([latent(t) for latent in self.latents], dim=1)  # (B, C, h, w)
        x = self.trunk(torch.sin(self.mix(x)))
        return torch.sigmoid(F.pixel_shuffle(self.head(x), SHUFFLE))
