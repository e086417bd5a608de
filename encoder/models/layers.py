"""Shared parts of the networks: positional encoding, grids and convolution blocks."""

from collections.abc import Callable, Sequence
from math import ceil, pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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

    period = 1

    def __init__(self, *, shape: Sequence[int]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.empty(1, *shape).uniform_(-1e-3, 1e-3))

    def forward(self, _: Tensor) -> Tensor:
        """Map times in frames of shape (B,) to the same values (1, *shape)."""
        return self.values


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
