"""The record of a coded tensor: channel steps, models of the integers, and prediction."""

import struct
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from encoder.codec import context
from encoder.codec.entropy import LEVELS, MAX_BOUND, Integers, RangeDecoder
from encoder.common.errors import BitstreamError

Shape = tuple[int, ...]

RECORD = struct.Struct(
    "<fHBBBBB"
)  # step, bound, level, flags, levels of the offsets of rows, columns and channels
DELTA = 1
"""Flag: the weights are added to those of the segment before."""
PREDICTED = 2
"""Flag: the integers are differences along the first axis."""
ROWS = 4
"""Flag: each row has an offset of its level."""
COLUMNS = 8
"""Flag: each column has an offset of its level."""
PAIRS = 16
"""Flag: the first two axes make the rows, instead of the first alone."""
CHANNELS = 32
"""Flag: each channel has an offset of its step."""
SECOND = 64
"""Flag: the second axis is the channels, instead of the first."""
CONTEXT = 128
"""Flag: the levels follow from integers around, and each index of the second axis has an offset."""
MAX_OFFSET = LEVELS - 1
"""Largest magnitude of the offset of a level, or of a channel's step."""
ROOT = np.float32(2**0.5)
"""Factor of a step with an odd offset, in addition to a power of 2."""
MIN_STEP = 2.0**-64
"""Smallest step: no weight is so small that some machines treat it as zero."""
MAX_STEP = 2.0**64
"""Largest step: no weight is too large for float32."""
MAX_INTEGER = 1 << 24
"""Largest magnitude of an integer after prediction; float32 holds all integers up to it."""
NOTHING = np.empty(0, np.int32)
ZERO = np.zeros(1, np.int32)


@dataclass(frozen=True, kw_only=True, slots=True)
class CodedTensor:
    """Parameters of a coded tensor: weight = integer * step.

    The integers are coded with Laplace models of their rows and columns.
    """

    step: float
    """Quantization step, before a channel's offset."""
    bound: int
    """Largest magnitude of a coded integer."""
    level: int
    """Level of the model, to which the offsets of a row and a column are added."""
    flags: int = 0
    """Sum of the flags that apply, from DELTA to CONTEXT."""
    row_level: int = 0
    """Level of the model that codes the offsets of the rows, or of the channels with CONTEXT."""
    column_level: int = 0
    """Level of the model that codes the columns' offsets."""
    channel_level: int = 0
    """Level of the model that codes the offsets of the channels' steps."""

    def grid(self, shape: Shape) -> tuple[int, int]:
        """Return the numbers of rows and columns of a tensor of a shape."""
        axes = 2 if self.flags & PAIRS else 1
        rows = prod(shape[:axes])
        return rows, prod(shape) // rows

    def __bytes__(self) -> bytes:
        """Return the record of the tensor."""
        rest = (
            self.bound,
            self.level,
            self.flags,
            self.row_level,
            self.column_level,
            self.channel_level,
        )
        return RECORD.pack(self.step, *rest)

    @classmethod
    def parse(cls, data: bytes, offset: int) -> Self:
        """Read a record. Raises BitstreamError if a parameter is out of range."""
        step, bound, level, flags, *side = RECORD.unpack_from(data, offset)
        row_level, column_level, channel_level = side
        tensor = cls(
            step=step,
            bound=bound,
            level=level,
            flags=flags,
            row_level=row_level,
            column_level=column_level,
            channel_level=channel_level,
        )
        in_range = 0 < bound <= MAX_BOUND and max(level, *side) < LEVELS
        if flags & CONTEXT and flags & (ROWS | COLUMNS | PAIRS):
            raise BitstreamError(f"tensor with contexts has no rows and columns: {tensor}")
        if not (in_range and MIN_STEP <= tensor.step <= MAX_STEP):
            raise BitstreamError(f"tensor's parameters are out of range: {tensor}")
        return tensor

    def decode(self, coder: RangeDecoder, shape: Shape) -> NDArray[np.float32]:
        """Return the weights of a tensor with a shape.

        Raises BitstreamError if the code is invalid.
        """
        axis = 1 if self.flags & SECOND else 0
        if axis >= len(shape):
            raise BitstreamError("tensor of one axis has no second")
        offsets = (
            coder.decode((shape[axis],), self.channel_level, MAX_OFFSET)
            if self.flags & CHANNELS
            else ZERO
        )
        decode = self._decode_with_contexts if self.flags & CONTEXT else self._decode_plainly
        integers = decode(coder, shape)
        if self.flags & PREDICTED:
            integers = _undo_prediction(integers)
        return integers.astype(np.float32) * channel_steps(self.step, offsets, axis, len(shape))

    def _decode_plainly(self, coder: RangeDecoder, shape: Shape) -> Integers:
        rows, columns = self.grid(shape)
        row_offsets = (
            coder.decode((rows,), self.row_level, MAX_OFFSET) if self.flags & ROWS else NOTHING
        )
        column_offsets = (
            coder.decode((columns,), self.column_level, MAX_OFFSET)
            if self.flags & COLUMNS
            else NOTHING
        )
        at = levels(self.level, row_offsets, column_offsets)
        return coder.decode((rows, columns), at, self.bound).reshape(shape)

    def _decode_with_contexts(self, coder: RangeDecoder, shape: Shape) -> Integers:
        if len(shape) != context.AXES or prod(shape) > context.MAX_INTEGERS:
            raise BitstreamError(
                f"tensor with contexts must have {context.AXES} axes "
                f"and at most {context.MAX_INTEGERS} weights, its shape is {shape}"
            )
        bases = self.level + coder.decode((shape[1],), self.row_level, MAX_OFFSET)
        weights = coder.decode((context.WEIGHTS,), context.WEIGHT_LEVEL, MAX_OFFSET)

        counted: set[int] = set()

        def decode(unknown: Integers, at: Integers) -> Integers:
            return coder.decode(unknown.shape, at, self.bound, counted=counted)

        return context.code_latent(np.zeros(shape, np.int32), bases, weights, decode)


def channel_steps(step: float, offsets: Integers, axis: int, axes: int) -> NDArray[np.float32]:
    """Return the steps of channels, step * 2**(offset / 2), with as many axes as the tensor.

    A single offset gives a single step for all channels.
    """
    halves, odd = np.divmod(offsets, 2)
    steps = np.ldexp(np.where(odd, np.float32(step) * ROOT, np.float32(step)), halves)
    return steps.astype(np.float32).reshape([-1 if each == axis else 1 for each in range(axes)])


def levels(level: int, rows: Integers, columns: Integers) -> Integers:
    """Return the levels of a tensor's integers, (rows or 1, columns or 1).

    `rows` and `columns` are offsets of the level, or empty.
    """
    sums = level + (rows if rows.size else ZERO)[:, None] + (columns if columns.size else ZERO)
    return sums.clip(0, LEVELS - 1)


def _undo_prediction(differences: Integers) -> Integers:
    integers = differences.cumsum(axis=0, dtype=np.int64)
    if np.abs(integers).max() > MAX_INTEGER:
        raise BitstreamError(f"integers after prediction must be in -{MAX_INTEGER}..{MAX_INTEGER}")
    return integers.astype(np.int32)
