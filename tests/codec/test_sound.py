import struct
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from chunks import chunked

from encoder.codec.clip import Clip
from encoder.codec.clip_reader import ClipReader
from encoder.codec.container import INDEX, SEGMENT, ChunkReader, Header
from encoder.codec.extras import Extras
from encoder.codec.growing_file import GrowingFile
from encoder.codec.sound import (
    MAX_PACKETS,
    PACKETS,
    SOUND,
    Sound,
    SoundFormat,
    SoundPart,
    cut,
    is_packet,
)
from encoder.common.errors import BitstreamError

TWENTY_MS = bytes([31 << 3, 1, 2])  # CELT, full band, 20 ms, one frame
FORM = SoundFormat(channels=2, delay=312, language="eng")


def packets(count):
    return tuple(bytes([31 << 3, number % 256, *range(number % 7)]) for number in range(count))


@pytest.fixture
def sounding(tiny_clip):
    """Two segments of 0.12 s each, with 13 packets."""
    whole = Sound(FORM, [SoundPart(0, packets(13))])
    rate = tiny_clip.header.rate
    stops = [(each.start + each.frames) / rate for each in tiny_clip.segments]
    return replace(tiny_clip, extras=Extras(sound=cut(whole, stops)))


def kinds(data):
    return [chunk.kind for chunk in ChunkReader().feed(data)]


def test_sound_follows_the_segment_in_which_it_begins(sounding):
    data = bytes(sounding)
    assert kinds(data)[2:] == [SOUND, SEGMENT, PACKETS, SEGMENT, PACKETS, INDEX]
    first, second = sounding.sound.parts
    # A packet begins 6.5 ms before its number times 20 ms.
    assert (first.first, first.stop) == (0, 7)
    assert (second.first, second.stop) == (7, 13)


def test_clips_with_sound_are_read_as_they_were_written(sounding):
    data = bytes(sounding)
    clip = Clip.parse(data)
    assert bytes(clip) == data
    assert clip.sound.format == FORM
    assert [clip.sound.packet(number) for number in range(14)] == [*packets(13), None]
    silent = bytes(replace(clip, extras=Extras()))
    assert len(data) - len(silent) == clip.sound.file_bytes == clip.extra_bytes


def begun(clip, folder):
    """Return a file with the first segment, its reader, all bytes, and the place of the next."""
    data = bytes(clip)
    path = folder / "growing.nerv"
    second = [chunk.offset for chunk in ChunkReader().feed(data) if chunk.kind == SEGMENT][1]
    path.write_bytes(data[:second])
    return path, GrowingFile(path), data, second


def test_sound_is_there_as_far_as_the_file_has_arrived(sounding, tmp_path):
    path, growing, data, second = begun(sounding, tmp_path)
    assert growing.clip.sound.stop == 7
    with path.open("ab") as file:
        file.write(data[second:])
    growing.read_on()
    assert growing.clip.sound.stop == 13
    growing.close()


def test_a_resumed_fits_file_in_its_place_brings_the_rest_of_the_sound(sounding, tmp_path):
    path, growing, data, _ = begun(sounding, tmp_path)
    (tmp_path / "new").write_bytes(data)
    (tmp_path / "new").replace(path)
    growing.read_on()
    assert [part.first for part in growing.clip.sound.parts] == [0, 7]
    growing.close()


def test_damaged_sound_is_silent_and_costs_no_picture(sounding):
    data = bytearray(bytes(sounding))
    chunks = ChunkReader().feed(bytes(data))
    place = next(chunk.offset for chunk in chunks if chunk.kind == PACKETS)
    data[place + 20] ^= 1
    clip = Clip.parse(bytes(data), strict=False)
    assert len(clip.segments) == 2
    assert clip.sound.packet(3) is None
    assert clip.sound.packet(8) == packets(13)[8]
    assert "OPUS" in clip.damage[0]


def test_shortened_clips_have_the_sound_of_their_segments(sounding):
    (first, _), header = sounding.segments, sounding.header
    clip = Clip.parse(
        bytes(replace(sounding, segments=(first,), header=replace(header, frames=first.frames)))
    )
    assert clip.sound.stop == 7


@pytest.mark.parametrize(
    ("kind", "payload", "reason"),
    [
        (SOUND, bytes(FORM), "out of order"),
        (PACKETS, bytes(SoundPart(6, packets(1))), "cannot follow"),
        (PACKETS, bytes(SoundPart(13, packets(1))), "cannot follow"),
        (PACKETS, struct.pack("<I", 7), "no packets"),
        (PACKETS, b"123", "no number"),
        (PACKETS, struct.pack("<IH", 7, 3) + TWENTY_MS[:2], "inside a packet"),
        (PACKETS, struct.pack("<IH", 7, 3) + TWENTY_MS + b"1", "inside a packet"),
        (PACKETS, struct.pack("<IH", 7, 0), "20 ms"),
        (PACKETS, struct.pack("<IH", MAX_PACKETS, 3) + TWENTY_MS, "too many"),
        (PACKETS, struct.pack("<IH", 2**32 - 1, 3) + TWENTY_MS, "too many"),
    ],
)
def test_sound_that_breaks_a_rule_is_dropped(sounding, kind, payload, reason):
    reader = ClipReader()
    reader.feed(chunked(sounding, (kind, payload)))
    assert reason in reader.damage[0]
    assert [part.first for part in reader.extras.parts] == [0, 7]


def test_sound_without_a_description_is_dropped(tiny_clip):
    reader = ClipReader()
    reader.feed(chunked(tiny_clip, (PACKETS, bytes(SoundPart(0, packets(1))))))
    assert "not described" in reader.damage[0]
    assert reader.extras.found.sound is None


@pytest.mark.parametrize(
    "data",
    [b"", bytes(3), bytes([0, 0, 0, 0]), bytes([3, 0, 0, 0]), bytes([1, 0, 0, 0]) + b"\xff",
     bytes([1, 0, 0, 0]) + b"\n", bytes([1, 0, 0, 0]) + b"e" * 36],
)  # fmt: skip
def test_descriptions_that_break_a_rule_are_refused(data):
    with pytest.raises(BitstreamError):
        SoundFormat.parse(data)


def test_only_whole_frames_of_20_ms_are_packets():
    """The table of configurations (RFC 6716, section 3.1)."""
    durations = [10, 20, 40, 60] * 3 + [10, 20] * 2 + [2.5, 5, 10, 20] * 4
    for mode, duration in enumerate(durations):
        for count in range(4):
            first = mode << 3 | count
            assert is_packet(bytes([first, 0])) == (duration == 20 and count == 0)
    assert not is_packet(b"")
    assert not is_packet(bytes([31 << 3]) + bytes(1276))


def test_packets_are_cut_at_the_ends_of_segments():
    sound = Sound(SoundFormat(channels=1, delay=0), [SoundPart(0, packets(100))])
    parts = cut(sound, [Fraction(1, 100), Fraction(1, 50), Fraction(1, 50), Fraction(1)]).parts
    assert [(part.first, part.stop) for part in parts] == [(0, 1), (1, 50)]
    late = Sound(SoundFormat(channels=1, delay=48), [SoundPart(0, packets(3))])
    assert [(p.first, p.stop) for p in cut(late, [Fraction(1, 1000), Fraction(9)]).parts] == [
        (0, 1),
        (1, 3),
    ]


def test_header_tells_the_exact_duration():
    header = Header(
        width=2, height=2, frames=30, rate=Fraction(30000, 1001), continuous=True, settings=""
    )
    assert header.duration == Fraction(1001, 1000)
    assert np.isclose(header.duration_seconds, 1.001)
