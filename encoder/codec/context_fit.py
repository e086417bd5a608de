"""Fit of a latent's contexts: the levels of its channels and the weights that need the fewest bits.

The length of a Laplace code is convex in the logarithm of its scale.
Levels are linear in the parameters, so Newton's method finds the minimum.
"""

from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.codec.context import CONSTANT, SHIFT, WEIGHTS, known_logarithms, odd_places
from encoder.codec.entropy import LEVELS_PER_OCTAVE, UNIT_LEVEL, Integers
from encoder.codec.tensor_header import MAX_OFFSET

STEPS = 6
"""Steps of Newton's method for all parameters, and then for the levels of channels alone."""
MAX_CHANGE = 6.0
"""Largest change of an integer's level in a step."""
DAMPING = 1.0
"""Curvature that is added to that of each parameter."""
LOG_PER_LEVEL = log(2) / LEVELS_PER_OCTAVE
ENOUGH_PLACES = 1 << 15
"""Number of a channel's integers that are enough for a fit."""
HALF_STEPS = 1e-5, 30.0
"""Smallest and largest number of scales in half a step."""

Values = NDArray[np.float64]


def fit_contexts(integers: Integers, start: Values) -> tuple[Integers, Integers]:
    """Return levels of channels (C,) and weights (WEIGHTS,) for a latent (T, C, H, W).

    `start` (C,) are the levels that suit the channels without contexts.
    """
    sizes, terms = _table(integers)
    bases, weights = start.copy(), np.zeros(WEIGHTS)
    for _ in range(STEPS):
        base_change, weight_change = _newton(sizes, terms, bases, weights)
        change = base_change[:, None] + weight_change @ terms
        share = min(1.0, MAX_CHANGE / max(float(np.abs(change).max()), 1e-9))
        bases += share * base_change
        weights += share * weight_change
    weights = np.rint(weights).clip(-MAX_OFFSET, MAX_OFFSET)
    for _ in range(STEPS):
        slope, curvature = _derivatives(sizes, bases[:, None] + weights @ terms)
        change = -slope.sum(1) / (curvature.sum(1) + DAMPING)
        bases += change.clip(-MAX_CHANGE, MAX_CHANGE)
    return np.rint(bases).astype(np.int32), weights.astype(np.int32)


def _table(integers: Integers) -> tuple[Values, Values]:
    """Return magnitudes (C, N) and the terms of their levels, for a weight of 1 (C, WEIGHTS, N)."""
    elsewhere, around = known_logarithms(integers)
    odd = np.broadcast_to(odd_places(*integers.shape[2:]), integers.shape)
    # An odd stride meets places of both kinds.
    stride = max(integers[:, 0].size // ENOUGH_PLACES, 1) | 1

    def by_channel(values: NDArray[Any]) -> NDArray[Any]:
        return values.swapaxes(-4, -3).reshape(*values.shape[:-4], values.shape[-3], -1)[
            ..., ::stride
        ]

    sizes = by_channel(np.abs(integers)).astype(np.float64)
    odd, elsewhere, around = map(by_channel, (odd, elsewhere, around))
    terms = np.stack(
        [
            *np.where(odd, 0, elsewhere),
            *np.where(odd, elsewhere, 0),
            np.where(odd, around, 0),
            np.where(odd, CONSTANT, 0),
        ],
        axis=1,
        dtype=np.float64,
    )
    return sizes, terms / (1 << SHIFT)


def _newton(sizes: Values, terms: Values, bases: Values, weights: Values) -> tuple[Values, Values]:
    """Return the changes of bases and weights in a step of Newton's method."""
    slope, curvature = _derivatives(sizes, bases[:, None] + weights @ terms)
    by_base = curvature.sum(1) + DAMPING
    mixed = np.einsum("cfn,cn->cf", terms, curvature)
    by_weight = np.einsum("cfn,cgn,cn->fg", terms, terms, curvature, optimize=True)
    by_weight += DAMPING * 1e-3 * np.eye(WEIGHTS)
    base_slope = slope.sum(1)
    weight_slope = np.einsum("cfn,cn->f", terms, slope)
    # The bases are eliminated: their part of the curvature is diagonal.
    share = mixed / by_base[:, None]
    change = np.linalg.solve(by_weight - share.T @ mixed, share.T @ base_slope - weight_slope)
    return -(base_slope + mixed @ change) / by_base, change


def _derivatives(sizes: Values, levels: Values) -> tuple[Values, Values]:
    """Return the first and second derivatives of code lengths by the level, in nats."""
    half = np.exp(-LOG_PER_LEVEL * (levels - UNIT_LEVEL)) / 2  # 1 / (2 scale)
    half = half.clip(*HALF_STEPS)
    grown = np.expm1(half)
    zero_slope = -half / grown
    zero_curvature = half * (grown * half + half - grown) / grown**2
    rest = half * (2 * sizes - 1 / np.tanh(half))
    curvature = rest + (half / np.sinh(half)) ** 2
    slope = np.where(sizes == 0, zero_slope, rest)
    curvature = np.where(sizes == 0, zero_curvature, curvature)
    return -LOG_PER_LEVEL * slope, LOG_PER_LEVEL**2 * curvature
