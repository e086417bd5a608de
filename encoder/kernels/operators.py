"""Compiled operators of fits on CPUs, with gradients.

`encoder.models.layers`, `encoder.models.pyramid`, `encoder.training.context_rate` and
`encoder.training.qat` have the same arithmetic by torch's operators, which is the reference.
"""

import ctypes
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from encoder.kernels.library import load

FIELDS = (
    "frames", "height", "width", "head_height", "head_width", "node_rows", "node_columns",
    "threads",
)  # fmt: skip
"""Fields of the struct `Shape` of `render.c`."""
PARTS = 16, 8
"""Channels of the heads for the luma and for the chroma, as in `render.c`."""
CHANNELS = sum(PARTS)
CONTEXT_WEIGHTS = 9
"""Weights of a latent's contexts, as in `context_bits.c`."""
BLOCK_CHANNELS = 32, 48, 64
"""Numbers of channels of the blocks that `block.c` knows."""
TAPS = 3, 3
SUMMED = 4096
"""Number of squares that `square.c` adds up by themselves."""
IMAGES = 4
"""Axes of a batch of images."""

logger = logging.getLogger(__name__)


class _Shape(ctypes.Structure):
    """The struct `Shape` of `render.c`."""

    _fields_ = [(name, ctypes.c_int32) for name in FIELDS]


class _Latent(ctypes.Structure):
    """The struct `Latent` of `context_bits.c`."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("times", "channels", "height", "width", "threads")),
        ("levels", ctypes.c_float),
    ]


class _BlockShape(ctypes.Structure):
    """The struct `Block` of `block.c`."""

    _fields_ = [
        (name, ctypes.c_int32) for name in ("frames", "height", "width", "channels", "threads")
    ]


class _MixShape(ctypes.Structure):
    """The struct `Mix` of `mix.c`."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in ("frames", "height", "width", "inputs", "channels", "threads")
    ]


class _Grid(ctypes.Structure):
    """The struct `Grid` of `grids.c`."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("times", "channels", "height", "width", "factor")),
        ("period", ctypes.c_float),
        ("values", ctypes.c_void_p),
    ]


class _Batch(ctypes.Structure):
    """The struct `Batch` of `grids.c`."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in ("frames", "channels", "height", "width", "grids", "threads")
    ]


class _Matrix(ctypes.Structure):
    """The struct `Matrix` of `muon.c`."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("rows", "columns")),
        ("rate", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("gradient", "momentum", "values")),
    ]


class _Settings(ctypes.Structure):
    """The struct `Settings` of `muon.c`."""

    _fields_ = [
        ("decay", ctypes.c_float),
        ("iterations", ctypes.c_int32),
        *((name, ctypes.c_float) for name in "abc"),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """Return the operators' library, or None where there is none."""
    found = load(torch.backends.cpu.get_cpu_capability())
    if found is None:
        logger.info("no kernels were compiled for this CPU: fits of `fast` are slower")
    return found


_is_off = ContextVar("is_off", default=False)


@contextmanager
def off() -> Generator[None]:
    """Let torch's operators do all work for a while, to compare both and to count arithmetic."""
    token = _is_off.set(True)
    try:
        yield
    finally:
        _is_off.reset(token)


def are_for(*tensors: Tensor) -> bool:
    """Return whether the operators take these tensors: of float32, on a CPU, and not traced."""
    return (
        not torch.compiler.is_compiling()
        and not _is_off.get()
        and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)
        and library() is not None
    )


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


def enlarged_grids(
    t: Tensor, values: Sequence[Tensor], *, periods: Sequence[int], factors: Sequence[int]
) -> Tensor:
    """Map times in frames (B,) to the values of grids (T, C, h, w), enlarged and joined.

    `periods` are the frames from one of a grid's times to the next. `factors` enlarge the sides,
    bilinearly. Returns (B, sum of C, height, width). Raises ValueError if the sizes differ.
    """
    sizes = {
        (x.shape[2] * factor, x.shape[3] * factor)
        for x, factor in zip(values, factors, strict=True)
    }
    if len(sizes) != 1 or t.ndim != 1 or not t.numel() or not all(x.numel() for x in values):
        raise ValueError(f"no grids of {[x.shape for x in values]} at times {t.shape}")
    return _Grids.apply(t, periods, factors, sizes.pop(), *values)


def context_bits(y: Tensor, weights: Tensor, *, levels: int) -> Tensor:
    """Return the bits of a latent's values y (T, C, H, W), in steps, under the coder's contexts.

    The weights (9,) are those of `encoder.training.context_rate`, in levels of an octave.
    Raises ValueError for other shapes.
    """
    if y.ndim != IMAGES or not y.numel() or weights.shape != (CONTEXT_WEIGHTS,):
        raise ValueError(f"no contexts of values {y.shape} and weights {weights.shape}")
    return _ContextBits.apply(y, weights, levels)


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
        _call("render", ctx.shape, heads, nodes, *canvases, pictures)
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
        _call("render_back", ctx.shape, nodes, *canvases, given, *wanted)
        return *wanted, None


class _Grids(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        t: Tensor,
        periods: Sequence[int],
        factors: Sequence[int],
        size: tuple[int, int],
        *values: Tensor,
    ) -> Tensor:
        values, t = tuple(x.contiguous() for x in values), t.contiguous()
        channels = sum(x.shape[1] for x in values)
        ctx.batch = _Batch(len(t), channels, *size, len(values), torch.get_num_threads())
        ctx.settings = [x.shape for x in values], periods, factors
        pictures = values[0].new_empty(len(t), channels, *size)
        _call_grids(ctx.batch, values, periods, factors, t, pictures, is_back=False)
        ctx.save_for_backward(t)
        return pictures

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (of the decorator)
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        (t,) = ctx.saved_tensors
        shapes, periods, factors = ctx.settings
        wanted = [t.new_zeros(shape) for shape in shapes]
        _call_grids(ctx.batch, wanted, periods, factors, t, gradients[0].contiguous(), is_back=True)
        return None, None, None, None, *wanted


def _call_grids(
    batch: _Batch,
    values: Sequence[Tensor],
    periods: Sequence[int],
    factors: Sequence[int],
    t: Tensor,
    pictures: Tensor,
    *,
    is_back: bool,
) -> None:
    """Call `grids` of `grids.c`."""
    grids = (_Grid * len(values))(
        *(
            _Grid(*x.shape, factor, period, x.data_ptr())
            for x, period, factor in zip(values, periods, factors, strict=True)
        )
    )
    arguments = ctypes.byref(batch), grids, _pointer(t), _pointer(pictures), int(is_back)
    if library().grids(*arguments):
        raise MemoryError


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, moving: Tensor, weight: Tensor, bias: Tensor, still: Tensor
    ) -> Tensor:
        moving, weight, bias = moving.contiguous(), weight.contiguous(), bias.contiguous()
        still = still.contiguous(memory_format=torch.channels_last)
        (frames, inputs, height, width), channels = moving.shape, len(weight)
        threads = torch.get_num_threads()
        ctx.shape = _MixShape(frames, height, width, inputs, channels, threads)
        hidden, out = (
            moving.new_empty(frames, height, width, channels).permute(0, 3, 1, 2) for _ in range(2)
        )
        _call("mix", ctx.shape, moving, weight, bias, still, hidden, out)
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
        _call("mix_back", ctx.shape, moving, weight, hidden, given, *wanted)
        return wanted


class _SeparableBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        weights = tuple(weight.contiguous() for weight in weights)
        frames, channels, height, width = x.shape
        ctx.shape = _BlockShape(frames, height, width, channels, torch.get_num_threads())
        depth, hidden, out = (torch.empty_like(x) for _ in range(3))
        _call("block", ctx.shape, x, *weights, depth, hidden, out)
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
        _call("block_back", ctx.shape, x, *matrices, depth, hidden, given, *wanted)
        return tuple(wanted)


class _ContextBits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, levels: int) -> Tensor:
        y, weights = y.contiguous(), weights.contiguous()
        latent = _Latent(*y.shape, torch.get_num_threads(), levels)
        bits, *gradients = y.new_empty(()), torch.empty_like(y), torch.empty_like(weights)
        _call("context_bits", latent, y, weights, bits, *gradients)
        ctx.save_for_backward(*gradients)
        return bits

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (of the decorator)
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        by_values, by_weights = ctx.saved_tensors
        return gradients[0] * by_values, gradients[0] * by_weights, None


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


def muon(
    matrices: Sequence[tuple[Tensor, Tensor, Tensor]],
    rates: Sequence[float],
    *,
    decay: float,
    iterations: int,
    coefficients: tuple[float, float, float],
) -> None:
    """Take a step of Muon: change the values and the momentum of matrices in place.

    Each has values (rows, ...), momentum and gradient, all contiguous, and at most 64 rows and
    columns. `rates` are the factors of their steps.
    """
    found = (_Matrix * len(matrices))()
    for index, ((values, momentum, gradient), rate) in enumerate(
        zip(matrices, rates, strict=True)
    ):
        rows = len(values)
        pointers = gradient.data_ptr(), momentum.data_ptr(), values.data_ptr()
        found[index] = (rows, values.numel() // rows, rate, *pointers)
    settings = ctypes.byref(_Settings(decay, iterations, *coefficients))
    getattr(library(), "muon")(settings, len(matrices), torch.get_num_threads(), found)


def square_error(output: Tensor, target: Tensor) -> tuple[Tensor, float]:
    """Return output - target, and the sum of its squares. Raises ValueError for other shapes."""
    if output.shape != target.shape:
        raise ValueError(f"an output {output.shape} has no target {target.shape}")
    output, target = output.contiguous(), target.contiguous()
    differences = torch.empty_like(output)
    sums = output.new_empty(output.numel() // SUMMED + 1, dtype=torch.float64)
    count, threads = ctypes.c_ssize_t(output.numel()), torch.get_num_threads()
    function = getattr(library(), "square_error")
    function.restype = ctypes.c_double
    return differences, function(count, threads, *map(_pointer, (output, target, differences, sums)))


def _call(name: str, shape: ctypes.Structure, *tensors: Tensor) -> None:
    if getattr(library(), name)(ctypes.byref(shape), *map(_pointer, tensors)):
        raise MemoryError


def _pointwise(name: str, *tensors: Tensor) -> Tensor:
    out = torch.empty_like(tensors[0])
    count, threads = ctypes.c_ssize_t(out.numel()), torch.get_num_threads()
    getattr(library(), name)(count, threads, *map(_pointer, (*tensors, out)))
    return out


def _pointer(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())
