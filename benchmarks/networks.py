"""Variants of the default network, as it was before its head changed."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.models.fast import Fast, FastConfig
from encoder.models.layers import SeparableBlock, StillGrid, TemporalGrid, planes

BAND = 0.5
"""Height of a band, as a share of the canvas's."""


class WideHead(Fast):
    """Network with a 3x3 head instead of the second block after the upsampling."""

    def __init__(self, config: FastConfig) -> None:
        super().__init__(config)
        self.after = SeparableBlock(config.trunk_channels, config.activation)
        self.head = nn.Conv2d(config.trunk_channels, self.head.out_channels, 3, padding=1)


class PointHead(WideHead):
    """Network with a 1x1 head, without the second block."""

    def __init__(self, config: FastConfig) -> None:
        super().__init__(config)
        self.head = nn.Conv2d(config.trunk_channels, self.head.out_channels, 1)


class Shallow(WideHead):
    """Network without a block after the upsampling."""

    def __init__(self, config: FastConfig) -> None:
        super().__init__(config)
        self.after = nn.Identity()


class Sceneless(WideHead):
    """Network without a still grid: it has one channel, which stays zero."""

    def __init__(self, config: FastConfig) -> None:
        super().__init__(config)
        scene = self.latents[-1]
        assert isinstance(scene, StillGrid)
        with torch.no_grad():
            scene.values.zero_()
        scene.requires_grad_(requires_grad=False)


class TimeAffine(WideHead):
    """Network that scales and shifts the trunk's channels by the time."""

    def __init__(self, config: FastConfig) -> None:
        super().__init__(config)
        self.affine = TemporalGrid(
            frames=config.frames, period=1, shape=(2 * config.trunk_channels, 1, 1)
        )

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W)."""
        *temporal, scene = self.latents
        x = self.activation(self.mix(torch.cat([latent(t) for latent in temporal], dim=1)))
        coarse = self.project(x)
        scale, shift = self.affine(t).chunk(2, dim=1)
        expanded = self.expand(self.gather(self.before(coarse)))
        fine = F.pixel_shuffle(expanded, self.stride) + self.detail(scene(t))
        fine = (1 + scale) * fine + shift
        skip = F.interpolate(coarse, scale_factor=float(self.stride), mode="bilinear")
        trunk = self.after(self.activation(fine)) + skip
        canvas = torch.sigmoid(planes(self.head(trunk), self.shuffle))
        return canvas if self.camera is None else self.camera(canvas, t)


class Banded(WideHead):
    """Network that makes one band of the canvas during the fit; its small features are whole."""

    def __init__(self, config: FastConfig) -> None:
        super().__init__(config)
        self._rows = config.grid[0]
        margin = (config.margin or (0, 0))[0]
        middle = (config.canvas[0] - config.height) / 2 if config.margin else 0.0
        self._above = middle - margin / 2
        """Smallest row of the canvas at which a frame may begin."""
        self._below = middle + margin / 2
        """Largest row of the canvas at which a frame may begin."""
        self._band = range(self._rows)
        """Rows of cells that are made."""

    def choose_band(self, height: int, width: int) -> Tensor:
        """Choose rows of cells, and return the pixels of frames that may lie outside (1, H, W)."""
        count = max(round(BAND * self._rows), 1)
        start = int(torch.randint(self._rows - count + 1, ()))
        self._band = range(start, start + count)
        cell = self.stride * self.shuffle
        row = torch.arange(height)
        is_above = row + self._above < start * cell
        is_below = row + self._below > self._band.stop * cell - 1
        return (is_above | is_below)[None, :, None].expand(1, height, width)

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W)."""
        *temporal, scene = self.latents
        x = self.activation(self.mix(torch.cat([latent(t) for latent in temporal], dim=1)))
        coarse = self.project(x)
        gathered = self.gather(self.before(coarse))
        # The convolutions of the band see one more cell on each side.
        halo = range(max(self._band.start - 1, 0), min(self._band.stop + 1, self._rows))
        cells = slice(halo.start, halo.stop)
        rows = slice(halo.start * self.stride, halo.stop * self.stride)
        expanded = F.pixel_shuffle(self.expand(gathered[:, :, cells]), self.stride)
        fine = expanded + self.detail(scene(t)[:, :, rows])
        skip = F.interpolate(coarse, scale_factor=float(self.stride), mode="bilinear")[:, :, rows]
        trunk = self.after(self.activation(fine)) + skip
        made = torch.sigmoid(planes(self.head(trunk), self.shuffle))
        cell = self.stride * self.shuffle
        canvas = F.pad(made, (0, 0, halo.start * cell, (self._rows - halo.stop) * cell))
        return canvas if self.camera is None else self.camera(canvas, t)
