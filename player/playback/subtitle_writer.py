"""A clip's subtitles as tracks of a video file."""

import re
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from html import unescape
from itertools import pairwise
from math import floor
from typing import cast

import av
from av.container import OutputContainer
from av.subtitles.stream import SubtitleStream

from encoder.codec.subtitles import MILLISECONDS, Cue, TextTrack
from player.playback.excerpt import UNIT, Excerpt

TAG = re.compile(r"<(/?)([biu]?)[^<>]*>")
"""Tag of a WebVTT cue; those without a name here are left out."""
FACES = {"b": 1, "i": 2, "u": 4}
"""Style flags of 3GPP timed text (TS 26.245, section 5.16)."""
STYLE = struct.Struct(">HHHBBI")  # first and last character, font, face, size, colour
FONT, SIZE, WHITE = 1, 16, 0xFFFFFFFF
HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, Alignment
Style: Default,Sans,16,&Hffffff,2

[Events]
"""
"""Font and place of the text, from which FFmpeg makes the header of a track."""


def runs(text: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the pieces of a WebVTT cue's text, each with its tags of bold, italic and underline."""
    on = set[str]()
    at = 0
    for tag in TAG.finditer(text):
        if tag.start() > at:
            yield unescape(text[at : tag.start()]), frozenset(on)
        at = tag.end()
        closes, name = tag.groups()
        if name:
            (on.discard if closes else on.add)(name)
    if at < len(text):
        yield unescape(text[at:]), frozenset(on)


def _subrip(text: str) -> bytes:
    marked = ""
    for piece, tags in runs(text):
        names = sorted(tags)
        marked += "".join(f"<{name}>" for name in names) + piece
        marked += "".join(f"</{name}>" for name in reversed(names))
    return marked.encode()


def _timed_text(text: str) -> bytes:
    """Return a sample of 3GPP timed text (TS 26.245, section 5.17): the text, then its styles."""
    plain = ""
    styles: list[bytes] = []
    for piece, tags in runs(text):
        start, plain = len(plain), plain + piece
        if tags:
            face = sum(FACES[name] for name in tags)
            styles.append(STYLE.pack(start, len(plain), FONT, face, SIZE, WHITE))
    data = plain.encode()
    sample = struct.pack(">H", len(data)) + data
    if styles:
        body = struct.pack(">H", len(styles)) + b"".join(styles)
        sample += struct.pack(">I", 8 + len(body)) + b"styl" + body
    return sample


TIMED_TEXT = "mov_text"
MOST_SHOWN = 8
"""Largest number of cues that are shown at the same time in timed text."""
FORMATS: dict[str, tuple[str, Callable[[str], bytes]]] = {
    "mp4": (TIMED_TEXT, _timed_text),
    "matroska": ("subrip", _subrip),
    "webm": ("webvtt", str.encode),
}
"""Codec of subtitles, and the maker of its packets, by FFmpeg's name of the container."""


class SubtitleWriter:
    """Writer of the cues of a track, as the pictures that they are shown with are written."""

    def __init__(self, container: OutputContainer, excerpt: Excerpt, track: TextTrack) -> None:
        """Add the track to a file."""
        codec, self._encoded = FORMATS[container.format.name]
        stream = cast("SubtitleStream", container.add_stream(codec))
        stream.codec_context.time_base = UNIT
        stream.codec_context.subtitle_header = HEADER
        # The muxer needs the header of the track before the first packet.
        stream.codec_context.open(strict=False)
        if track.language:
            stream.metadata["language"] = track.language
        if track.title:
            stream.metadata["title"] = track.title
        self._stream = stream
        self._container = container
        begin = round(excerpt.start * MILLISECONDS)
        length = floor(excerpt.seconds * MILLISECONDS)
        shifted = (
            Cue(max(cue.start - begin, 0), min(cue.stop - begin, length), cue.text)
            for cue in track.cues
        )
        cues = [cue for cue in shifted if cue.start < cue.stop]
        self._cues = deque(apart(cues) if codec == TIMED_TEXT else cues)

    def write(self, seconds: Fraction) -> None:
        """Write the cues that begin before a time, in seconds since the excerpt's start."""
        while self._cues and self._cues[0].start < seconds * MILLISECONDS:
            cue = self._cues.popleft()
            packet = av.Packet(self._encoded(cue.text))
            packet.stream = self._stream
            packet.time_base = UNIT
            packet.pts = packet.dts = cue.start
            packet.duration = cue.stop - cue.start
            packet.is_keyframe = True
            self._container.mux_one(packet)


def apart(cues: Sequence[Cue]) -> list[Cue]:
    """Return cues that do not overlap, with the texts of those that are shown at the same time.

    Of more than MOST_SHOWN at a time, the last ones are kept.
    """
    bounds = sorted({time for cue in cues for time in (cue.start, cue.stop)})
    found: list[Cue] = []
    shown = deque[Cue](maxlen=MOST_SHOWN)
    waiting = deque(cues)
    for start, stop in pairwise(bounds):
        while waiting and waiting[0].start <= start:
            shown.append(waiting.popleft())
        shown = deque((cue for cue in shown if cue.stop > start), maxlen=MOST_SHOWN)
        if shown:
            found.append(Cue(start, stop, "\n".join(cue.text for cue in shown)))
    return found
