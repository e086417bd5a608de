import contextlib
from dataclasses import replace

import numpy as np
import pytest
from helpers import SAMPLE
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.codec.clip import HEAD, MAX_BOUND, PREFIX, SEGMENT, TENSOR, Clip, CodedTensor, Segment
from encoder.codec.container import chunk, chunks, signature
from encoder.codec.errors import BitstreamError

SHAPES = {"a": (2, 3), "b": (4,)}
TENSORS = {"a": (np.arange(-3, 3, dtype=np.int32).reshape(2, 3), 0.5), "b": (np.zeros(4, np.int32), 2.0)}


def test_segment_round_trip():
    segment = Segment.parse(bytes(Segment.encode(7, 5, TENSORS, SHAPES)))
    assert (segment.start, segment.frames) == (7, 5)
    weights = segment.weights(SHAPES)
    assert np.array_equal(weights["a"], [[-1.5, -1, -0.5], [0, 0.5, 1]])
    assert np.array_equal(weights["b"], [0, 0, 0, 0])
    assert all(values.dtype == np.float32 for values in weights.values())


def test_codes_beyond_the_bound():
    with pytest.raises(ValueError, match=f"must be in -{MAX_BOUND}..{MAX_BOUND}, got 5000"):
        Segment.encode(0, 1, {"a": (np.array([5000], np.int32), 1.0)}, {"a": (1,)})


def test_wrong_shape():
    with pytest.raises(ValueError, match=r"must have shape \(4,\), got \(2, 3\)"):
        Segment.encode(0, 1, {"a": TENSORS["a"]}, {"a": (4,)})


@pytest.mark.parametrize(
    ("tensor", "kind", "code"),
    [
        (CodedTensor(float("nan"), 1, 1), 0, b""),
        (CodedTensor(-1.0, 1, 1), 0, b""),
        (CodedTensor(1.0, 0, 1), 0, b""),
        (CodedTensor(1.0, 1, 0), 0, b""),
        (CodedTensor(1.0, 1, MAX_BOUND + 1), 0, b""),
        (CodedTensor(1.0, 1, 1), 1, b""),
        (CodedTensor(1.0, 1, 1), 0, b"odd"),
    ],
)
def test_segment_out_of_range(tensor, kind, code):
    data = PREFIX.pack(0, 1, 1, kind) + TENSOR.pack(tensor.step, tensor.decay, tensor.bound) + code
    with pytest.raises(BitstreamError):
        Segment.parse(data)


def test_segment_announces_more_tensors_than_it_holds():
    with pytest.raises(BitstreamError, match="segment of 9 tensors cannot have 12 bytes"):
        Segment.parse(PREFIX.pack(0, 1, 9, 0))


def test_clip_becomes_the_same_bytes(tiny_clip):
    data = bytes(tiny_clip)
    assert bytes(Clip.parse(data)) == data


def test_sample_becomes_the_same_bytes():
    assert bytes(Clip.read(SAMPLE)) == SAMPLE.read_bytes()


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (lambda a, b: (b, a), "segment starts at frame 3, expected 0"),
        (lambda a, b: (a, a), "segment starts at frame 0, expected 3"),
        (lambda a, b: (a,), "clip holds 3 of its 6 frames"),
        (lambda a, b: (a, replace(b, frames=0)), "segment starts at frame 3, expected 3"),
        (lambda a, b: (a, replace(b, tensors=b.tensors[1:])), "tensors, expected"),
        (lambda a, b: (), "clip must consist of"),
    ],
)
def test_segments_that_do_not_fit(tiny_clip, segments, message):
    data = bytes(replace(tiny_clip, segments=segments(*tiny_clip.segments)))
    with pytest.raises(BitstreamError, match=message):
        Clip.parse(data)


def test_frames_larger_than_the_network_makes(tiny_clip):
    data = bytes(replace(tiny_clip, header=replace(tiny_clip.header, width=4000)))
    with pytest.raises(BitstreamError, match="4000x19 are needed"):
        Clip.parse(data)


def test_chunks_in_another_order(tiny_clip):
    data = signature() + chunk(SEGMENT, b"") + chunk(HEAD, bytes(tiny_clip.header))
    with pytest.raises(BitstreamError, match="in this order"):
        Clip.parse(data)


def test_every_truncation_is_noticed(tiny_clip):
    data = bytes(tiny_clip)
    for length in range(0, len(data), 37):
        with pytest.raises(BitstreamError):
            Clip.parse(data[:length])


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_behind_right_checksums_never_crashes(tiny_clip, data):
    parts = [(kind, bytearray(payload)) for kind, payload in chunks(bytes(tiny_clip))]
    for _ in range(data.draw(st.integers(1, 4))):
        _, payload = parts[data.draw(st.integers(0, len(parts) - 1))]
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BitstreamError):
        clip = Clip.parse(signature() + b"".join(chunk(kind, bytes(payload)) for kind, payload in parts))
        for segment in clip.segments:
            weights = segment.weights(clip.topology.tensors)
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
