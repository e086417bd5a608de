"""Subtitles and metadata that a clip may have, and chunks of them that break a rule."""

import struct

from encoder.codec.about import ABOUT, About, Chapter
from encoder.codec.extras import Extras
from encoder.codec.subtitles import CUES, MAX_TEXT, TRACK, Cue, CuePart, TextTrack

ABOUT_IT = About(
    title="Ein Film\N{IDEOGRAPHIC SPACE}für dich",
    language="de",
    date="2026",
    chapters=(Chapter(0, "Anfang"), Chapter(100, "")),
)
ENGLISH = TextTrack(
    "en", "", [Cue(0, 90, "one"), Cue(20, 130, "<i>two</i>\n&amp;"), Cue(120, 200, "3")]
)
GERMAN = TextTrack("de", "für Gehörlose", [Cue(121, 239, "vier")])
TOLD = Extras(subtitles=(ENGLISH, GERMAN), about=ABOUT_IT)


def cue(start, stop, text):
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<IIH", start, stop, len(raw)) + raw


BROKEN_CUES = [
    (ABOUT, bytes(ABOUT_IT), "out of order"),
    (TRACK, TextTrack("fr").description(2), "out of order"),
    (CUES, bytes(CuePart(2, (Cue(30, 40, "x"),))), "not described"),
    (CUES, bytes(CuePart(0, (Cue(10, 40, "x"),))), "cannot follow"),
    (CUES, bytes(CuePart(0, (Cue(240, 300, "x"),))), "cannot follow"),
    (CUES, b"", "no cue"),
    (CUES, b"\0", "no cue"),
    (CUES, b"\0" + cue(30, 40, "x")[:-1], "inside a cue"),
    (CUES, b"\0" + cue(30, 40, "x") + b"\0", "inside a cue"),
    (CUES, b"\0" + cue(30, 30, "x"), "out of order"),
    (CUES, b"\0" + cue(40, 50, "x") + cue(39, 50, "x"), "out of order"),
    (CUES, b"\0" + cue(30, 40, ""), "rules of WebVTT"),
    (CUES, b"\0" + cue(30, 40, "x" * (MAX_TEXT + 1)), "rules of WebVTT"),
    (CUES, b"\0" + cue(30, 40, "a\n\nb"), "rules of WebVTT"),
    (CUES, b"\0" + cue(30, 40, "a\n"), "rules of WebVTT"),
    (CUES, b"\0" + cue(30, 40, "1 --> 2"), "rules of WebVTT"),
    (CUES, b"\0" + cue(30, 40, "a\rb"), "rules of WebVTT"),
    (CUES, b"\0" + cue(30, 40, "a\x85b"), "rules of WebVTT"),
    (CUES, b"\0" + cue(30, 40, b"\xff"), "not UTF-8"),
]
"""Type, payload and reason, behind the first segment."""
BROKEN_DESCRIPTIONS = [
    (TRACK, b"", "not described"),
    (TRACK, b"\0\5en", "description"),
    (TRACK, b"\0\x24" + 36 * b"a", "description"),
    (TRACK, b"\0\2en" + 256 * b"a", "description"),
    (TRACK, b"\0\2\xff\xff", "no text"),
    (TRACK, b"\0\2en\xff", "not UTF-8"),
    (TRACK, b"\0\2e\n", "no text"),
    (TRACK, b"\1\2en", "out of order"),
    (ABOUT, b"\1", "inside an entry"),
    (ABOUT, b"\1\5\0abc", "inside an entry"),
    (ABOUT, b"\1\x01\x04" + 1025 * b"a", "too long"),
    (ABOUT, 1025 * b"\x09\0\0", "too long"),
    (ABOUT, b"\1\1\0\xff", "not UTF-8"),
    (ABOUT, b"\1\1\0\n", "control characters"),
    (ABOUT, b"\4\3\0abc", "no start"),
    (ABOUT, b"\4\4\0\1\0\0\0\4\4\0\1\0\0\0", "out of order"),
]
"""Type, payload and reason, before the first segment of a clip without any."""
