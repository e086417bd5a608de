"""HNeRV (CVPR 2023) and RC-HNeRV (arXiv 2407.06164): a small feature map for each frame, and convolutions that enlarge it.

The feature maps are made by an encoder, which runs while fitting only; they are coded like weights. HNeRV's first stage has 1x1
kernels, as in its code.

RC-HNeRV adds an enlarged thumbnail of the frame to the network's output. Its code neither rounds nor counts the thumbnails;
here they are 8-bit pixels, coded with the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.models.layers import ConvBlock, TemporalGrid, colours
from encoder.models.sizing import Layout, largest, layout, narrowed, share

STRIDES = (
    (5,), (5, 2), (4, 3), (5, 3), (5, 4), (4, 3, 2), (5, 3, 2), (5, 4, 2), (5, 3, 3), (4, 4, 3), (5, 4, 3), (5, 4, 4),
    (5, 3, 3, 2), (5, 3, 3, 3), (5, 4, 2, 2), (5, 4, 3, 2), (5, 4, 3, 3), (5, 4, 4, 2), (5, 3, 3, 3, 2), (5, 4, 3, 2, 2),
    (5, 4, 4, 2, 2), (5, 4, 3, 3, 2), (5, 4, 4, 3, 2), (5, 4, 3, 3, 3),
)  # fmt: skip
"""Strides of the stages, of which the ones are taken whose grid has about 4 cells on its long side."""
CELLS = 4
EMBEDDING = 16
"""Channels of a frame's feature map."""
REDUCTION = 1.2
FLOOR = 12
"""Ratio of a stage's channels to the next one's, and their smallest number for frames of 1280 pixels."""
KERNELS = (1, 5)
"""Kernel of the first stage, and the largest; each stage's is 2 larger than the one before."""
THUMBNAIL = 128
"""Pixels of a frame along one of its thumbnail (RC-HNeRV, section 3)."""
CENTRE = 128
"""Subtracted from a thumbnail's pixels, so that they are small."""
PIXEL_SCALE = 16
"""What a thumbnail's pixels are divided by, so that one 8-bit step is the step of tensors that are given."""
BLOCK = 8
"""Frames that are made small at once."""
HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class HnervConfig:
    """The network of a segment."""

    frames: int
    """Frames of a segment."""
    layout: Layout
    """Strides and grid."""
    kernels: tuple[int, ...]
    """Kernel of each stage."""
    channels: tuple[int, ...]
    """Channels before the first stage and after each."""
    residual: bool = False
    """Whether there are thumbnails, to which the network's output is added: RC-HNeRV."""


def hnerv_layout(height: int, width: int) -> Layout:
    """Return strides and grid for frames of a size."""
    return layout(height, width, choices=STRIDES, cells=CELLS)


def hnerv_config(
    *, height: int, width: int, frames: int, parameters: float, residual: bool = False
) -> HnervConfig:
    """Return the widest network of a number of weights and feature maps together (HNeRV's code).

    The weights have at least half of the number, however many feature maps there are.
    """
    plan = hnerv_layout(height, width)
    floor = narrowed(FLOOR, share(height, width))
    first, most = KERNELS
    kernels = tuple(min(first + 2 * stage, most) for stage in range(len(plan.strides)))
    budget = max(parameters - EMBEDDING * prod(plan.grid) * frames, parameters / 2)
    widths = [
        largest(lambda stem: _weights(stem, kernels, plan.strides, floor), budget, lowest=floor)
    ]
    for _ in kernels:
        widths.append(max(round(widths[-1] / REDUCTION), floor))
    return HnervConfig(
        frames=frames, layout=plan, kernels=kernels, channels=tuple(widths), residual=residual
    )


def _weights(stem: int, kernels: Sequence[int], strides: Sequence[int], floor: int) -> float:
    """Return the weights of a stem and its stages as HNeRV's code counts them: a stem of 3x3 kernels, no biases, no head."""
    widths = [max(stem / REDUCTION**stage, floor) for stage in range(len(kernels) + 1)]
    stages = zip(pairwise(widths), kernels, strides, strict=True)
    return 9 * EMBEDDING * stem + sum(
        a * b * kernel**2 * stride**2 for (a, b), kernel, stride in stages
    )


class Hnerv(nn.Module):
    """Map times to frames."""

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

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W), H and W those of the layout's canvas.

        Colours are in 0..1, but with thumbnails they may lie outside.
        """
        (latent,) = self.latents
        x = self.head(self.blocks(F.gelu(self.stem(latent(t)))))
        return colours(x) if self.thumbnails is None else torch.tanh(x) + self.thumbnails(t)


class Thumbnails(nn.Module):
    """A small picture for each frame, enlarged. It is not learned, but given and coded."""

    def __init__(self, *, frames: int, canvas: tuple[int, int]) -> None:
        super().__init__()
        self.canvas = canvas
        self.size = tuple(max(side // THUMBNAIL, 1) for side in canvas)
        self.pixels = TemporalGrid(frames=frames, period=1, shape=(3, *self.size))
        self.pixels.requires_grad_(requires_grad=False)

    def take(self, frames: Tensor) -> None:
        """Make the thumbnails of uint8 frames (T, 3, H, W) of at most the canvas's size."""
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
        # The sizes' product with the factor is rounded down, so it is made a little larger.
        factor = [(whole + HALF) / part for whole, part in zip(self.canvas, self.size, strict=True)]
        return F.interpolate(pixels, scale_factor=factor, mode="bicubic")
