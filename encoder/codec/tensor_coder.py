"""Search for the shortest way to code a tensor's integers; `tensor_header` decodes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from encoder.codec.context import (
    MAX_PLANES,
    WEIGHT_LEVEL,
    code_latent,
    latent_levels,
    may_have_contexts,
)
from encoder.codec.context_fit import fit_contexts
from encoder.codec.entropy import (
    DECAYS,
    LEVELS,
    LEVELS_PER_OCTAVE,
    MAX_BOUND,
    UNIT_LEVEL,
    Integers,
    RangeEncoder,
)
from encoder.codec.tensor_header import (
    CHANNELS,
    COLUMNS,
    CONTEXT,
    MAX_OFFSET,
    NOTHING,
    PAIRS,
    PREDICTED,
    ROWS,
    CodedTensor,
    levels,
)

SCALES = (0, ROWS, COLUMNS, ROWS | COLUMNS, PAIRS | ROWS, PAIRS | COLUMNS, PAIRS | ROWS | COLUMNS)
MODES = (*SCALES, CONTEXT, *(PREDICTED | scales for scales in (*SCALES, CONTEXT)))
"""Combinations of flags to try, where a tensor's shape allows them."""
FLOOR = 1e-3
"""Value added to the scale of a row or column, which may be all zeros."""
PAIR_AXES = 3
"""Smallest number of axes of a tensor whose first two axes can make its rows."""

Values = NDArray[np.float64]
_DECAY = np.array(DECAYS) / 2.0**32
# Bits of 0 are _ZERO; bits of k != 0 are _FIRST + abs(k) * _EACH.
_ZERO = -np.log2(1 - _DECAY)
_FIRST = 1 - np.log2(1 / _DECAY - _DECAY)
_EACH = -2 * np.log2(_DECAY)


@dataclass(frozen=True, kw_only=True)
class Coding:
    """A way to code a tensor, with the values to code."""

    tensor: CodedTensor
    integers: Integers
    """Integers after prediction, (rows, columns); with contexts, (T, C, H, W)."""
    rows: Integers
    """Offsets of the levels of rows, or of channels with contexts, or an empty array."""
    columns: Integers
    """Offsets of the columns' levels, or an empty array."""
    channels: Integers
    """Offsets of the channels' steps, or an empty array."""
    weights: Integers = field(default_factory=NOTHING.copy)
    """Weights of the contexts, or an empty array."""

    @property
    def _levels(self) -> Integers:
        if self.weights.size:
            return latent_levels(self.integers, self.tensor.level + self.rows, self.weights)
        return levels(self.tensor.level, self.rows, self.columns)

    @property
    def planes(self) -> int:
        """Number of planes with contexts."""
        return prod(self.integers.shape[:2]) if self.weights.size else 0

    def encode(self, coder: RangeEncoder) -> None:
        """Code the offsets, then the integers."""
        coder.encode(self.channels, self.tensor.channel_level, MAX_OFFSET)
        coder.encode(self.rows, self.tensor.row_level, MAX_OFFSET)
        coder.encode(self.columns, self.tensor.column_level, MAX_OFFSET)
        if not self.weights.size:
            coder.encode(self.integers, self._levels, self.tensor.bound)
            return
        coder.encode(self.weights, WEIGHT_LEVEL, MAX_OFFSET)

        def encode(integers: Integers, at: Integers) -> Integers:
            coder.encode(integers, at, self.tensor.bound)
            return integers

        code_latent(self.integers, self.tensor.level + self.rows, self.weights, encode)

    @property
    def bits(self) -> float:
        """Length of the code in bits, except for the offsets of steps, which all ways share."""
        offsets = _bits(self.rows, self.tensor.row_level) + _bits(
            self.columns, self.tensor.column_level
        )
        return offsets + _bits(self.weights, WEIGHT_LEVEL) + _bits(self.integers, self._levels)


def best_mode(
    integers: Integers,
    *,
    step: float,
    flags: int = 0,
    channels: Integers = NOTHING,
    modes: Sequence[int] = MODES,
    planes: int = MAX_PLANES,
) -> Coding:
    """Return the shortest way to code a tensor's integers.

    `flags` are set in any case. If `channels` has offsets of steps, they tell the channels' axis.
    `modes` are the combinations of flags to try; contexts may have a number of `planes`.
    Raises ValueError if the integers are too large for the format.
    """
    found = [
        coding
        for coding in _candidates(integers, step, flags, modes, planes)
        if coding.tensor.bound <= MAX_BOUND
    ]
    if not found:
        raise ValueError(
            f"integers must be in -{MAX_BOUND}..{MAX_BOUND}, got {np.abs(integers).max()}"
        )
    best = min(found, key=lambda coding: coding.bits)
    if not channels.size:
        return best
    tensor = replace(
        best.tensor, flags=best.tensor.flags | CHANNELS, channel_level=_side_level(channels)
    )
    return replace(best, tensor=tensor, channels=channels)


def _candidates(
    integers: Integers, step: float, flags: int, modes: Sequence[int], planes: int
) -> Iterator[Coding]:
    differences = np.diff(integers, axis=0, prepend=np.zeros_like(integers[:1]))
    for way in modes:
        single = (way & PREDICTED and len(integers) == 1) or (
            way & (ROWS | COLUMNS) and integers.ndim == 1
        )
        if single or (way & PAIRS and integers.ndim < PAIR_AXES):
            continue
        if way & CONTEXT and not may_have_contexts(integers.shape, planes):
            continue
        coded = differences if way & PREDICTED else integers
        tensor = CodedTensor(
            step=step, bound=max(int(np.abs(coded).max()), 1), level=0, flags=flags | way
        )
        if way & CONTEXT:
            yield _fit_with_contexts(tensor, coded)
        else:
            yield _fit(tensor, coded.reshape(tensor.grid(integers.shape)))


def _fit_with_contexts(tensor: CodedTensor, integers: Integers) -> Coding:
    """Choose the levels of a latent's channels and the weights of its contexts."""
    start = _level(np.abs(integers).mean((0, 2, 3), dtype=np.float64))
    bases, weights = fit_contexts(integers, start)
    level = int(np.median(bases).clip(0, LEVELS - 1))
    rows = (bases - level).clip(-MAX_OFFSET, MAX_OFFSET).astype(np.int32)
    tensor = replace(tensor, level=level, row_level=_side_level(rows))
    return Coding(
        tensor=tensor,
        integers=integers,
        rows=rows,
        columns=NOTHING,
        channels=NOTHING,
        weights=weights,
    )


def _fit(tensor: CodedTensor, integers: Integers) -> Coding:
    """Choose the levels of a tensor's models for its integers (rows, columns)."""
    sizes = np.abs(integers).astype(np.float32)
    mean = sizes.mean(dtype=np.float64)
    by_row = np.ones(1)
    by_column = np.ones(1)
    if tensor.flags & ROWS:
        by_row = sizes.mean(1, dtype=np.float64) + FLOOR
    if tensor.flags & COLUMNS:
        by_column = (sizes / by_row[:, None]).mean(0) + FLOOR
    if tensor.flags & ROWS and tensor.flags & COLUMNS:
        by_row = (sizes / by_column).mean(1) + FLOOR
        by_column = (sizes / by_row[:, None]).mean(0) + FLOOR
    level = int(_level(mean))
    rows = _offsets(by_row * by_column.mean(), level) if tensor.flags & ROWS else NOTHING
    columns = _offsets(by_column * by_row.mean(), level) if tensor.flags & COLUMNS else NOTHING
    tensor = replace(
        tensor, level=level, row_level=_side_level(rows), column_level=_side_level(columns)
    )
    return Coding(tensor=tensor, integers=integers, rows=rows, columns=columns, channels=NOTHING)


def _offsets(means: Values, level: int) -> Integers:
    return (_level(means) - level).clip(-MAX_OFFSET, MAX_OFFSET).astype(np.int32)


def _side_level(offsets: Integers) -> int:
    return int(_level(np.abs(offsets).mean())) if offsets.size else 0


def _level(mean: Values | np.floating) -> Values:
    """Return the level that suits integers of a mean magnitude.

    The model of decay q has the mean magnitude q / (1 - q**2).
    """
    mean = np.maximum(mean, FLOOR)
    decay = (np.sqrt(1 + 4 * mean**2) - 1) / (2 * mean)
    scale = -0.5 / np.log(decay)
    return np.rint(UNIT_LEVEL + LEVELS_PER_OCTAVE * np.log2(scale)).clip(0, LEVELS - 1)


def _bits(integers: Integers, at: Integers | int) -> float:
    """Return the bits of integers, at levels whose shape is broadcast to that of the integers."""
    at = np.asarray(at).reshape((1,) * (integers.ndim - np.ndim(at)) + np.shape(at))
    if not integers.size:
        return 0.0
    # Along axes that share a level, the sums are enough.
    shared = tuple(axis for axis, length in enumerate(at.shape) if length == 1)
    sizes = np.abs(integers)
    total = sizes.sum(shared, keepdims=True, dtype=np.int64)
    zeros = (sizes == 0).sum(shared, keepdims=True)
    others = integers.size // at.size - zeros
    return float((zeros * _ZERO[at] + others * _FIRST[at] + total * _EACH[at]).sum())
