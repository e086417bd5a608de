"""Subtitles and metadata in the file."""

import struct
from dataclasses import replace

import pytest
from chunks import chunked

from encoder.codec.about import ABOUT, About, Chapter
from encoder.codec.clip import Clip
from encoder.codec.clip_reader import ClipReader
from encoder.codec.container import INDEX, SEGMENT, ChunkReader
from encoder.codec.extras import Extras
from encoder.codec.growing_file import GrowingFile
from encoder.codec.subtitles import CUES, MAX_TEXT, TRACK, Cue, CuePart, TextTrack

ABOUT_IT = About(
    title="Ein Film für dich",
    language="de",
    date="2026",
    chapters=(Chapter(0, "Anfang"), Chapter(100, "")),
)
ENGLISH = TextTrack(
    "en", "", [Cue(0, 90, "one"), Cue(20, 130, "<i>two</i>\n&amp;"), Cue(120, 200, "3")]
)
GERMAN = TextTrack("de", "für Gehörlose", [Cue(121, 239, "vier")])


@pytest.fixture
def told(tiny_clip):
    """Two segments of 0.12 s each, with two text tracks."""
    return replace(tiny_clip, extras=Extras(subtitles=(ENGLISH, GERMAN), about=ABOUT_IT))


def kinds(data):
    return [chunk.kind for chunk in ChunkReader().feed(data)]


def test_cues_follow_the_segment_in_which_they_begin(told):
    data = bytes(told)
    start = [ABOUT, TRACK, TRACK]
    assert kinds(data)[2:] == [*start, SEGMENT, CUES, SEGMENT, CUES, CUES, INDEX]


def test_clips_with_subtitles_are_read_as_they_were_written(told):
    data = bytes(told)
    clip = Clip.parse(data)
    assert bytes(clip) == data
    assert clip.extras.about == ABOUT_IT
    assert clip.extras.subtitles == (ENGLISH, GERMAN)
    assert len(data) - len(bytes(replace(clip, extras=Extras()))) == clip.extra_bytes


def test_a_track_as_a_webvtt_file():
    hour = TextTrack("en", "", [*ENGLISH.cues[:2], Cue(3_723_004, 3_724_000, "late")])
    assert hour.webvtt() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.090\none\n\n"
        "00:00:00.020 --> 00:00:00.130\n<i>two</i>\n&amp;\n\n"
        "01:02:03.004 --> 01:02:04.000\nlate\n"
    )


def test_subtitles_are_there_as_far_as_the_file_has_arrived(told, tmp_path):
    data = bytes(told)
    path = tmp_path / "growing.nerv"
    second = [chunk.offset for chunk in ChunkReader().feed(data) if chunk.kind == SEGMENT][1]
    path.write_bytes(data[:second])
    growing = GrowingFile(path)
    assert [len(track.cues) for track in growing.clip.extras.subtitles] == [2, 0]
    (tmp_path / "new").write_bytes(data)
    (tmp_path / "new").replace(path)
    growing.read_on()
    assert growing.clip.extras.subtitles == (ENGLISH, GERMAN)
    growing.close()


def test_damaged_cues_cost_no_picture(told):
    data = bytearray(bytes(told))
    place = next(chunk.offset for chunk in ChunkReader().feed(bytes(data)) if chunk.kind == CUES)
    data[place + 20] ^= 1
    clip = Clip.parse(bytes(data), strict=False)
    assert len(clip.segments) == 2
    assert [len(track.cues) for track in clip.extras.subtitles] == [1, 1]
    assert "CUES" in clip.damage[0]


def cue(start, stop, text):
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<IIH", start, stop, len(raw)) + raw


@pytest.mark.parametrize(
    ("kind", "payload", "reason"),
    [
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
    ],
)
def test_subtitles_that_break_a_rule_are_dropped(told, kind, payload, reason):
    reader = ClipReader()
    reader.feed(chunked(told, (kind, payload)))
    assert reason in reader.damage[0]
    assert len(reader.damage) == 1
    assert reader.extras.found.subtitles == (ENGLISH, GERMAN)


@pytest.mark.parametrize(
    ("kind", "payload", "reason"),
    [
        (TRACK, b"", "not described"),
        (TRACK, b"\0\5en", "description"),
        (TRACK, b"\0\x24" + 36 * b"a", "description"),
        (TRACK, b"\0\2en" + 256 * b"a", "description"),
        (TRACK, b"\0\2\xff\xff", "no text"),
        (TRACK, b"\0\2en\xff", "no text"),
        (TRACK, b"\0\2e\n", "no text"),
        (TRACK, b"\1\2en", "out of order"),
        (ABOUT, b"\1", "inside an entry"),
        (ABOUT, b"\1\5\0abc", "inside an entry"),
        (ABOUT, b"\1\x01\x04" + 1025 * b"a", "too long"),
        (ABOUT, 1025 * b"\x09\0\0", "too long"),
        (ABOUT, b"\1\1\0\xff", "not UTF-8"),
        (ABOUT, b"\1\1\0\n", "no text"),
        (ABOUT, b"\4\3\0abc", "no start"),
        (ABOUT, b"\4\4\0\1\0\0\0\4\4\0\1\0\0\0", "out of order"),
    ],
)
def test_descriptions_that_break_a_rule_are_dropped(tiny_clip, kind, payload, reason):
    reader = ClipReader()
    reader.feed(chunked(tiny_clip, (kind, payload), segment=0))
    assert reason in reader.damage[0]
    assert reader.extras.found == Extras()
    assert len(reader.segments) == 2


def test_entries_of_other_kinds_are_skipped(tiny_clip):
    reader = ClipReader()
    reader.feed(chunked(tiny_clip, (ABOUT, b"\x07\2\0\xff\xff" + bytes(ABOUT_IT)), segment=0))
    assert reader.extras.found.about == ABOUT_IT
    assert not reader.damage


def test_a_clip_has_so_many_cues_at_most(told, monkeypatch):
    monkeypatch.setattr("encoder.codec.extras_reader.MAX_CUES", 3)
    reader = ClipReader()
    reader.feed(bytes(told))
    assert "over 3 cues" in reader.damage[0]
    assert [len(track.cues) for track in reader.extras.found.subtitles] == [3, 0]
