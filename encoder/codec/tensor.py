"""How the integers of one tensor are coded: which model codes which of them, and whether they are differences."""

import struct
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from encoder.codec.entropy import LEVELS, MAX_BOUND, Decoder, Integers
from encoder.codec.errors import BitstreamError

Shape = tuple[int, ...]

RECORD = struct.Struct("<fHBBBB")  # step, bound, level, flags, level of the rows' offsets, level of the columns' offsets
DELTA, PREDICTED, ROWS, COLUMNS, PAIRS = 1, 2, 4, 8, 16
"""Flags of a tensor."""
FLAGS = DELTA | PREDICTED | ROWS | COLUMNS | PAIRS
MAX_OFFSET = LEVELS - 1
"""Largest magnitude of the offset of a row's or a column's level."""
MAX_STEP = 2.0**64
"""Largest step: no weight of it is too large for float32."""
MAX_INTEGER = 1 << 24
"""Largest magnitude of an integer after prediction: float32 holds all up to here."""
NOTHING, ZERO = np.empty(0, np.int32), np.zeros(1, np.int32)


@dataclass(frozen=True, kw_only=True)
class CodedTensor:
    """How a tensor is coded: weight = integer * step, integers by Laplace models of rows and columns."""

    step: float
    """Distance of two neighbouring weights."""
    bound: int
    """Largest magnitude of a coded integer."""
    level: int
    """Level of the model, to which a row's and a column's offset are added."""
    flags: int = 0
    """DELTA: added to the weights of the segment before. PREDICTED: differences along the first axis. ROWS, COLUMNS: with
    offsets. PAIRS: the first two axes make the rows, not the first alone."""
    row_level: int = 0
    """Level at which the offsets of the rows are coded."""
    column_level: int = 0
    """Level at which the offsets of the columns are coded."""

    def grid(self, shape: Shape) -> tuple[int, int]:
        """Return the number of rows and of columns that a shape is seen as."""
        axes = 2 if self.flags & PAIRS else 1
        rows = prod(shape[:axes])
        return rows, prod(shape) // rows

    def __bytes__(self) -> bytes:
        """Return the record of the tensor."""
        rest = (self.bound, self.level, self.flags, self.row_level, self.column_level)
        return RECORD.pack(self.step, *rest)

    @classmethod
    def parse(cls, data: bytes, offset: int) -> Self:
        """Read a record; raises BitstreamError."""
        step, bound, level, flags, row_level, column_level = RECORD.unpack_from(data, offset)
        tensor = cls(step=step, bound=bound, level=level, flags=flags, row_level=row_level, column_level=column_level)
        in_range = 0 < bound <= MAX_BOUND and max(level, row_level, column_level) < LEVELS and not flags & ~FLAGS
        if not (in_range and 0 < tensor.step <= MAX_STEP):
            raise BitstreamError(f"tensor's parameters are out of range: {tensor}")
        return tensor

    def decode(self, coder: Decoder, shape: Shape) -> Integers:
        """Return the integers of a tensor of a shape; raises BitstreamError."""
        rows, columns = self.grid(shape)
        row_offsets = coder.decode((rows,), self.row_level, MAX_OFFSET) if self.flags & ROWS else NOTHING
        column_offsets = coder.decode((columns,), self.column_level, MAX_OFFSET) if self.flags & COLUMNS else NOTHING
        at = levels(self.level, row_offsets, column_offsets)
        integers = coder.decode((rows, columns), at, self.bound).reshape(shape)
        return _undo_prediction(integers) if self.flags & PREDICTED else integers


def levels(level: int, rows: Integers, columns: Integers) -> Integers:
    """Return the levels of integers whose rows' and columns' offsets are given or empty: (rows or 1, columns or 1)."""
    sums = level + (rows if rows.size else ZERO)[:, None] + (columns if columns.size else ZERO)
    return sums.clip(0, LEVELS - 1)


def _undo_prediction(differences: Integers) -> Integers:
    integers = differences.cumsum(axis=0, dtype=np.int64)
    if np.abs(integers).max() > MAX_INTEGER:
        raise BitstreamError(f"integers after prediction must be in -{MAX_INTEGER}..{MAX_INTEGER}")
    return integers.astype(np.int32)
