"""A second decoder of the entropy code, written from docs/format.md alone: plain integers, one symbol at a time."""

from itertools import pairwise
from pathlib import Path

FORMAT = Path(__file__).parents[1] / "docs" / "format.md"
WORD, STATE = 32, 1 << 64


def strangers_decays() -> list[int]:
    """Return the numbers of the table in the format's text."""
    block = FORMAT.read_text().split("<!-- decays -->")[1].split("```")[1]
    return [int(word) for word in block.replace("text", "").split()]


def strangers_frequencies(level: int, bound: int) -> list[int]:
    """Return the frequencies of -bound .. bound."""
    q = strangers_decays()[level]
    beyond = [q]
    for _ in range(bound - 1):
        beyond.append(beyond[-1] * ((q * q) >> 32) >> 32)
    cut = [value >> 9 for value in beyond] + [0]
    side = [max(near - far, 1) for near, far in pairwise(cut)]
    return [*side[::-1], 2**24 - 2 * sum(side), *side]


class StrangersDecoder:
    """Reads symbols from the words of a code."""

    def __init__(self, code: bytes) -> None:
        self._words = [int.from_bytes(code[at : at + 4], "little") for at in range(0, len(code), 4)]
        self._lower, self._range = 0, STATE - 1
        self._point = self._word() << WORD | self._word()

    def _word(self) -> int:
        return self._words.pop(0) if self._words else 0

    def symbol(self, level: int, bound: int) -> int:
        """Return the next integer of -bound .. bound."""
        unit = self._range >> 24
        place = (self._point - self._lower) % STATE // unit
        assert place < 1 << 24
        frequencies = strangers_frequencies(level, bound)
        index = below = 0
        while place >= below + frequencies[index]:
            below += frequencies[index]
            index += 1
        self._lower = (self._lower + unit * below) % STATE
        self._range = unit * frequencies[index]
        if self._range < 1 << WORD:
            self._lower = (self._lower << WORD) % STATE
            self._range <<= WORD
            self._point = (self._point << WORD | self._word()) % STATE
        return index - bound
