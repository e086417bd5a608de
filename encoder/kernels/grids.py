"""Compiled operator of latents on CPUs: grids at times in between, enlarged to one size.

`encoder.models.layers` and `encoder.models.pyramid` have the same arithmetic by torch's operators,
which is the reference.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from encoder.kernels.compiled import function, integers, pointer


class _Grid(ctypes.Structure):
    """The struct `Grid` of `grids.c`."""

    _fields_ = [
        *integers("times channels height width factor"),
        ("period", ctypes.c_float),
        ("values", ctypes.c_void_p),
    ]


class _Batch(ctypes.Structure):
    """The struct `Batch` of `grids.c`."""

    _fields_ = integers("frames channels height width grids threads")


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
        grids = list(zip(values, periods, factors, strict=True))
        _call_grids(ctx.batch, grids, t, pictures, is_back=False)
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
        grids = list(zip(wanted, periods, factors, strict=True))
        _call_grids(ctx.batch, grids, t, gradients[0].contiguous(), is_back=True)
        return None, None, None, None, *wanted


def _call_grids(
    batch: _Batch,
    grids: Sequence[tuple[Tensor, int, int]],
    t: Tensor,
    pictures: Tensor,
    *,
    is_back: bool,
) -> None:
    """Call `grids` of `grids.c` with the values, periods and factors of grids."""
    found = (_Grid * len(grids))(
        *(_Grid(*x.shape, factor, period, x.data_ptr()) for x, period, factor in grids)
    )
    if function("grids")(
        ctypes.byref(batch), found, pointer(t), pointer(pictures), ctypes.c_int(is_back)
    ):
        raise MemoryError
