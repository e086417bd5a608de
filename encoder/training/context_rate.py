"""The scales of a latent under the coder's contexts, for the rate term of a fit.

`encoder.codec.context` has the coder's own arithmetic, in integers.
"""

from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from encoder.codec.context import OTHERS
from encoder.codec.entropy import LEVELS_PER_OCTAVE

WEIGHTS = 2 * OTHERS + 1
"""Number of learned weights of a latent; the constant of odd places follows from the values."""
START = (2.2, 1.2, 0.9, 1.6, 1.6, 0.9, 0.9, 1.3, 2.0)
"""Weights at first, in levels for a doubled sum: about those of fitted clips."""
LOG_PER_WEIGHT = log(2) / LEVELS_PER_OCTAVE


def context_scales(y: Tensor, weights: Tensor) -> Tensor:
    """Return the Laplace scales of a latent's values y (T, C, H, W), which are in steps.

    `weights` has shape (WEIGHTS,). The scales have gradients for them and for y: a larger magnitude
    costs its neighbours bits. Magnitudes are not rounded, so that this gradient is never zero.
    Each channel's even and odd places have a factor of their own, a mean. It has a gradient, too:
    otherwise, a channel would grow without end to change scales that the factors bring back.
    """
    size = y.abs()
    odd = (
        torch.arange(y.shape[2], device=y.device)[:, None]
        + torch.arange(y.shape[3], device=y.device)
    ) % 2
    before = size.cumsum(1) - size
    earlier = F.pad(size, (0, 0) * 3 + (2, 0))
    sums = torch.stack([earlier[1:-1], earlier[:-2], before, _four(before)])
    logs = (1 + sums).log2()
    around = (1 + _four(size * (1 - odd))).log2()
    exponent = torch.where(
        odd > 0,
        torch.einsum("k,ktcyx->tcyx", weights[OTHERS:-1], logs) + weights[-1] * around,
        torch.einsum("k,ktcyx->tcyx", weights[:OTHERS], logs),
    )
    relative = (LOG_PER_WEIGHT * exponent).exp()
    ratio = (y / relative).abs()
    factors = torch.stack([_mean(ratio, 1 - odd), _mean(ratio, odd)])
    return relative * torch.where(odd > 0, factors[1], factors[0])


def _mean(values: Tensor, places: Tensor) -> Tensor:
    count = values.shape[0] * places.sum().clamp(min=1)
    return (values * places).sum((0, 2, 3), keepdim=True) / count


def _four(planes: Tensor) -> Tensor:
    padded = F.pad(planes, (1, 1, 1, 1))
    rows, columns = padded[..., 1:-1], padded[..., 1:-1, :]
    return rows[..., :-2, :] + rows[..., 2:, :] + columns[..., :-2] + columns[..., 2:]
