"""The default network, made for small machines.

It has latents instead of a stem, late upsampling, and a canvas under a camera.
All layers work at 1/4 of the frame's height and width, or less. One PixelShuffle makes the picture.
A warp then moves each frame to the camera's place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.models.base import VideoNetwork, VideoShape
from encoder.models.camera import Camera
from encoder.models.layers import SeparableBlock, StillGrid, TemporalGrid, planes


@dataclass(frozen=True, kw_only=True)
class FastConfig(VideoShape):
    """Configuration of a segment's network: its frame size and widths."""

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
    activation: Callable[[Tensor], Tensor] = torch.sin
    """Nonlinearity of the trunk."""
    scene_channels: int = 16
    """Channels of the still grid, at the trunk's resolution."""
    shuffle: int = 4
    """Upscaling factor of the head: the trunk works at 1/shuffle of the frame's sides."""
    strides: tuple[int, ...] = (5, 4, 6)
    """Possible upscaling factors of the trunk; the one that pads the canvas least is used."""

    @property
    def stride(self) -> int:
        """Upscaling factor of the trunk."""
        return min(
            self.strides, key=lambda stride: self._rows(stride) * self._columns(stride) * stride**2
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the temporal grids."""
        return self._rows(self.stride), self._columns(self.stride)

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the canvas, in pixels."""
        rows, columns = self.grid
        return rows * self.stride * self.shuffle, columns * self.stride * self.shuffle

    def _rows(self, stride: int) -> int:
        return ceil((self.height + (self.margin or (0, 0))[0]) / (stride * self.shuffle))

    def _columns(self, stride: int) -> int:
        return ceil((self.width + (self.margin or (0, 0))[1]) / (stride * self.shuffle))


class Fast(VideoNetwork):
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
        self.shuffle = config.shuffle
        self.latents = nn.ModuleList([*temporal, scene])
        self.mix = nn.Conv2d(
            sum(channels for _, channels in config.latents), config.stem_channels, 3, padding=1
        )
        self.project = nn.Conv2d(config.stem_channels, trunk, 1)
        self.activation = config.activation
        self.before = SeparableBlock(trunk, config.activation)
        self.gather = nn.Conv2d(trunk, config.rank, 3, padding=1, bias=False)
        self.expand = nn.Conv2d(config.rank, trunk * stride**2, 1)
        self.detail = nn.Conv2d(config.scene_channels, trunk, 1, bias=False)
        # A 3x3 head instead of the second block would double all multiplications.
        # It also learns less in the same time.
        self.after = nn.Sequential(
            SeparableBlock(trunk, config.activation), SeparableBlock(trunk, config.activation)
        )
        self.head = nn.Conv2d(trunk, 3 * config.shuffle**2, 1)
        self.camera = None
        if config.margin is not None:
            self.camera = Camera(
                frames=config.frames, size=(config.height, config.width), canvas=config.canvas
            )

    def latent_parameters(self) -> list[nn.Parameter]:
        """Return the temporal grids and the still grid."""
        return list(self.latents.parameters())

    def displacements(self) -> nn.Parameter | None:
        """Return the camera's motion, if there is a camera."""
        return None if self.camera is None else self.camera.motion

    def prepare(self, read: Callable[[], Tensor], motion: Tensor | None) -> None:
        """Aim the camera, if there is one."""
        del read
        if self.camera is not None and motion is not None:
            self.camera.aim(motion)

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W) in 0..1.

        Without a camera, H and W are those of the canvas.
        """
        *temporal, scene = self.latents
        x = self.activation(
            self.mix(torch.cat([latent(t) for latent in temporal], dim=1))
        )  # (B, C, h, w)
        coarse = self.project(x)
        fine = F.pixel_shuffle(
            self.expand(self.gather(self.before(coarse))), self.stride
        ) + self.detail(scene(t))
        skip = F.interpolate(coarse, scale_factor=float(self.stride), mode="bilinear")
        trunk = self.after(self.activation(fine)) + skip
        canvas = torch.sigmoid(planes(self.head(trunk), self.shuffle))
        return canvas if self.camera is None else self.camera(canvas, t)
