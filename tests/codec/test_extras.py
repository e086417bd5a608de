"""Subtitles and metadata in the file."""

from dataclasses import replace
from fractions import Fraction
from math import ceil

import pytest
from chunks import chunked
from told import ABOUT_IT, BROKEN_CUES, BROKEN_DESCRIPTIONS, ENGLISH, GERMAN, TOLD

from encoder.codec.about import ABOUT
from encoder.codec.clip import Clip
from encoder.codec.clip_reader import ClipReader
from encoder.codec.container import INDEX, SEGMENT, ChunkReader
from encoder.codec.extras import Extras
from encoder.codec.growing_file import GrowingFile
from encoder.codec.subtitles import CUES, TRACK, Cue, CuePart, TextTrack
from encoder.common.errors import BitstreamError


@pytest.fixture
def told(tiny_clip):
    """Two segments of 0.12 s each, with two text tracks."""
    return replace(tiny_clip, extras=TOLD)


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


@pytest.mark.parametrize(("kind", "payload", "reason"), BROKEN_CUES)
def test_subtitles_that_break_a_rule_are_dropped(told, kind, payload, reason):
    reader = ClipReader()
    reader.feed(chunked(told, (kind, payload)))
    assert reason in reader.damage[0]
    assert len(reader.damage) == 1
    assert reader.extras.found.subtitles == (ENGLISH, GERMAN)


@pytest.mark.parametrize(("kind", "payload", "reason"), BROKEN_DESCRIPTIONS)
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


def test_cues_of_a_clip_have_so_many_bytes_at_most(told, monkeypatch):
    monkeypatch.setattr("encoder.codec.extras_reader.MAX_CUE_BYTES", 50)
    reader = ClipReader()
    reader.feed(bytes(told))
    assert "over 50 bytes" in reader.damage[0]


def test_a_chunk_of_too_many_cues_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr("encoder.codec.subtitles.MAX_CUES", 3)
    payload = bytes(CuePart(0, tuple(Cue(number, 9, "x") for number in range(4)))) + b"broken"
    with pytest.raises(BitstreamError, match="too many"):
        CuePart.parse(payload)


@pytest.mark.parametrize("frames", [30, 31, 89])
def test_a_cue_at_the_very_end_is_dropped_to_the_millisecond(tiny_clip, frames):
    """Rates of fractions have lengths that floats do not hold: 30 frames at 30000/1001 are 1001 ms."""
    header = replace(tiny_clip.header, frames=frames, rate=Fraction(30000, 1001))
    end = header.duration * 1000
    for start in (ceil(end) - 1, ceil(end)):
        reader = ClipReader()
        track = TextTrack("en").description(0)
        cues = bytes(CuePart(0, (Cue(start, start + 9, "x"),)))
        reader.feed(
            chunked(replace(tiny_clip, header=header), (TRACK, track), (CUES, cues), segment=0)
        )
        assert bool(reader.extras.found.subtitles[0].cues) == (start < end)
