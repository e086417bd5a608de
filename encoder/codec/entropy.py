"""Entropy coding of integers: a range coder (constriction) with Laplace models of 64 scales.

A model's *level* is its index; the scale grows with the level.
The models use integer arithmetic alone, so that every machine decodes the same numbers.
docs/reference/bitstream.md defines the arithmetic.
"""

from collections.abc import Iterator
from functools import cache, lru_cache
from math import prod
from typing import Any

import numpy as np
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]
from numpy.typing import NDArray

from encoder.common.errors import BitstreamError

LEVELS = 64
"""Number of models. Each level's scale is 2**0.25 times the scale of the level below."""
LEVELS_PER_OCTAVE = 4
"""Number of levels over which the scale doubles."""
UNIT_LEVEL = 20
"""Level whose Laplace distribution has scale 1."""
MAX_BOUND = 4095
"""Largest magnitude of a coded integer."""
PRECISION = 24
"""Bits of a model's precision: its frequencies add up to 2**PRECISION."""
WORD_BYTES = 4
MAX_SYMBOLS = 1 << 26
"""Largest number of symbols of all models of one code. Models take time to build."""

Integers = NDArray[np.int32]

# exp(-1 / (2 * scale)) of each level in units of 2**-32.
# The format lists these numbers because the last bit of exp may differ between machines.
# fmt: off
DECAYS = (
    483, 6163, 52418, 317125, 1440801, 5145013, 15004422, 36905875,
    78665070, 148652826, 253857248, 398132550, 581260615, 799036310, 1044178424, 1307656790,
    1580030169, 1852521207, 2117713904, 2369882518, 2605029347, 2820730047, 3015876649, 3190386796,
    3344923893, 3480652712, 3599040369, 3701703250, 3790295335, 3866431115, 3931635878, 3987316692,
    4034748382, 4075069962, 4109287957, 4138284039, 4162825044, 4183574096, 4201101925, 4215897841,
    4228380000, 4238904802, 4247775344, 4255248918, 4261543595, 4266843974, 4271306145, 4275061981,
    4278222805, 4280882540, 4283120382, 4285003080, 4286586875, 4287919135, 4289039749, 4289982295,
    4290775039, 4291441769, 4292002499, 4292474072, 4292870656, 4293204170, 4293484642, 4293720503,
)
# fmt: on


@cache
def _beyond(level: int) -> NDArray[np.int64]:
    """Return the mass (MAX_BOUND,) of the bins from k on, on one side, for k = 1 .. MAX_BOUND.

    The unit is 2**-PRECISION.
    """
    q = DECAYS[level]
    square = q * q >> 32
    beyond = [q]
    while len(beyond) < MAX_BOUND:
        beyond.append(beyond[-1] * square >> 32)
    return np.array(beyond, np.int64) >> (33 - PRECISION)


def frequencies(level: int, bound: int) -> NDArray[np.int64]:
    """Return the frequencies (2 * bound + 1,) of -bound .. bound, which add up to 2**PRECISION.

    They follow a Laplace distribution in bins around the integers; each is at least 1.
    With q = DECAYS[level] * 2**-32, the bins from k on have the mass q**(2k-1) / 2.
    """
    side = np.maximum(-np.diff(_beyond(level)[:bound], append=0), 1)
    return np.concatenate([side[::-1], [(1 << PRECISION) - 2 * side.sum()], side])


def _groups(
    levels: Integers | int, shape: tuple[int, ...]
) -> Iterator[tuple[int, NDArray[np.intp] | slice]]:
    """Yield each level, from the lowest, with the flat indices of its integers."""
    if np.size(levels) == 1:
        yield int(np.max(levels)), slice(None)
        return
    spread = np.broadcast_to(np.asarray(levels, np.uint8), shape).ravel()
    order = np.argsort(spread, kind="stable")
    counts = np.bincount(spread, minlength=LEVELS)
    stops = np.cumsum(counts)
    for level in np.flatnonzero(counts):
        yield int(level), order[stops[level] - counts[level] : stops[level]]


@lru_cache(maxsize=256)
def _model(level: int, bound: int) -> Any:
    # constriction adds 1 to each frequency, so that none is 0.
    # It scales the given frequencies to the rest of the sum: here by 1.
    return stream.model.Categorical(
        (frequencies(level, bound) - 1).astype(np.float64), perfect=False
    )


class RangeEncoder:
    """Range coder of arrays of integers, one after the other."""

    def __init__(self) -> None:
        self._coder = stream.queue.RangeEncoder()

    def encode(self, values: Integers, levels: Integers | int, bound: int) -> None:
        """Code integers in -bound .. bound, level by level from the lowest.

        Integers of the same level keep their order.
        `levels` has the shape of `values`, or a shape that is broadcast to it.
        """
        symbols = values.ravel().astype(np.int32) + np.int32(bound)
        for level, places in _groups(levels, values.shape):
            self._coder.encode(symbols[places], _model(level, bound))

    def bytes(self) -> bytes:
        """Return the code as little-endian 32-bit words."""
        return self._coder.get_compressed().astype("<u4").tobytes()


class RangeDecoder:
    """Decoder of the code of a `RangeEncoder`."""

    def __init__(self, data: bytes) -> None:
        """Take a code. Raises BitstreamError if it is not a whole number of words."""
        if len(data) % WORD_BYTES:
            raise BitstreamError(
                f"code must consist of {WORD_BYTES}-byte words, got {len(data)} bytes"
            )
        self._coder = stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        self._symbols = 0

    def decode(
        self,
        shape: tuple[int, ...],
        levels: Integers | int,
        bound: int,
        *,
        counted: set[int] | None = None,
    ) -> Integers:
        """Return integers in -bound .. bound of a shape, in the order of `RangeEncoder.encode`.

        The models of levels in `counted` exist already; this call's levels are added to it.
        Raises BitstreamError if the code is invalid or its models have too many symbols.
        """
        symbols = np.empty(prod(shape), np.int32)
        try:
            for level, places in _groups(levels, shape):
                if counted is None or level not in counted:
                    self._symbols += 2 * bound + 1
                if counted is not None:
                    counted.add(level)
                if self._symbols > MAX_SYMBOLS:
                    raise BitstreamError(f"models of a segment have over {MAX_SYMBOLS} symbols")
                count = symbols.size if isinstance(places, slice) else places.size
                symbols[places] = self._coder.decode(_model(level, bound), count)
        except (AssertionError, ValueError) as error:
            raise BitstreamError(f"weights cannot be decoded: {error}") from None
        return (symbols - np.int32(bound)).reshape(shape)
