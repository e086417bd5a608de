"""How one tensor is coded: the steps of its channels, which model codes which integer, and whether they are differences."""

import struct
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from encoder.codec.entropy import LEVELS, MAX_BOUND, Integers, RangeDecoder
from encoder.common.errors import BitstreamError

Shape = tuple[int, ...]

RECORD = struct.Struct(
    "<fHBBBBB"
)  # step, bound, level, flags, levels of the offsets of rows, columns and channels
DELTA = 1
PREDICTED = 2
ROWS = 4
COLUMNS = 8
PAIRS = 16
CHANNELS = 32
SECOND = 64
"""Flags of a tensor."""
FLAGS = DELTA | PREDICTED | ROWS | COLUMNS | PAIRS | CHANNELS | SECOND
MAX_OFFSET = LEVELS - 1
"""Largest magnitude of the offset of a level, or of a channel's step."""
ROOT = np.float32(2**0.5)
"""What an odd offset of a step multiplies it by, beside a power of two."""
MIN_STEP = 2.0**-64
MAX_STEP = 2.0**64
"""Range of steps: no weight is too large for float32, and none so small that some machines take it for zero."""
MAX_INTEGER = 1 << 24
"""Largest magnitude of an integer after prediction: float32 holds all up to here."""
NOTHING = np.empty(0, np.int32)
ZERO = np.zeros(1, np.int32)


@dataclass(frozen=True, kw_only=True, slots=True)
class CodedTensor:
    """How a tensor is coded: weight = integer * step, integers by Laplace models of rows and columns."""

    step: float
    """Distance of two neighbouring weights, before a channel's offset."""
    bound: int
    """Largest magnitude of a coded integer."""
    level: int
    """Level of the model, to which a row's and a column's offset are added."""
    flags: int = 0
    """DELTA: added to the weights of the segment before. PREDICTED: differences along the first axis. ROWS, COLUMNS: with
    offsets. PAIRS: the first two axes make the rows, not the first alone. CHANNELS: the steps of the channels have offsets;
    channels are the first axis, or with SECOND the second."""
    row_level: int = 0
    """Level at which the offsets of the rows are coded."""
    column_level: int = 0
    """Level at which the offsets of the columns are coded."""
    channel_level: int = 0
    """Level at which the offsets of the channels' steps are coded."""

    def grid(self, shape: Shape) -> tuple[int, int]:
        """Return the number of rows and of columns that a shape is seen as."""
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
        """Read a record; raises BitstreamError."""
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
        in_range = 0 < bound <= MAX_BOUND and max(level, *side) < LEVELS and not flags & ~FLAGS
        if not (in_range and MIN_STEP <= tensor.step <= MAX_STEP):
            raise BitstreamError(f"tensor's parameters are out of range: {tensor}")
        return tensor

    def decode(self, coder: RangeDecoder, shape: Shape) -> NDArray[np.float32]:
        """Return the weights of a tensor of a shape; raises BitstreamError."""
        axis = 1 if self.flags & SECOND else 0
        if axis >= len(shape):
            raise BitstreamError("tensor of one axis has no second")
        offsets = (
            coder.decode((shape[axis],), self.channel_level, MAX_OFFSET)
            if self.flags & CHANNELS
            else ZERO
        )
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
        integers = coder.decode((rows, columns), at, self.bound).reshape(shape)
        if self.flags & PREDICTED:
            integers = _undo_prediction(integers)
        return integers.astype(np.float32) * channel_steps(self.step, offsets, axis, len(shape))


def channel_steps(step: float, offsets: Integers, axis: int, axes: int) -> NDArray[np.float32]:
    """Return the steps of channels, step * 2**(offset / 2), in a shape of as many axes as the tensor's.

    Of one offset is made one step, for all.
    """
    halves, odd = np.divmod(offsets, 2)
    steps = np.ldexp(np.where(odd, np.float32(step) * ROOT, np.float32(step)), halves)
    return steps.astype(np.float32).reshape([-1 if each == axis else 1 for each in range(axes)])


def levels(level: int, rows: Integers, columns: Integers) -> Integers:
    """Return the levels of integers whose rows' and columns' offsets are given or empty: (rows or 1, columns or 1)."""
    sums = level + (rows if rows.size else ZERO)[:, None] + (columns if columns.size else ZERO)
    return sums.clip(0, LEVELS - 1)


def _undo_prediction(differences: Integers) -> Integers:
    integers = differences.cumsum(axis=0, dtype=np.int64)
    if np.abs(integers).max() > MAX_INTEGER:
        raise BitstreamError(f"integers after prediction must be in -{MAX_INTEGER}..{MAX_INTEGER}")
    return integers.astype(np.int32)
