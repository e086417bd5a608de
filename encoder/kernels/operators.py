"""Compiled operators of the network `fast` on CPUs, with gradients.

`encoder.models.layers` and `encoder.models.pyramid` have the same arithmetic by torch's operators,
which is the reference.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from encoder.kernels.compiled import call, function, integers, pointer

PARTS = 16, 8
"""Channels of the heads for the luma and for the chroma, as in `render.c`."""
CHANNELS = sum(PARTS)
BLOCK_CHANNELS = 32, 48, 64
"""Numbers of channels that `block.c` and `mix.c` know."""
TAPS = 3, 3
"""Rows and columns of a depthwise convolution."""
IMAGES = 4
"""Axes of a batch of images."""


class _Shape(ctypes.Structure):
    """The struct `Shape` of `render.c`."""

    _fields_ = integers("frames height width head_height head_width node_rows node_columns threads")


class _Block(ctypes.Structure):
    """The struct `Block` of `block.c`."""

    _fields_ = integers("frames height width channels threads")


class _Mix(ctypes.Structure):
    """The struct `Mix` of `mix.c`."""

    _fields_ = integers("frames height width inputs channels threads")


def render(heads: Tensor, nodes: Tensor, size: tuple[int, int]) -> Tensor:
    """Map heads (B, 24, h, w), 16 channels for the luma and 8 for the chroma, to frames.

    The nodes (B, 2, rows, columns) are places on the canvas, as `Camera.nodes` returns them.
    The frames are (B, 3, *size). Raises ValueError for other shapes, and for an empty batch.
    """
    frames = len(heads)
    if (
        not frames
        or heads.shape[1:2] != (CHANNELS,)
        or nodes.shape[:2] != (frames, 2)
        or heads.ndim != IMAGES
        or nodes.ndim != IMAGES
        or not (heads.numel() and nodes.numel() and min(size) > 0)
    ):
        raise ValueError(f"no frames {size} of heads {heads.shape} and nodes {nodes.shape}")
    return _Render.apply(heads, nodes, size)


def scaled_gelu(x: Tensor) -> Tensor:
    """Map x of any shape to silu(1.702 x)."""
    return _ScaledGelu.apply(x)


def mixed(moving: Tensor, weight: Tensor, bias: Tensor, still: Tensor) -> Tensor:
    """Map moving (B, K, h, w) and still (1, C, h, w) to scaled_gelu(conv(moving) + still).

    The convolution is of 1x1, with weight (C, K, 1, 1) and bias (C,). C is one of BLOCK_CHANNELS.
    Raises ValueError for other shapes.
    """
    channels, inputs = weight.shape[:2]
    if (
        channels not in BLOCK_CHANNELS
        or not moving.numel()
        or weight.shape != (channels, inputs, 1, 1)
        or bias.shape != (channels,)
        or moving.shape[1:2] != (inputs,)
        or still.shape != (1, channels, *moving.shape[2:])
    ):
        raise ValueError(f"no mix of {moving.shape} and {still.shape} with {weight.shape}")
    return _Mixed.apply(moving, weight, bias, still)


def separable_block(x: Tensor, *weights: Tensor) -> Tensor:
    """Map x (B, C, H, W) to x + second(scaled_gelu(first(depthwise(x)))), of the same shape.

    C is one of BLOCK_CHANNELS. The weights are those of a depthwise convolution of 3x3 and of two
    convolutions of 1x1, each followed by its bias. Raises ValueError for other shapes.
    """
    channels = x.shape[1] if x.ndim == IMAGES else 0
    square, bias = (channels, channels, 1, 1), (channels,)
    expected = [(channels, 1, *TAPS), bias, square, bias, square, bias]
    if channels not in BLOCK_CHANNELS or not x.numel() or [w.shape for w in weights] != expected:
        raise ValueError(f"no block of {x.shape} with weights {[w.shape for w in weights]}")
    return _SeparableBlock.apply(x, *weights)


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, nodes: Tensor, size: tuple[int, int]) -> Tensor:
        # Convolutions keep the channels of a pixel together.
        heads, nodes = heads.contiguous(memory_format=torch.channels_last), nodes.contiguous()
        frames, _, height, width = heads.shape
        ctx.shape = _Shape(frames, *size, height, width, *nodes.shape[2:], torch.get_num_threads())
        # The heads' values, each through its activation, in the order of the canvas's pixels.
        canvases = [heads.new_empty(frames, count, height, width) for count in PARTS]
        pictures = heads.new_empty(frames, 3, *size)
        call("render", ctx.shape, heads, nodes, *canvases, pictures)
        ctx.save_for_backward(nodes, *canvases)
        return pictures

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (of the decorator)
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        nodes, *canvases = ctx.saved_tensors
        frames, _, height, width = canvases[0].shape
        heads = nodes.new_empty(frames, height, width, CHANNELS).permute(0, 3, 1, 2)
        wanted = [heads, torch.empty_like(nodes)]
        given = gradients[0].contiguous()
        call("render_back", ctx.shape, nodes, *canvases, given, *wanted)
        return *wanted, None


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, moving: Tensor, weight: Tensor, bias: Tensor, still: Tensor) -> Tensor:
        moving, weight, bias = moving.contiguous(), weight.contiguous(), bias.contiguous()
        still = still.contiguous(memory_format=torch.channels_last)
        (frames, inputs, height, width), channels = moving.shape, len(weight)
        threads = torch.get_num_threads()
        ctx.shape = _Mix(frames, height, width, inputs, channels, threads)
        hidden, out = (
            moving.new_empty(frames, height, width, channels).permute(0, 3, 1, 2) for _ in range(2)
        )
        call("mix", ctx.shape, moving, weight, bias, still, hidden, out)
        ctx.save_for_backward(moving, weight, hidden)
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (of the decorator)
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, ...]:
        moving, weight, hidden = ctx.saved_tensors
        given = gradients[0].contiguous(memory_format=torch.channels_last)
        wanted = (
            torch.empty_like(moving),
            torch.empty_like(weight),
            weight.new_empty(len(weight)),
            torch.empty_like(hidden[:1]),
        )
        call("mix_back", ctx.shape, moving, weight, hidden, given, *wanted)
        return wanted


class _SeparableBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        weights = tuple(weight.contiguous() for weight in weights)
        frames, channels, height, width = x.shape
        ctx.shape = _Block(frames, height, width, channels, torch.get_num_threads())
        depth, hidden, out = (torch.empty_like(x) for _ in range(3))
        call("block", ctx.shape, x, *weights, depth, hidden, out)
        ctx.save_for_backward(x, *weights[::2], depth, hidden)
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (of the decorator)
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, ...]:
        x, *matrices, depth, hidden = ctx.saved_tensors
        given = gradients[0].contiguous(memory_format=torch.channels_last)
        wanted = [torch.empty_like(x)]
        for matrix in matrices:
            wanted += [torch.empty_like(matrix), matrix.new_empty(len(matrix))]
        call("block_back", ctx.shape, x, *matrices, depth, hidden, given, *wanted)
        return tuple(wanted)


class _ScaledGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if not x.is_contiguous(memory_format=torch.channels_last):
            x = x.contiguous()
        ctx.save_for_backward(x)
        return _pointwise("scaled_gelu", x)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (of the decorator)
        ctx: Any, *gradients: Tensor
    ) -> Tensor:
        (x,) = ctx.saved_tensors
        given = gradients[0]
        if given.stride() != x.stride():
            given = torch.empty_like(x).copy_(given)
        return _pointwise("scaled_gelu_back", x, given)


def _pointwise(name: str, *tensors: Tensor) -> Tensor:
    out = torch.empty_like(tensors[0])
    count, threads = ctypes.c_ssize_t(out.numel()), torch.get_num_threads()
    function(name)(count, threads, *map(pointer, (*tensors, out)))
    return out
