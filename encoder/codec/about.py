"""Facts about a film in its clip: title, language, date and chapters.

docs/reference/bitstream.md defines the bytes.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from encoder.codec.plain_text import parse_line
from encoder.common.errors import BitstreamError

ABOUT = b"META"
"""Type of the chunk."""
ENTRY = struct.Struct("<BH")  # kind, bytes of the value
TITLE, LANGUAGE, DATE, CHAPTER = 1, 2, 3, 4
"""Kinds of entries."""
START = struct.Struct("<I")
"""Start of a chapter, in milliseconds; its title follows."""
MAX_VALUE = 1024
"""Largest value of an entry, in bytes."""
MAX_ENTRIES = 1024


@dataclass(frozen=True)
class Chapter:
    """A part of a film, up to the next one."""

    start: int
    """Its start, in milliseconds since the clip's start."""
    title: str


@dataclass(frozen=True, kw_only=True)
class About:
    """Facts about a film; empty texts are not known."""

    title: str = ""
    language: str = ""
    """Language tag, such as `en` (RFC 5646)."""
    date: str = ""
    """Date or year, as the source has it."""
    chapters: Sequence[Chapter] = ()
    """Chapters in the order of their starts."""

    def __bytes__(self) -> bytes:
        """Return the payload of the chunk; nothing if there is nothing to tell."""
        texts = {TITLE: self.title, LANGUAGE: self.language, DATE: self.date}
        entries = [(kind, text.encode()) for kind, text in texts.items() if text]
        entries += [(CHAPTER, START.pack(x.start) + x.title.encode()) for x in self.chapters]
        return b"".join(ENTRY.pack(kind, len(value)) + value for kind, value in entries)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the payload of the chunk; entries of unknown kinds are left out.

        Raises BitstreamError if it is invalid.
        """
        texts: dict[int, str] = {}
        chapters: list[Chapter] = []
        for kind, value in _entries(data):
            if kind == CHAPTER:
                if len(value) < START.size:
                    raise BitstreamError("chapter has no start")
                (start,) = START.unpack_from(value)
                chapters.append(Chapter(start, parse_line(value[START.size :])))
            elif kind in (TITLE, LANGUAGE, DATE):
                texts[kind] = parse_line(value)
        if any(a.start >= b.start for a, b in pairwise(chapters)):
            raise BitstreamError("chapters are out of order")
        return cls(
            title=texts.get(TITLE, ""),
            language=texts.get(LANGUAGE, ""),
            date=texts.get(DATE, ""),
            chapters=tuple(chapters),
        )


def _entries(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = count = 0
    while at < len(data):
        if at + ENTRY.size > len(data):
            raise BitstreamError("facts about the film end inside an entry")
        kind, length = ENTRY.unpack_from(data, at)
        at += ENTRY.size + length
        count += 1
        if at > len(data) or length > MAX_VALUE or count > MAX_ENTRIES:
            raise BitstreamError("facts about the film are too long, or end inside an entry")
        yield kind, data[at - length : at]
