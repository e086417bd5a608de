"""Parts that the networks share: positional encoding, temporal grids, camera, separable block, upsampling block."""

from collections.abc import Callable, Sequence
from math import ceil, pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.quantizer import as_given

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
    """A learned value every `period` frames, linearly interpolated in between (FFNeRV, section 3.3)."""

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
        # index_select, not values[index]: it becomes ONNX's Gather, which engines know better than GatherND.
        start = self.values.index_select(0, index)
        return start + weight * (self.values.index_select(0, index + 1) - start)


class StillGrid(nn.Module):
    """A learned value for all times."""

    def __init__(self, *, shape: Sequence[int]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.empty(1, *shape).uniform_(-1e-3, 1e-3))

    def forward(self, _: Tensor) -> Tensor:
        """Map times in frames of shape (B,) to the one value (1, *shape)."""
        return self.values


class Camera(nn.Module):
    """Cuts each frame from a canvas that is larger, at the place and in the shape that its corners' displacements say.

    The displacements are no weights that are learned, but are coded with them.
    """

    origin: Tensor
    scale: Tensor

    def __init__(self, *, frames: int, size: tuple[int, int], canvas: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.displacements = TemporalGrid(frames=frames, period=1, shape=(2, 2, 2))
        self.displacements.requires_grad_(requires_grad=False)
        self.displacements.values.zero_()
        (top, bottom), (left, right) = [
            ((whole - part) / 2, (whole + part) / 2 - 1) for whole, part in zip(canvas, size, strict=True)
        ]
        corners = torch.tensor([[[left, right], [left, right]], [[top, top], [bottom, bottom]]])  # x and y, on the canvas
        scale = torch.tensor([2 / (side - 1) for side in reversed(canvas)])[:, None, None]
        self.register_buffer("origin", corners * scale - 1, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def aim(self, displacements: Tensor) -> None:
        """Take the displacements of the frames' corners (T, 2, 2, 2), in pixels, as `motion.estimate_motion` returns them."""
        values = self.displacements.values
        values[: len(displacements)] = as_given(displacements)
        values[len(displacements) :] = values[len(displacements) - 1]

    def forward(self, canvas: Tensor, t: Tensor) -> Tensor:
        """Map canvases (B, C, H', W') at times in frames (B,) to frames (B, C, H, W)."""
        corners = self.origin + self.scale * self.displacements(t)  # (B, 2, 2, 2), -1..1
        # A factor, not a size: that would become operators that look at shapes, which a clip must not have.
        factor = (self.size[0] / 2, self.size[1] / 2)
        places = F.interpolate(corners, scale_factor=factor, mode="bilinear", align_corners=True)  # (B, 2, H, W)
        return F.grid_sample(canvas, places.permute(0, 2, 3, 1), padding_mode="border", align_corners=True)


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
