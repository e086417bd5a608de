import contextlib
import struct
from dataclasses import replace

import numpy as np
import pytest
from helpers import SAMPLE
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.codec.clip import Clip, SegmentModels
from encoder.codec.clip_reader import MAX_NOTES, ClipReader
from encoder.codec.container import HEAD, INDEX, SEGMENT, TOPOLOGY, ChunkReader, file_bytes
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.codec.segment import Quantized, Segment
from encoder.codec.segment_index import Entry, index_bytes
from encoder.common.errors import BitstreamError


def test_clip_becomes_the_same_bytes(tiny_clip):
    data = bytes(tiny_clip)
    assert bytes(Clip.parse(data)) == data


def test_sample_becomes_the_same_bytes():
    assert bytes(Clip.read(SAMPLE)) == SAMPLE.read_bytes()


@pytest.fixture(scope="session")
def delta_clip(tiny_clip) -> Clip:
    """Four segments of three frames: key, delta, delta, key."""
    first, second = tiny_clip.segments
    shapes = tiny_clip.topology.tensors
    change = {
        name: Quantized(integers=np.ones(shape, np.int32), step=0.125, delta=True)
        for name, shape in shapes.items()
    }
    deltas = [Segment.encode(start, 3, change, shapes) for start in (3, 6)]
    segments = (first, *deltas, replace(second, start=9))
    return replace(tiny_clip, header=replace(tiny_clip.header, frames=12), segments=segments)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (lambda a, b: (b, a), "frames 0 to 2 are missing"),
        (lambda a, b: (a, a), "segment of frames 0 to 3 cannot follow frame 3"),
        (lambda a, b: (a,), "frames from 3 to the end are missing"),
        (lambda a, b: (a, replace(b, frames=0)), "segment of frames 3 to 3 cannot follow frame 3"),
        (lambda a, b: (a, replace(b, frames=4)), "segment of frames 3 to 7 cannot follow frame 3"),
        (lambda a, b: (a, replace(b, tensors=b.tensors[1:])), "tensors, expected"),
        (lambda a, b: (), "frames from 0 to the end are missing"),
    ],
)
def test_segments_that_do_not_fit(tiny_clip, segments, message):
    data = bytes(replace(tiny_clip, segments=segments(*tiny_clip.segments)))
    with pytest.raises(BitstreamError, match=message):
        Clip.parse(data)


def chunks(clip: Clip) -> list[tuple[bytes, bytes]]:
    return [(part.kind, part.payload) for part in ChunkReader().feed(bytes(clip))]


def offsets(data: bytes) -> list[int]:
    return [part.offset for part in ChunkReader().feed(data) if part.kind == SEGMENT]


def damaged(clip: Clip, segment: int) -> bytes:
    """Return the bytes of a clip with a bit of a segment's weights turned."""
    data = bytearray(bytes(clip))
    data[offsets(bytes(clip))[segment] + 100] ^= 4
    return bytes(data)


@pytest.mark.parametrize(
    ("segment", "starts", "damage"),
    [
        (
            0,
            [9],
            [
                "checksum differs",
                "checksum differs",
                "checksum differs",
                "frames 0 to 8 are missing",
            ],
        ),
        (1, [0, 9], ["checksum differs", "checksum differs", "frames 3 to 8 are missing"]),
        (2, [0, 3, 9], ["checksum differs", "frames 6 to 8 are missing"]),
        (3, [0, 3, 6], ["checksum differs", "frames from 9 to the end are missing"]),
    ],
)
def test_damaged_segments_are_reported_and_left_out(delta_clip, segment, starts, damage):
    data = damaged(delta_clip, segment)
    with pytest.raises(BitstreamError, match="checksum differs"):
        Clip.parse(data)
    clip = Clip.parse(data, strict=False)
    assert [part.start for part in clip.segments] == starts
    assert all(expected in note for expected, note in zip(damage, clip.damage, strict=True))


def test_notes_about_damage_do_not_fill_the_memory(tiny_clip):
    *parts, index = chunks(tiny_clip)
    clip = Clip.parse(file_bytes([*parts, *[(SEGMENT, b"")] * 1000, index]), strict=False)
    assert len(clip.damage) == MAX_NOTES + 1
    assert clip.damage[-1] == "900 more chunks are damaged"


@pytest.mark.parametrize(
    ("kind", "place"), [(b"NOTE", "end"), (HEAD, "index"), (TOPOLOGY, "index")]
)
def test_chunks_out_of_order(tiny_clip, kind, place):
    parts = chunks(tiny_clip)
    parts.insert(len(parts) if place == "end" else len(parts) - 1, (kind, b""))
    with pytest.raises(BitstreamError, match="it is out of order"):
        Clip.parse(file_bytes(parts))


def test_segments_of_another_clip_do_not_fit(tiny_clip):
    """Not even where network and frames are the same."""
    other = bytes(replace(tiny_clip, header=replace(tiny_clip.header, settings="--preset exam")))
    assert len(other) == len(bytes(tiny_clip))
    data, at = bytearray(bytes(tiny_clip)), offsets(other)[1]
    data[at:] = other[at:]
    clip = Clip.parse(bytes(data), strict=False)
    assert [segment.start for segment in clip.segments] == [0]
    assert "is damaged: its checksum differs" in clip.damage[0]


def test_picture_freezes_where_a_segment_is_damaged(delta_clip):
    clip = Clip.parse(damaged(delta_clip, 1), strict=False)
    decoder, whole = ReferenceDecoder(clip), ReferenceDecoder(delta_clip)
    for time, shown in [(2, 2), (3, 2), (8, 2), (9, 9), (11, 11)]:
        assert np.array_equal(decoder.frame(time), whole.frame(shown))


def test_no_segment_is_left(tiny_clip):
    data = bytes(replace(tiny_clip, segments=tiny_clip.segments[:1]))
    data = bytearray(data)
    data[offsets(bytes(data))[0] + 100] ^= 4
    with pytest.raises(BitstreamError, match="checksum differs"):
        Clip.parse(bytes(data), strict=False)


def test_delta_segments_add_up_in_any_order(delta_clip):
    shapes = delta_clip.topology.tensors
    first, last = (delta_clip.segments[index].weights(shapes) for index in (0, 3))
    expected = [
        {name: x + np.float32(0.125 * index) for name, x in first.items()} for index in range(3)
    ] + [last]
    models = SegmentModels(delta_clip)
    for index in (2, 1, 0, 3, 2, 2, 3, 1, 2):
        weights = models.weights(index)
        assert all(np.allclose(weights[name], expected[index][name], atol=1e-6) for name in shapes)


def test_first_segment_that_is_no_key(delta_clip):
    segments = (replace(delta_clip.segments[1], start=0), *delta_clip.segments[1:])
    with pytest.raises(BitstreamError, match="segment at frame 0 needs the one before"):
        Clip.parse(bytes(replace(delta_clip, segments=segments)))


def test_too_many_weights_between_two_keys(delta_clip, monkeypatch):
    monkeypatch.setattr(
        "encoder.codec.clip_reader.MAX_CHAIN_WEIGHTS", 2 * delta_clip.topology.weights
    )
    with pytest.raises(BitstreamError, match="too many segments without a key segment"):
        Clip.parse(bytes(delta_clip))


def test_a_segment_can_be_shown_before_the_next_arrives(delta_clip):
    data = bytes(delta_clip)
    second = offsets(data)[1]
    reader = ClipReader()
    for start in range(0, second, 1000):
        reader.feed(data[start : min(start + 1000, second)])
    assert reader.header == delta_clip.header
    assert reader.topology is not None
    clip = Clip(reader.header, reader.topology, tuple(reader.segments))
    assert np.array_equal(ReferenceDecoder(clip).frame(1), ReferenceDecoder(delta_clip).frame(1))
    reader.feed(data[second:])
    assert Clip(*reader.finish()) == delta_clip


def test_index_is_found_from_the_end_of_the_file(delta_clip):
    data = bytes(delta_clip)
    count = int.from_bytes(data[-8:-4], "little")
    size = count * 17 + 4
    assert data[-size - 16 : -size - 12] == INDEX
    entries = list(struct.iter_unpack("<QIIB", data[-size - 4 : -8]))
    assert [offset for offset, *_ in entries] == offsets(data)
    assert [rest for _, *rest in entries] == [[0, 3, 1], [3, 3, 0], [6, 3, 0], [9, 3, 1]]


def test_index_that_does_not_fit(tiny_clip):
    *parts, _ = chunks(tiny_clip)
    wrong = index_bytes([Entry(offset=8, start=0, frames=6, is_key=True)])
    for index, message in (
        ([(INDEX, wrong)], "index does not fit the segments"),
        ([], "index is missing"),
    ):
        with pytest.raises(BitstreamError, match=message):
            Clip.parse(file_bytes([*parts, *index]))


def test_chunks_that_are_not_known_are_passed_over(tiny_clip):
    *parts, index = chunks(tiny_clip)
    assert Clip.parse(file_bytes([*parts, (b"NOTE", b"later"), index])) == tiny_clip


def test_frames_larger_than_the_network_makes(tiny_clip):
    data = bytes(replace(tiny_clip, header=replace(tiny_clip.header, width=4000)))
    with pytest.raises(BitstreamError, match="4000x19 are needed"):
        Clip.parse(data)


@pytest.mark.parametrize(("cut", "missing"), [(HEAD, "HEAD"), (TOPOLOGY, "TOPO")])
def test_chunks_that_nothing_can_be_shown_without(tiny_clip, cut, missing):
    parts = [part for part in chunks(tiny_clip) if part[0] != cut]
    with pytest.raises(BitstreamError, match=f"chunk {missing} is missing or damaged"):
        Clip.parse(file_bytes(parts), strict=False)


def test_every_truncation_is_noticed(tiny_clip):
    data = bytes(tiny_clip)
    for length in range(0, len(data), 149):
        with pytest.raises(BitstreamError):
            Clip.parse(data[:length])


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_behind_right_checksums_never_crashes(tiny_clip, data):
    parts = [(kind, bytearray(payload)) for kind, payload in chunks(tiny_clip)]
    for _ in range(data.draw(st.integers(1, 4))):
        _, payload = parts[data.draw(st.integers(0, len(parts) - 1))]
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BitstreamError):
        clip = Clip.parse(file_bytes((kind, bytes(payload)) for kind, payload in parts))
        for index in range(len(clip.segments)):
            weights = SegmentModels(clip).weights(index)
            assert {name: values.shape for name, values in weights.items()} == clip.topology.tensors


def test_locate(tiny_clip):
    assert [tiny_clip.locate(t) for t in (-1.0, 0.0, 2.0, 2.5, 3.0, 4.25, 5.0, 99.0)] == [
        (0, 0.0),
        (0, 0.0),
        (0, 2.0),
        (0, 2.0),
        (1, 0.0),
        (1, 1.25),
        (1, 2.0),
        (1, 2.0),
    ]


def test_no_such_file(tmp_path):
    with pytest.raises(BitstreamError, match=r"cannot read .*nope\.nerv: No such file"):
        Clip.read(tmp_path / "nope.nerv")
