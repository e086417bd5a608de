"""The default network: a pyramid of small latents, a small trunk, and a displacement field.

Latents of several scales are upsampled and mixed by 1x1 convolutions, as in Cool-Chic.
All layers work at 1/4 of the frame's height and width, and a PixelShuffle makes the luma.
The chroma has half of its height and width, as in 4:2:0 video.
A warp moves each frame to the camera's place, and its parts by a coarse field (as CoDeF's).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.kernels import operators
from encoder.kernels.compiled import are_for
from encoder.kernels.grids import enlarged_grids
from encoder.models.base import VideoNetwork, VideoShape
from encoder.models.camera import Camera, resized
from encoder.models.layers import SeparableBlock, StillGrid, TemporalGrid, planes

Grid = TemporalGrid | StillGrid

SHUFFLE = 4
"""Upscaling factor of the luma's head: the trunk works at 1/SHUFFLE of the frame's sides."""
REDUCTION = 2
"""Factor by which the canvas of the chroma is smaller than that of the luma, as in 4:2:0 video."""
HIGH_MOTION_PACE = 2.0
"""Factor of the latents' learning rate for high motion: each latent is then in few batches."""
DIFFERENCES = ((0.0, 1.402), (-0.344136, -0.714136), (1.772, 0.0))
"""Differences of R, G and B from the luma, by Cb and Cr (JPEG, ITU-T T.871, section 7)."""


def scaled_gelu(x: Tensor) -> Tensor:
    """Return about 1.702 GELU(x), by the fast formula of arXiv 1606.08415, section 2."""
    return operators.scaled_gelu(x) if are_for(x) else F.silu(1.702 * x)


def enlarged(grids: Sequence[Grid], t: Tensor, factors: Sequence[int]) -> list[Tensor]:
    """Return grids (B or 1, C, h, w) at times (B,), enlarged bilinearly by their factors."""
    return [
        F.interpolate(grid(t), scale_factor=float(factor), mode="bilinear")
        if factor > 1
        else grid(t)
        for grid, factor in zip(grids, factors, strict=True)
    ]


def has_operators(activation: Callable[[Tensor], Tensor], channels: int) -> bool:
    """Return whether there are compiled operators of a trunk with so many channels."""
    return activation is scaled_gelu and channels in operators.BLOCK_CHANNELS


def at_times(grids: Sequence[Grid], t: Tensor, factors: Sequence[int]) -> Tensor:
    """Return what `enlarged` returns as one tensor, by a compiled operator."""
    values, periods = [grid.values for grid in grids], [grid.period for grid in grids]
    return enlarged_grids(t, values, periods=periods, factors=factors)


class Block(SeparableBlock):
    """Separable block that is one compiled operator where there is one for it."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        convolutions = (self.depthwise, self.pointwise1, self.pointwise2)
        weights = [
            cast("Tensor", part) for each in convolutions for part in (each.weight, each.bias)
        ]
        if has_operators(self.activation, x.shape[1]) and are_for(x, *weights):
            return operators.separable_block(x, *weights)
        return super().forward(x)


@dataclass(frozen=True, kw_only=True)
class PyramidConfig(VideoShape):
    """Configuration of a segment's network: its frame size, widths and grids."""

    channels: int = 32
    """Channels of the trunk."""
    blocks: int = 3
    """Separable blocks of the trunk."""
    activation: Callable[[Tensor], Tensor] = scaled_gelu
    """Nonlinearity of the trunk."""
    temporal: tuple[tuple[int, int, int], ...] = ((4, 6, 16), (12, 6, 8))
    """Period in frames, channels, and stride in pixels of each temporal grid."""
    still: tuple[tuple[int, int], ...] = ((8, 4), (4, 8), (2, 16))
    """Channels and stride in pixels of each still grid."""
    cell: int | None = 32
    """Distance of the displacement field's nodes, in pixels; None for no field."""
    sampling: str = "bicubic"
    """Interpolation between the canvas's pixels, as in `torch.nn.functional.grid_sample`."""

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the canvas, in pixels."""
        unit = max(stride for *_, stride in (*self.temporal, *self.still))
        down, right = self.margin or (0, 0)
        return ceil((self.height + down) / unit) * unit, ceil((self.width + right) / unit) * unit

    @property
    def nodes(self) -> tuple[int, int]:
        """Rows and columns of the displacement field's nodes."""
        assert self.cell is not None
        return max(round(self.height / self.cell), 1) + 1, max(round(self.width / self.cell), 1) + 1


class Pyramid(VideoNetwork):
    """Network that maps times to frames."""

    differences: Tensor

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        self.latent_pace = HIGH_MOTION_PACE if config.high_motion else 1.0
        height, width = config.canvas
        temporal = [
            TemporalGrid(
                frames=config.frames,
                period=period,
                shape=(channels, height // stride, width // stride),
            )
            for period, channels, stride in config.temporal
        ]
        still = [
            StillGrid(shape=(channels, height // stride, width // stride))
            for channels, stride in config.still
        ]
        self.latents = nn.ModuleList([*temporal, *still])
        self.strides = tuple(stride for *_, stride in (*config.temporal, *config.still))
        self.still = len(still)
        features = sum(grid.values.shape[1] for grid in (*temporal, *still))
        self.mix = nn.Conv2d(features, config.channels, 1)
        self.trunk = nn.Sequential(
            *(Block(config.channels, config.activation) for _ in range(config.blocks))
        )
        self.activation = config.activation
        self.luma = nn.Conv2d(config.channels, SHUFFLE**2, 1)
        self.chroma = nn.Conv2d(config.channels, 2 * (SHUFFLE // REDUCTION) ** 2, 1)
        self.register_buffer(
            "differences", torch.tensor(DIFFERENCES)[..., None, None], persistent=False
        )
        self.field = None
        if config.cell is not None:
            self.field = TemporalGrid(frames=config.frames, period=1, shape=(2, *config.nodes))
        self.camera = Camera(
            frames=config.frames if config.margin is not None else None,
            size=(config.height, config.width),
            canvas=config.canvas,
            sampling=config.sampling,
        )

    def latent_parameters(self) -> list[nn.Parameter]:
        """Return the temporal grids, the still grids and the displacement field."""
        field = [] if self.field is None else [self.field.values]
        return [*self.latents.parameters(), *field]

    def displacements(self) -> nn.Parameter | None:
        """Return the camera's motion, if the camera moves."""
        return self.camera.motion

    def prepare(self, read: Callable[[], Tensor], motion: Tensor | None) -> None:
        """Aim the camera, if it moves."""
        del read
        if self.camera.motion is not None and motion is not None:
            self.camera.aim(motion)

    def features(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to the trunk's features (B, C, h, w) on the canvas."""
        grids = [cast("Grid", grid) for grid in self.latents]
        factors = [stride // SHUFFLE for stride in self.strides]
        first = len(grids) - self.still
        if are_for(t, *(grid.values for grid in grids)):
            moving = at_times(grids[:first], t, factors[:first])
            still = at_times(grids[first:], t[:1], factors[first:])
        else:
            all_grids = enlarged(grids, t, factors)
            still, moving = torch.cat(all_grids[first:], dim=1), torch.cat(all_grids[:first], dim=1)
        kinds = self.mix.weight.split([moving.shape[1], still.shape[1]], dim=1)
        # The still part is convolved once for all frames.
        bias = cast("Tensor", self.mix.bias)
        is_known = has_operators(self.activation, self.mix.out_channels)
        if is_known and are_for(moving, still, *kinds, bias):
            return self.trunk(operators.mixed(moving, kinds[0], bias, F.conv2d(still, kinds[1])))
        x = F.conv2d(moving, kinds[0], bias) + F.conv2d(still, kinds[1])
        return self.trunk(self.activation(x))

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W), which decoders clip to 0..1."""
        x = self.features(t)
        field = None
        if self.field is not None:
            is_compiled = are_for(t, self.field.values)
            field = at_times([self.field], t, [1]) if is_compiled else self.field(t)
        if self.camera.sampling == "bicubic" and are_for(x):
            heads = F.conv2d(x, *_joined(self.luma, self.chroma))
            nodes = self.camera.nodes(t, field)
            if are_for(heads, nodes):
                return operators.render(heads, nodes, self.camera.size)
        luma = torch.sigmoid(planes(self.luma(x), SHUFFLE))
        chroma = torch.tanh(planes(self.chroma(x), SHUFFLE // REDUCTION)) / 2
        seen = self.camera(chroma, t, field, reduction=REDUCTION)
        differences = resized(F.conv2d(seen, self.differences), self.camera.size)
        return self.camera(luma, t, field) + differences


def _joined(*layers: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of one convolution that has the channels of several."""
    weights, biases = zip(*((x.weight, cast("Tensor", x.bias)) for x in layers), strict=True)
    return torch.cat(weights), torch.cat(biases)
