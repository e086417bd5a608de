"""Compiled operators of training steps on CPUs.

`encoder.training` has the same arithmetic by torch's operators, which is the reference.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from encoder.kernels.compiled import call, function, integers, pointer

CONTEXT_WEIGHTS = 9
"""Weights of a latent's contexts, as in `context_bits.c`."""
SUMMED = 4096
"""Number of squares that `square.c` adds up by themselves."""
LARGEST_SIDE = 64
"""Most rows or columns of a matrix, as in `muon.c`."""
LATENT_AXES = 4


class _Latent(ctypes.Structure):
    """The struct `Latent` of `context_bits.c`."""

    _fields_ = [
        *integers("times channels height width threads"),
        ("levels", ctypes.c_float),
    ]


class _Matrix(ctypes.Structure):
    """The struct `Matrix` of `muon.c`."""

    _fields_ = [
        *integers("rows columns"),
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


def context_bits(y: Tensor, weights: Tensor, *, levels: int) -> Tensor:
    """Return the bits of a latent's values y (T, C, H, W), in steps, under the coder's contexts.

    The weights (9,) are those of `encoder.training.context_rate`, in levels of an octave.
    Raises ValueError for other shapes.
    """
    if y.ndim != LATENT_AXES or not y.numel() or weights.shape != (CONTEXT_WEIGHTS,):
        raise ValueError(f"no contexts of values {y.shape} and weights {weights.shape}")
    return _ContextBits.apply(y, weights, levels)


def muon(
    matrices: Sequence[tuple[Tensor, Tensor, Tensor]],
    rates: Sequence[float],
    *,
    decay: float,
    polynomial: tuple[int, tuple[float, float, float]],
) -> None:
    """Take a step of Muon: change the values and the momentum of matrices in place.

    Each has values (rows, ...), momentum and gradient, all contiguous, and at most 64 rows and
    columns. `rates` are the factors of their steps. `polynomial` has the number of its iterations,
    and its coefficients. Raises ValueError for larger matrices.
    """
    found = (_Matrix * len(matrices))()
    for index, ((values, momentum, gradient), rate) in enumerate(zip(matrices, rates, strict=True)):
        rows = len(values)
        if max(rows, values.numel() // rows) > LARGEST_SIDE:
            raise ValueError(f"no step of a matrix {values.shape}")
        pointers = gradient.data_ptr(), momentum.data_ptr(), values.data_ptr()
        found[index] = (rows, values.numel() // rows, rate, *pointers)
    settings = ctypes.byref(_Settings(decay, polynomial[0], *polynomial[1]))
    function("muon")(settings, len(matrices), torch.get_num_threads(), found)


def square_error(output: Tensor, target: Tensor) -> tuple[Tensor, float]:
    """Return output - target, and the sum of its squares. Raises ValueError for other shapes."""
    if output.shape != target.shape:
        raise ValueError(f"an output {output.shape} has no target {target.shape}")
    output, target = output.contiguous(), target.contiguous()
    differences = torch.empty_like(output)
    sums = output.new_empty(output.numel() // SUMMED + 1, dtype=torch.float64)
    count, threads = ctypes.c_ssize_t(output.numel()), torch.get_num_threads()
    add_up = function("square_error")
    add_up.restype = ctypes.c_double
    return differences, add_up(count, threads, *map(pointer, (output, target, differences, sums)))


class _ContextBits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, levels: int) -> Tensor:
        y, weights = y.contiguous(), weights.contiguous()
        latent = _Latent(*y.shape, torch.get_num_threads(), levels)
        bits, *gradients = y.new_empty(()), torch.empty_like(y), torch.empty_like(weights)
        call("context_bits", latent, y, weights, bits, *gradients)
        ctx.save_for_backward(*gradients)
        return bits

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (of the decorator)
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        by_values, by_weights = ctx.saved_tensors
        return gradients[0] * by_values, gradients[0] * by_weights, None
