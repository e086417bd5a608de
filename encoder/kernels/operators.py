"""Compiled operators of the network `fast` on CPUs, with gradients.

`encoder.models.pyramid` has the same arithmetic by torch's operators, which is the reference.
"""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from encoder.kernels.library import load

FIELDS = (
    "frames", "height", "width", "head_height", "head_width", "node_rows", "node_columns",
    "threads",
)  # fmt: skip


class _Shape(ctypes.Structure):
    """The struct `Shape` of `render.c`."""

    _fields_ = [(name, ctypes.c_int32) for name in FIELDS]


@cache
def library() -> ctypes.CDLL | None:
    """Return the operators' library, or None where there is none."""
    return load(torch.backends.cpu.get_cpu_capability())


def are_for(*tensors: Tensor) -> bool:
    """Return whether the operators take these tensors: of float32, on a CPU, outside an export."""
    return (
        not torch.compiler.is_exporting()
        and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)
        and library() is not None
    )


def render(heads: Tensor, nodes: Tensor, size: tuple[int, int]) -> Tensor:
    """Map heads (B, 24, h, w), 16 channels for the luma and 8 for the chroma, to frames.

    The nodes (B, 2, rows, columns) are places on the canvas, as `Camera.nodes` returns them.
    The frames are (B, 3, *size).
    """
    return _Render.apply(heads, nodes, size)


def scaled_gelu(x: Tensor) -> Tensor:
    """Return silu(1.702 x)."""
    return _ScaledGelu.apply(x)


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, nodes: Tensor, size: tuple[int, int]) -> Tensor:
        # Convolutions keep the channels of a pixel together.
        heads, nodes = heads.contiguous(memory_format=torch.channels_last), nodes.contiguous()
        frames, _, height, width = heads.shape
        ctx.shape = _Shape(frames, *size, height, width, *nodes.shape[2:], torch.get_num_threads())
        # The heads' values, each through its activation, in the order of the canvas's pixels.
        canvases = [heads.new_empty(frames, count, height, width) for count in (16, 8)]
        pictures = heads.new_empty(frames, 3, *size)
        _render("render", ctx.shape, heads, nodes, *canvases, pictures)
        ctx.save_for_backward(nodes, *canvases)
        return pictures

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        nodes, *canvases = ctx.saved_tensors
        frames, _, height, width = canvases[0].shape
        heads = nodes.new_empty(frames, height, width, 24).permute(0, 3, 1, 2)
        wanted = [heads, torch.empty_like(nodes)]
        given = gradients[0].contiguous()
        _render("render_back", ctx.shape, nodes, *canvases, given, *wanted)
        return *wanted, None


class _ScaledGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if not x.is_contiguous(memory_format=torch.channels_last):
            x = x.contiguous()
        ctx.save_for_backward(x)
        return _pointwise("scaled_gelu", x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        given = gradients[0]
        if given.stride() != x.stride():
            given = torch.empty_like(x).copy_(given)
        return _pointwise("scaled_gelu_back", x, given)


def _render(name: str, shape: _Shape, *tensors: Tensor) -> None:
    if getattr(library(), name)(ctypes.byref(shape), *map(_pointer, tensors)):
        raise MemoryError


def _pointwise(name: str, *tensors: Tensor) -> Tensor:
    out = torch.empty_like(tensors[0])
    count, threads = ctypes.c_ssize_t(out.numel()), torch.get_num_threads()
    getattr(library(), name)(count, threads, *map(_pointer, (*tensors, out)))
    return out


def _pointer(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())
