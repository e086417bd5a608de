"""The default network, made for small machines.

It has latents instead of a stem, late upsampling, and a canvas under a camera.
All layers work at 1/4 of the frame's height and width, or less. One PixelShuffle makes the picture.
A warp then moves each frame to the camera's place.
"""

from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.models.layers import Camera, SeparableBlock, StillGrid, TemporalGrid, planes

SHUFFLE = 4
"""Upscaling factor of the head: the trunk works at 1/4 of the frame's height and width."""
STRIDES = (5, 4, 6)
"""Possible upscaling factors of the trunk; the network uses the one that pads the canvas least."""


@dataclass(frozen=True, kw_only=True)
class FastConfig:
    """Configuration of a segment's network: its frame size and widths."""

    height: int
    """Height of a frame, in pixels."""
    width: int
    """Width of a frame, in pixels."""
    frames: int
    """Number of frames of a segment."""
    margin: tuple[int, int] | None = None
    """Total range of the camera down and to the right, in pixels; None if it stands still."""
    stem_channels: int = 40
    """Channels into which the latents are mixed."""
    trunk_channels: int = 32
    """Channels of the trunk."""
    rank: int = 32
    """Channels between the two convolutions that expand the trunk.

    A single convolution would have far more weights.
    """
    latents: tuple[tuple[int, int], ...] = ((1, 2), (4, 8), (15, 16))
    """Period in frames and number of channels of each temporal grid."""
    scene_channels: int = 16
    """Channels of the still grid, at the trunk's resolution."""

    @property
    def stride(self) -> int:
        """Upscaling factor of the trunk."""
        return min(
            STRIDES, key=lambda stride: self._rows(stride) * self._columns(stride) * stride**2
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the temporal grids."""
        return self._rows(self.stride), self._columns(self.stride)

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the canvas, in pixels."""
        rows, columns = self.grid
        return rows * self.stride * SHUFFLE, columns * self.stride * SHUFFLE

    def _rows(self, stride: int) -> int:
        return ceil((self.height + (self.margin or (0, 0))[0]) / (stride * SHUFFLE))

    def _columns(self, stride: int) -> int:
        return ceil((self.width + (self.margin or (0, 0))[1]) / (stride * SHUFFLE))


class Fast(nn.Module):
    """Network that maps times to frames."""

    def __init__(self, config: FastConfig) -> None:
        super().__init__()
        rows, columns = config.grid
        stride = config.stride
        trunk = config.trunk_channels
        temporal = [
            TemporalGrid(frames=config.frames, period=period, shape=(channels, rows, columns))
            for period, channels in config.latents
        ]
        scene = StillGrid(shape=(config.scene_channels, rows * stride, columns * stride))
        self.stride = stride
        self.latents = nn.ModuleList([*temporal, scene])
        self.mix = nn.Conv2d(
            sum(channels for _, channels in config.latents), config.stem_channels, 3, padding=1
        )
        self.project = nn.Conv2d(config.stem_channels, trunk, 1)
        self.before = SeparableBlock(trunk, torch.sin)
        self.gather = nn.Conv2d(trunk, config.rank, 3, padding=1, bias=False)
        self.expand = nn.Conv2d(config.rank, trunk * stride**2, 1)
        self.detail = nn.Conv2d(config.scene_channels, trunk, 1, bias=False)
        # A 3x3 head instead of the second block would double all multiplications.
        # It also learns less in the same time.
        self.after = nn.Sequential(
            SeparableBlock(trunk, torch.sin), SeparableBlock(trunk, torch.sin)
        )
        self.head = nn.Conv2d(trunk, 3 * SHUFFLE**2, 1)
        self.camera = None
        if config.margin is not None:
            self.camera = Camera(
                frames=config.frames, size=(config.height, config.width), canvas=config.canvas
            )

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W) in 0..1.

        Without a camera, H and W are those of the canvas.
        """
        *temporal, scene = self.latents
        x = torch.sin(
            self.mix(torch.cat([latent(t) for latent in temporal], dim=1))
        )  # (B, C, h, w)
        coarse = self.project(x)
        fine = F.pixel_shuffle(
            self.expand(self.gather(self.before(coarse))), self.stride
        ) + self.detail(scene(t))
        skip = F.interpolate(coarse, scale_factor=float(self.stride), mode="bilinear")
        canvas = torch.sigmoid(planes(self.head(self.after(torch.sin(fine)) + skip), SHUFFLE))
        return canvas if self.camera is None else self.camera(canvas, t)
