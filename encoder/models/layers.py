"""Parts that the networks share: positional encoding, temporal grids, separable block, upsampling block."""

from collections.abc import Callable
from math import ceil, pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


class PositionalEncoding(nn.Module):
    """Sines and cosines of a time at geometrically growing frequencies (NeRV, section 3.1)."""

    frequencies: Tensor

    def __init__(self, *, base: float, levels: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", pi * base ** torch.arange(levels), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Map times in 0..1 of shape (B,) to (B, 2 * levels)."""
        phase = t[:, None] * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class TemporalGrid(nn.Module):
    """A learned latent every `period` frames, linearly interpolated in between (FFNeRV, section 3.3)."""

    def __init__(self, *, frames: int, period: int, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.period = period
        rows = max(ceil((frames - 1) / period) + 1, 2)
        self.values = nn.Parameter(torch.empty(rows, channels, *grid).uniform_(-1e-3, 1e-3))

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames of shape (B,) to latents (B, C, h, w)."""
        last = len(self.values) - 1
        position = (t / self.period).clamp(0, last)
        before = position.floor().clamp(max=last - 1)
        weight = (position - before)[:, None, None, None]
        index = before.long()
        # index_select, not values[index]: it becomes ONNX's Gather, which engines know better than GatherND.
        start = self.values.index_select(0, index)
        return start + weight * (self.values.index_select(0, index + 1) - start)


class SeparableBlock(nn.Module):
    """Separable convolution residual block, SCRB (NeRV++, figure 2): x + pw2(act(pw1(dw(x))))."""

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise1 = nn.Conv2d(channels, channels, 1)
        self.pointwise2 = nn.Conv2d(channels, channels, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.pointwise2(self.activation(self.pointwise1(self.depthwise(x))))


class UpsamplingBlock(nn.Module):
    """NeRV++'s block (figure 2): project, refine, PixelShuffle, refine, and add the bilinearly upsampled projection."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, *, activation: Activation, shuffle_activation: Activation
    ) -> None:
        super().__init__()
        self.stride = stride
        self.project = nn.Conv2d(in_channels, channels, 1)
        self.before = SeparableBlock(channels, activation)
        self.expand = nn.Conv2d(channels, channels * stride**2, 3, padding=1)
        self.after = SeparableBlock(channels, activation)
        self.shuffle_activation = shuffle_activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C, stride * H, stride * W)."""
        skip = self.project(x)
        fine = F.pixel_shuffle(self.expand(self.before(skip)), self.stride)
        coarse = F.interpolate(skip, scale_factor=float(self.stride), mode="bilinear")
        return self.after(self.shuffle_activation(fine)) + coarse
