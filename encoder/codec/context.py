"""Levels of a latent's integers that follow from integers around them, which are coded before.

A latent is a tensor of shape (T, C, H, W).
A plane is its part at one time and channel.
docs/reference/bitstream.md defines the order of the integers and the arithmetic.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from encoder.codec.entropy import LEVELS, Integers

AXES = 4
"""Number of axes of a tensor with contexts."""
MAX_INTEGERS = 1 << 22
"""Largest number of integers of a tensor with contexts. The sums around them take memory."""
MAX_PLANES = 1 << 13
"""Largest number of planes of all tensors with contexts of a segment. Planes take time."""
OTHERS = 4
"""Number of sums of magnitudes in other planes."""
WEIGHTS = 2 * OTHERS + 2
"""Number of weights of a latent.

First come those of the sums in other planes, for even places and then for odd places.
The last two are for odd places alone: that of the four integers around, and a constant.
"""
WEIGHT_LEVEL = 34
"""Level of the model that codes the weights."""
CONSTANT = 32
"""Factor of the constant weight, whose unit is thus 1/4 of a level."""
SHIFT = 7
"""Binary logarithm of the units of a level."""
OCTAVE = 8
"""Units of a sum's logarithm in which it doubles."""
MAX_SUM = 0xFFFF
"""Largest sum of magnitudes; larger ones count as this one."""
MIN_PLACES = 16
"""Smallest number of a plane's integers for which an encoder tries contexts."""

Places = NDArray[np.intp]
Code = Callable[[Integers, Integers], Integers]
"""Codes integers (N,) at levels (N,); returns the integers."""


def may_have_contexts(shape: tuple[int, ...], planes: int = MAX_PLANES) -> bool:
    """Return whether an encoder tries contexts, if a number of planes is left for them."""
    return (
        len(shape) == AXES
        and prod(shape) <= MAX_INTEGERS
        and prod(shape[:2]) <= planes
        and prod(shape[2:]) >= MIN_PLACES
    )


def _logarithms() -> NDArray[np.int32]:
    numbers = np.arange(1, MAX_SUM + 2)
    exponents = np.frexp(numbers)[1] - 1  # exact
    return (OCTAVE * (exponents - 1) + (numbers * OCTAVE >> exponents)).astype(np.int32)


LOGARITHMS = _logarithms()
"""Logarithm of each sum plus 1, in units of OCTAVE, linear between the powers of 2."""


def odd_places(height: int, width: int) -> NDArray[np.bool_]:
    """Return whether row + column is odd, (height, width)."""
    return (np.arange(height)[:, None] + np.arange(width)) % 2 == 1


class Surroundings:
    """Sums of the magnitudes of a latent's known integers, around each place."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Take the latent's shape (T, C, H, W). No integer is known yet."""
        times, channels, height, width = shape
        # Zeros all around: two times before the first, and a place on each side.
        self._magnitudes = np.zeros((times + 2, channels, height + 2, width + 2), np.int32)
        self._before = np.zeros((times, channels + 1, height + 2, width + 2), np.int32)

    @classmethod
    def of(cls, integers: Integers) -> Self:
        """Return the sums of a latent (T, C, H, W) whose integers are all known."""
        found = cls(integers.shape)
        found._magnitudes[2:, :, 1:-1, 1:-1] = np.abs(integers)
        found._magnitudes[2:].cumsum(1, out=found._before[:, 1:])
        return found

    def put(self, times: Places, channels: Places, planes: Integers) -> None:
        """Make planes (N, H, W) known."""
        self._magnitudes[times + 2, channels, 1:-1, 1:-1] = np.abs(planes)
        self._before[times, channels + 1] = (
            self._before[times, channels] + self._magnitudes[times + 2, channels]
        )

    def elsewhere(self, times: Places, channels: Places) -> NDArray[np.int32]:
        """Return the logarithms of the sums in other planes, (OTHERS, N, H, W).

        They are the magnitudes at the same place one time before and two times before, at the same
        place in all channels before, and at the four places around it in these channels.
        """
        before = self._before[times, channels]
        sums = (
            self._magnitudes[times + 1, channels, 1:-1, 1:-1],
            self._magnitudes[times, channels, 1:-1, 1:-1],
            before[:, 1:-1, 1:-1],
            _four(before),
        )
        return np.stack([_logarithm(each) for each in sums])

    def around(self, times: Places, channels: Places) -> NDArray[np.int32]:
        """Return the logarithms of the sums of the four places around, (N, H, W)."""
        return _logarithm(_four(self._magnitudes[times + 2, channels]))


def _four(planes: NDArray[np.int32]) -> NDArray[np.int32]:
    rows, columns = planes[:, :, 1:-1], planes[:, 1:-1]
    return rows[:, :-2] + rows[:, 2:] + columns[:, :, :-2] + columns[:, :, 2:]


def _logarithm(sums: NDArray[np.int32]) -> NDArray[np.int32]:
    return LOGARITHMS[np.minimum(sums, MAX_SUM)]


def diagonals(times: int, channels: int) -> Iterator[tuple[Places, Places]]:
    """Yield times and channels of the planes that are coded together, whose sum is equal."""
    for total in range(times + channels - 1):
        first = np.arange(max(total - channels + 1, 0), min(total, times - 1) + 1)
        yield first, total - first


def code_latent(integers: Integers, bases: Integers, weights: Integers, code: Code) -> Integers:
    """Code the integers of a latent in order, and return them.

    `integers` has shape (T, C, H, W); a decoder gives anything of that shape.
    `bases` (C,) are the channels' levels, `weights` has shape (WEIGHTS,).
    """
    surroundings = Surroundings(integers.shape)
    odd = odd_places(*integers.shape[2:])
    coded = np.zeros_like(integers)
    for times, channels in diagonals(*integers.shape[:2]):
        elsewhere = surroundings.elsewhere(times, channels)
        planes = np.zeros((len(times), *odd.shape), np.int32)
        for places in (~odd, odd):
            around = None
            if places is odd:
                surroundings.put(times, channels, planes)
                around = surroundings.around(times, channels)[:, places]
            at = levels(bases[channels, None], weights, elsewhere[:, :, places], around)
            given = integers[times, channels][:, places]
            planes[:, places] = code(given.ravel(), at.ravel()).reshape(given.shape)
        surroundings.put(times, channels, planes)
        coded[times, channels] = planes
    return coded


def latent_levels(integers: Integers, bases: Integers, weights: Integers) -> Integers:
    """Return the levels at which `code_latent` codes integers that are known, (T, C, H, W)."""
    elsewhere, around = known_logarithms(integers)
    bases = bases[:, None, None]
    even = levels(bases, weights, elsewhere, None)
    odd = levels(bases, weights, elsewhere, around)
    return np.where(odd_places(*integers.shape[2:]), odd, even)


def known_logarithms(integers: Integers) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the logarithms of all sums (OTHERS, T, C, H, W), and of those around odd places."""
    times, channels = (places.ravel() for places in np.indices(integers.shape[:2]))
    even = np.where(odd_places(*integers.shape[2:]), 0, integers)
    elsewhere = Surroundings.of(integers).elsewhere(times, channels)
    around = Surroundings.of(even).around(times, channels)
    return elsewhere.reshape(OTHERS, *integers.shape), around.reshape(integers.shape)


def levels(
    bases: Integers,
    weights: Integers,
    elsewhere: NDArray[np.int32],
    around: NDArray[np.int32] | None,
) -> Integers:
    """Return the levels of integers whose shape is that of each sum.

    `bases` are added to them. `around` is given for odd places alone.
    """
    if around is None:
        total = np.tensordot(weights[:OTHERS], elsewhere, 1)
    else:
        total = np.tensordot(weights[OTHERS : 2 * OTHERS], elsewhere, 1)
        total += weights[-2] * around + CONSTANT * weights[-1]
    return (bases + (total + (1 << SHIFT - 1) >> SHIFT)).clip(0, LEVELS - 1)
