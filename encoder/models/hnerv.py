"""HNeRV (CVPR 2023) and RC-HNeRV (arXiv 2407.06164): convolutions enlarge a small feature map.

Each frame has its own feature map, which is coded like weights.
An encoder makes the feature maps; it runs during the fit only.
HNeRV's first stage has 1x1 kernels, as in its code.

RC-HNeRV adds an enlarged thumbnail of the frame to the network's output.
Its code neither rounds nor counts the thumbnails.
Here they are 8-bit pixels, coded with the weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.models.base import VideoNetwork, VideoShape
from encoder.models.hnerv_encoder import ConvNextEncoder
from encoder.models.layers import ConvBlock, TemporalGrid, colours
from encoder.models.sizing import Layout, largest, layout, narrowed, share

STRIDES = (
    (5,), (5, 2), (4, 3), (5, 3), (5, 4), (4, 3, 2), (5, 3, 2), (5, 4, 2), (5, 3, 3), (4, 4, 3),
    (5, 4, 3), (5, 4, 4), (5, 3, 3, 2), (5, 3, 3, 3), (5, 4, 2, 2), (5, 4, 3, 2), (5, 4, 3, 3),
    (5, 4, 4, 2), (5, 3, 3, 3, 2), (5, 4, 3, 2, 2), (5, 4, 4, 2, 2), (5, 4, 3, 3, 2),
    (5, 4, 4, 3, 2), (5, 4, 3, 3, 3),
)  # fmt: skip
"""Choices for the strides of the stages."""
CELLS = 4
"""Preferred number of cells on the long side of the grid."""
EMBEDDING = 16
"""Channels of a frame's feature map."""
REDUCTION = 1.2
"""Ratio of a stage's channels to the next stage's."""
FLOOR = 12
"""Smallest number of channels of a stage, for frames of 1280 pixels."""
KERNELS = (1, 5)
"""Kernel sizes of the first stage and of the largest; they grow by 2 from stage to stage."""
THUMBNAIL = 128
"""Number of frame pixels along the side of a thumbnail's pixel (RC-HNeRV, section 3)."""
CENTRE = 128
"""Value subtracted from a thumbnail's pixels, so that they are small."""
PIXEL_SCALE = 16
"""Divisor of a thumbnail's pixels, which turns one 8-bit step into the step of given tensors."""
BLOCK = 8
"""Number of frames that are reduced at once."""
HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class HnervConfig:
    """Configuration of a segment's network."""

    frames: int
    """Number of frames of a segment."""
    layout: Layout
    """Strides of the stages, and the grid that they start from."""
    kernels: tuple[int, ...]
    """Kernel size of each stage."""
    channels: tuple[int, ...]
    """Channels before the first stage and after each stage."""
    residual: bool = False
    """Whether the network's output is added to thumbnails, as in RC-HNeRV."""


def hnerv_layout(height: int, width: int) -> Layout:
    """Return the strides and grid for frames of a size in pixels."""
    return layout(height, width, choices=STRIDES, cells=CELLS)


def hnerv_config(shape: VideoShape, *, parameters: float, residual: bool = False) -> HnervConfig:
    """Return the widest network within a number of parameters (HNeRV's code).

    Weights and feature maps together are the parameters.
    The weights get at least half of them, however many feature maps there are.
    """
    plan = hnerv_layout(shape.height, shape.width)
    floor = narrowed(FLOOR, share(shape.height, shape.width))
    first, most = KERNELS
    kernels = tuple(min(first + 2 * stage, most) for stage in range(len(plan.strides)))
    budget = max(parameters - EMBEDDING * prod(plan.grid) * shape.frames, parameters / 2)
    widths = [
        largest(lambda stem: _weights(stem, kernels, plan.strides, floor), budget, lowest=floor)
    ]
    for _ in kernels:
        widths.append(max(round(widths[-1] / REDUCTION), floor))
    return HnervConfig(
        frames=shape.frames, layout=plan, kernels=kernels, channels=tuple(widths), residual=residual
    )


def _weights(stem: int, kernels: Sequence[int], strides: Sequence[int], floor: int) -> float:
    """Return the number of weights of a stem and its stages, as HNeRV's code counts them.

    The count has 3x3 kernels in the stem, and neither biases nor a head.
    """
    widths = [max(stem / REDUCTION**stage, floor) for stage in range(len(kernels) + 1)]
    stages = zip(pairwise(widths), kernels, strides, strict=True)
    return 9 * EMBEDDING * stem + sum(
        a * b * kernel**2 * stride**2 for (a, b), kernel, stride in stages
    )


class Hnerv(VideoNetwork):
    """Network that maps times to frames."""

    def __init__(self, config: HnervConfig) -> None:
        super().__init__()
        self.layout = layout = config.layout
        self.latents = nn.ModuleList(
            [TemporalGrid(frames=config.frames, period=1, shape=(EMBEDDING, *layout.grid))]
        )
        self.stem = nn.Conv2d(EMBEDDING, config.channels[0], 1)
        stages = zip(pairwise(config.channels), layout.strides, config.kernels, strict=True)
        self.blocks = nn.Sequential(
            *(
                ConvBlock(before, after, stride, kernel=kernel, activation=F.gelu)
                for (before, after), stride, kernel in stages
            )
        )
        self.head = nn.Conv2d(config.channels[-1], 3, 3, padding=1)
        self.thumbnails = (
            Thumbnails(frames=config.frames, canvas=layout.canvas) if config.residual else None
        )

    def latent_parameters(self) -> list[nn.Parameter]:
        """Return the feature maps of the frames."""
        return list(self.latents.parameters())

    def prepare(self, read: Callable[[], Tensor], motion: Tensor | None) -> None:
        """Make the thumbnails, if there are any."""
        del motion
        if self.thumbnails is not None:
            self.thumbnails.take(read())

    def frame_encoder(self) -> nn.Module:
        """Return a new encoder of frames (HNeRV, section 3.1)."""
        return frame_encoder(self.layout)

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W) of the layout's canvas size.

        Colours are in 0..1; with thumbnails they may lie outside.
        """
        (latent,) = self.latents
        x = self.head(self.blocks(F.gelu(self.stem(latent(t)))))
        return colours(x) if self.thumbnails is None else torch.tanh(x) + self.thumbnails(t)


def frame_encoder(layout: Layout) -> ConvNextEncoder:
    """Return an encoder that makes feature maps (B, EMBEDDING, h, w) of frames (B, 3, H, W)."""
    return ConvNextEncoder(channels=EMBEDDING, strides=layout.strides, canvas=layout.canvas)


class Thumbnails(nn.Module):
    """A small picture for each frame, enlarged. It is given and coded, not learned."""

    def __init__(self, *, frames: int, canvas: tuple[int, int]) -> None:
        super().__init__()
        self.canvas = canvas
        self.size = tuple(max(side // THUMBNAIL, 1) for side in canvas)
        self.pixels = TemporalGrid(frames=frames, period=1, shape=(3, *self.size))
        self.pixels.requires_grad_(requires_grad=False)

    def take(self, frames: Tensor) -> None:
        """Make the thumbnails of uint8 frames (T, 3, H, W), at most as large as the canvas."""
        small = torch.cat([self._shrunk(block) for block in frames.split(BLOCK)])
        values = self.pixels.values
        values[: len(frames)] = (small.round().clamp(0, 255) - CENTRE) / PIXEL_SCALE
        values[len(frames) :] = values[len(frames) - 1]

    def _shrunk(self, frames: Tensor) -> Tensor:
        height, width = self.canvas
        whole = F.pad(
            frames.float(),
            (0, width - frames.shape[3], 0, height - frames.shape[2]),
            mode="replicate",
        )
        return F.interpolate(whole, size=self.size, mode="bicubic", antialias=True)

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to pictures (B, 3, H, W) in about 0..1."""
        pixels = (self.pixels(t) * PIXEL_SCALE + CENTRE) / 255
        # Interpolation rounds size * factor down, so the factor is slightly larger.
        factor = [(whole + HALF) / part for whole, part in zip(self.canvas, self.size, strict=True)]
        return F.interpolate(pixels, scale_factor=factor, mode="bicubic")
