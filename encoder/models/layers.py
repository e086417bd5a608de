"""Shared parts of the networks: positional encoding, grids, camera and convolution blocks."""

from collections.abc import Callable, Sequence
from math import ceil, pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.models.base import as_given

Activation = Callable[[Tensor], Tensor]
PARTS = 256
"""Resolution of a positional encoding, in parts of a turn.

From the first number to the last, each phase grows by a whole number of parts.
"""


class PositionalEncoding(nn.Module):
    """Sines and cosines of a number, at frequencies in geometric progression (NeRV, section 3.1).

    Most frequencies turn many times between two whole numbers.
    Each is replaced by its slowest alias, which has the same values at whole numbers.
    The original phases are too large for float32, so their values would differ between engines.
    Frequencies are also rounded, so that they take fewer bytes of the topology.
    The rounding changes phases by at most 1/PARTS of a turn.
    """

    frequencies: Tensor

    def __init__(self, *, base: float, levels: int, count: int) -> None:
        """Take the count of whole numbers: for the encoding of a time, that of the frames."""
        super().__init__()
        turns = base ** torch.arange(levels, dtype=torch.float64) / (2 * count)
        turns = ((turns - turns.round()) * PARTS * count).round() / (PARTS * count)
        self.count = count
        self.register_buffer("frequencies", (2 * turns).float(), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Map numbers in 0..count of shape (B,) to (B, 2 * levels)."""
        phase = pi * (t[:, None] * self.frequencies)
        return torch.cat([phase.sin(), phase.cos()], dim=1)

    def shares(self, x: Tensor) -> Tensor:
        """Map other numbers than times, in 0..1 and of shape (N,), to (N, 2 * levels).

        They share the table of frequencies, because a second table would take more bytes.
        """
        return self(x * self.count)


class TemporalGrid(nn.Module):
    """Learned values every `period` frames, linear in between (FFNeRV, section 3.3)."""

    def __init__(self, *, frames: int, period: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.period = period
        rows = max(ceil((frames - 1) / period) + 1, 2)
        self.values = nn.Parameter(torch.empty(rows, *shape).uniform_(-1e-3, 1e-3))

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames of shape (B,) to values (B, *shape)."""
        last = len(self.values) - 1
        position = (t / self.period).clamp(0, last)
        before = position.floor().clamp(max=last - 1)
        weight = (position - before).unflatten(0, (-1, *[1] * (self.values.ndim - 1)))
        index = before.long()
        # index_select exports as Gather; values[index] would export as GatherND.
        # Engines support Gather better.
        start = self.values.index_select(0, index)
        return start + weight * (self.values.index_select(0, index + 1) - start)


class StillGrid(nn.Module):
    """Learned values that are the same for all times."""

    def __init__(self, *, shape: Sequence[int]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.empty(1, *shape).uniform_(-1e-3, 1e-3))

    def forward(self, _: Tensor) -> Tensor:
        """Map times in frames of shape (B,) to the same values (1, *shape)."""
        return self.values


class Camera(nn.Module):
    """Camera that cuts each frame from a canvas.

    The displacements of a frame's corners define its place and shape on the canvas.
    They are given and coded with the weights, not learned.
    """

    origin: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        frames: int | None,
        size: tuple[int, int],
        canvas: tuple[int, int],
        sampling: str = "bilinear",
    ) -> None:
        """Take the number of frames, or None for a camera that stands still."""
        super().__init__()
        self.size = size
        self.sampling = sampling
        self.displacements = None
        if frames is not None:
            self.displacements = TemporalGrid(frames=frames, period=1, shape=(2, 2, 2))
            self.displacements.requires_grad_(requires_grad=False)
            self.displacements.values.zero_()
        (top, bottom), (left, right) = [
            ((whole - part) / 2, (whole + part) / 2 - 1)
            for whole, part in zip(canvas, size, strict=True)
        ]
        corners = torch.tensor(
            [[[left, right], [left, right]], [[top, top], [bottom, bottom]]]
        )  # x and y, on the canvas
        scale = torch.tensor([2 / (side - 1) for side in reversed(canvas)])[:, None, None]
        self.register_buffer("origin", corners * scale - 1, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    @property
    def motion(self) -> nn.Parameter | None:
        """The displacements of all frames' corners (T, 2, 2, 2), if the camera moves."""
        return None if self.displacements is None else self.displacements.values

    def aim(self, displacements: Tensor) -> None:
        """Set the displacements of the frames' corners (T, 2, 2, 2), in pixels.

        They have the order of `encoder.segmentation.global_motion.estimate_motion`.
        The camera must be one that moves.
        """
        values = self.motion
        assert values is not None
        values[: len(displacements)] = as_given(displacements)
        values[len(displacements) :] = values[len(displacements) - 1]

    def forward(
        self, canvas: Tensor, t: Tensor, field: Tensor | None = None, *, reduction: int = 1
    ) -> Tensor:
        """Map canvases (B, C, H', W') at times in frames (B,) to frames (B, C, H, W).

        `field` (B, 2, rows, columns) displaces the parts of each frame further, in pixels.
        Its outermost nodes lie on the frame's corners.
        `reduction` divides the sides of the canvases and of the frames, corners upon corners.
        """
        height, width = (ceil(side / reduction) for side in self.size)
        nodes = self.origin[None]  # (1, 2, 2, 2), -1..1
        if self.displacements is not None:
            nodes = self.origin + self.scale * self.displacements(t)  # (B, 2, 2, 2)
        if field is not None:
            rows, columns = field.shape[2:]
            nodes = resized(nodes, (rows, columns)) + self.scale * field
        elif self.displacements is None:
            # Times make a batch of the places, and keep the exporter from folding them to a table.
            nodes = nodes + 0 * t[:, None, None, None]
        places = resized(nodes, (height, width))  # (B, 2, H, W)
        return F.grid_sample(
            canvas,
            places.permute(0, 2, 3, 1),
            mode=self.sampling,
            padding_mode="border",
            align_corners=True,
        )


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, C, h, w) resized bilinearly to (B, C, *size), corners upon corners."""
    # A factor, not a size: a size would export operators that read shapes.
    # A clip must not have those.
    factors = tuple(_factor(*sides) for sides in zip(x.shape[2:], size, strict=True))
    return F.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=True)


def _factor(before: int, after: int) -> float:
    """Return a factor that makes a side from another, whatever its rounding to float32."""
    # Multiples of 1/2 are exact. For others, a part of a pixel more keeps rounding from losing one.
    return after / before if 2 * after % before == 0 else (after + 0.25) / before


def planes(x: Tensor, factor: int) -> Tensor:
    """Return F.pixel_shuffle of (B, C * factor^2, H, W), with each channel contiguous in memory.

    F.pixel_shuffle itself would keep the channels of a pixel together, as convolutions prefer.
    In that order, later operations on three channels are slow.
    """
    if torch.compiler.is_exporting():  # exports as one operator
        return F.pixel_shuffle(x, factor)
    batch, channels, height, width = x.shape
    channels //= factor**2
    blocks = x.view(batch, channels, factor, factor, height, width)
    return blocks.permute(0, 1, 4, 2, 5, 3).reshape(
        batch, channels, height * factor, width * factor
    )


class ConvBlock(nn.Module):
    """NeRV's block (section 3.1): convolution, PixelShuffle and an optional activation."""

    def __init__(
        self, before: int, after: int, stride: int, *, kernel: int, activation: Activation | None
    ) -> None:
        super().__init__()
        self.stride = stride
        self.activation = activation
        self.conv = nn.Conv2d(before, after * stride**2, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C, stride * H, stride * W)."""
        x = self.conv(x)
        if self.stride > 1:
            x = F.pixel_shuffle(x, self.stride)
        return x if self.activation is None else self.activation(x)


class SeparableBlock(nn.Module):
    """Separable convolution residual block, SCRB (NeRV++, figure 2): x + pw2(act(pw1(dw(x)))).

    `expansion` is the ratio of its inner width to its channels; it is 1 in the paper.
    """

    def __init__(self, channels: int, activation: Activation, *, expansion: float = 1.0) -> None:
        super().__init__()
        inside = round(expansion * channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise1 = nn.Conv2d(channels, inside, 1)
        self.pointwise2 = nn.Conv2d(inside, channels, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.pointwise2(self.activation(self.pointwise1(self.depthwise(x))))


class UpsamplingBlock(nn.Module):
    """NeRV++'s block (figure 2): project, refine, PixelShuffle, refine, add the skip.

    The skip is the projection, upsampled bilinearly.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        *,
        activation: Activation,
        shuffle_activation: Activation,
        expansion: float = 1.0,
        depth: int = 1,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.project = nn.Conv2d(in_channels, channels, 1)
        self.before = _separable(channels, activation, expansion=expansion, depth=depth)
        self.expand = nn.Conv2d(channels, channels * stride**2, 3, padding=1)
        self.after = _separable(channels, activation, expansion=expansion, depth=depth)
        self.shuffle_activation = shuffle_activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C, stride * H, stride * W)."""
        skip = self.project(x)
        fine = F.pixel_shuffle(self.expand(self.before(skip)), self.stride)
        fine = self.after(self.shuffle_activation(fine))
        # The skip is upsampled last, so that a decoder need not hold it during the rest.
        return fine + F.interpolate(skip, scale_factor=float(self.stride), mode="bilinear")


def _separable(channels: int, activation: Activation, *, expansion: float, depth: int) -> nn.Module:
    return nn.Sequential(
        *(SeparableBlock(channels, activation, expansion=expansion) for _ in range(depth))
    )


def colours(x: Tensor) -> Tensor:
    """Return the output of a head (B, 3, H, W) as colours in 0..1."""
    return (torch.tanh(x) + 1) / 2


def normalised(x: Tensor) -> Tensor:
    """Return features (B, C, H, W) normalized to mean 0 and deviation 1 in each channel.

    Features of a single cell are returned unchanged.
    """
    if x.shape[2] * x.shape[3] == 1:
        return x
    result = F.instance_norm(x)
    if result.requires_grad:
        # For a batch of 1, torch 2.13 misreads a channels-last gradient on CPUs.
        result.register_hook(Tensor.contiguous)
    return result


def steps(count: int, weight: Tensor) -> Tensor:
    """Return 0 .. count - 1, (count,).

    The numbers depend on a weight, so that torch's exporter does not fold them to constants.
    Otherwise the topology would hold every value computed from them.
    """
    return torch.arange(count, dtype=weight.dtype, device=weight.device) + 0 * weight[0]
