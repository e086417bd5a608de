"""Subtitles of a clip: text tracks, whose cues lie in chunks beside the segments they begin in.

docs/reference/bitstream.md defines the bytes.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Self

from encoder.codec.plain_text import CONTROLS, MAX_LANGUAGE, parse_language, parse_line
from encoder.common.errors import BitstreamError

TRACK = b"TEXT"
"""Type of the chunk that describes a text track."""
CUES = b"CUES"
"""Type of the chunks with the cues of a track."""
MAX_TRACKS = 64
MAX_CUES = 1 << 17
"""Largest number of cues of a clip, in all of its tracks."""
MAX_CUE_BYTES = 1 << 24
"""Largest size of the payloads of all chunks with cues together."""
MAX_TITLE = 255
"""Largest title of a track, in bytes."""
MAX_TEXT = 2048
"""Largest text of a cue, in bytes."""
NUMBER = struct.Struct("<B")
DESCRIPTION = struct.Struct("<BB")  # number of the track, bytes of its language
CUE = struct.Struct("<IIH")  # start and end in milliseconds, bytes of the text
MILLISECONDS = 1000
"""Milliseconds of a second: the unit of all times of cues."""
FOREIGN = re.compile(rf"-->|\n\n|\A\n|\n\Z|(?!\n)[{CONTROLS}]")
"""Marks that no text of a cue may hold: they would end the cue in WebVTT, or are no text."""


@dataclass(frozen=True)
class Cue:
    """A text and the time for which it is shown, in milliseconds since the clip's start."""

    start: int
    stop: int
    text: str
    """Text of a WebVTT cue: lines with the tags <b>, <i> and <u>, and with &, < and > escaped."""


@dataclass(frozen=True)
class TextTrack:
    """Subtitles in one language, as far as they have arrived."""

    language: str
    """Language tag, such as `en` (RFC 5646); empty if it is not known."""
    title: str = ""
    """Name for viewers; empty if the language says enough."""
    cues: Sequence[Cue] = field(default_factory=list[Cue])
    """Cues in the order of their starts."""

    def description(self, number: int) -> bytes:
        """Return the payload of the chunk that describes the track with a number, from 0."""
        language = self.language.encode("ascii")
        return DESCRIPTION.pack(number, len(language)) + language + self.title.encode()

    def webvtt(self) -> str:
        """Return the track as a WebVTT file."""
        blocks = (f"{_clock(cue.start)} --> {_clock(cue.stop)}\n{cue.text}\n" for cue in self.cues)
        return "\n".join(["WEBVTT\n", *blocks])


def _clock(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, MILLISECONDS)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}"


def parse_description(data: bytes) -> tuple[int, TextTrack]:
    """Read the payload of a track's description: its number, and the track without cues.

    Raises BitstreamError if it is invalid.
    """
    if len(data) < DESCRIPTION.size:
        raise BitstreamError("text track is not described")
    number, length = DESCRIPTION.unpack_from(data)
    end = DESCRIPTION.size + length
    if length > MAX_LANGUAGE or not end <= len(data) <= end + MAX_TITLE:
        raise BitstreamError(f"description of a text track has {len(data)} bytes")
    language = parse_language(data[DESCRIPTION.size : end])
    return number, TextTrack(language, parse_line(data[end:]))


@dataclass(frozen=True)
class CuePart:
    """Cues of a track in a row, as one chunk holds them."""

    track: int
    """Number of the track, from 0."""
    cues: tuple[Cue, ...]

    def __bytes__(self) -> bytes:
        """Return the payload of the chunk."""
        parts = [NUMBER.pack(self.track)]
        for cue in self.cues:
            text = cue.text.encode()
            parts += [CUE.pack(cue.start, cue.stop, len(text)), text]
        return b"".join(parts)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the payload of a chunk. Raises BitstreamError if it is invalid."""
        cues = tuple(islice(_cues(data), MAX_CUES + 1))
        if not 0 < len(cues) <= MAX_CUES:
            raise BitstreamError("subtitles have no cue, or too many")
        return cls(data[0], cues)


def _cues(data: bytes) -> Iterator[Cue]:
    at = NUMBER.size
    before = 0
    while at < len(data):
        if at + CUE.size > len(data):
            raise BitstreamError("subtitles end inside a cue")
        start, stop, length = CUE.unpack_from(data, at)
        at += CUE.size
        raw = data[at : at + length]
        at += length
        if len(raw) < length:
            raise BitstreamError("subtitles end inside a cue")
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise BitstreamError("text of a cue is not UTF-8") from None
        if not is_text(text):
            raise BitstreamError("text of a cue breaks the rules of WebVTT")
        if not before <= start < stop:
            raise BitstreamError(f"cue at {start} ms is out of order")
        before = start
        yield Cue(start, stop, text)


def is_text(text: str) -> bool:
    """Return whether a text may be that of a cue."""
    return 0 < len(text.encode()) <= MAX_TEXT and not FOREIGN.search(text)
