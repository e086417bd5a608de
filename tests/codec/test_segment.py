import subprocess
import sys
import time
import zlib
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest

from encoder.codec.coder import HUFFMAN, PLAIN, RANGE
from encoder.codec.context import MAX_PLANES
from encoder.codec.entropy import RangeEncoder
from encoder.codec.segment import DELTA_SEGMENT, KEY_SEGMENT, PREFIX, Quantized, Segment
from encoder.codec.tensor_header import (
    COLUMNS,
    CONTEXT,
    DELTA,
    PAIRS,
    PREDICTED,
    RECORD,
    ROWS,
    SECOND,
)
from encoder.codec.topology import MAX_WEIGHTS
from encoder.common.errors import BitstreamError

SHAPES = {"a": (2, 3), "b": (4,)}
TENSORS = {
    "a": Quantized(integers=np.arange(-3, 3, dtype=np.int32).reshape(2, 3), step=0.5),
    "b": Quantized(integers=np.zeros(4, np.int32), step=2.0),
}


@pytest.mark.parametrize("coder", ["range", "huffman"])
def test_round_trip(coder):
    segment = Segment.encode(7, 5, TENSORS, SHAPES, coder=coder)
    again = Segment.parse(bytes(segment), 2)
    assert again == segment
    assert (again.start, again.frames, again.is_key) == (7, 5, True)
    weights = again.weights(SHAPES)
    assert np.array_equal(weights["a"], [[-1.5, -1, -0.5], [0, 0.5, 1]])
    assert np.array_equal(weights["b"], [0, 0, 0, 0])
    assert all(values.dtype == np.float32 for values in weights.values())


@pytest.mark.parametrize("coder", ["range", "huffman"])
def test_delta_is_added_to_the_segment_before(coder):
    changed = {
        "a": Quantized(integers=np.full((2, 3), 2, np.int32), step=0.25, delta=True),
        "b": TENSORS["b"],
    }
    segment = Segment.parse(bytes(Segment.encode(5, 5, changed, SHAPES, coder=coder)), 2)
    assert not segment.is_key
    before = Segment.encode(0, 5, TENSORS, SHAPES).weights(SHAPES)
    assert np.array_equal(segment.weights(SHAPES, before)["a"], [[-1, -0.5, 0], [0.5, 1, 1.5]])
    with pytest.raises(BitstreamError, match="segment at frame 5 needs the one before"):
        segment.weights(SHAPES)


@pytest.mark.parametrize(("axis", "offsets"), [(0, [-3, 2]), (1, [0, 5, -1])])
def test_channels_have_steps_of_their_own(axis, offsets):
    integers = np.arange(-3, 3, dtype=np.int32).reshape(2, 3)
    tensor = Quantized(
        integers=integers, step=0.5, channels=np.array(offsets, np.int32), channel_axis=axis
    )
    segment = Segment.parse(bytes(Segment.encode(0, 5, {"a": tensor}, {"a": (2, 3)})), 1)
    steps = 0.5 * 2 ** (np.array(offsets) / 2)
    assert np.allclose(
        segment.weights({"a": (2, 3)})["a"], integers * np.expand_dims(steps, 1 - axis), rtol=1e-6
    )


def test_second_axis_of_a_tensor_that_has_one():
    coder = RangeEncoder()
    coder.encode(np.zeros(4, np.int32), 0, 1)
    record = RECORD.pack(1.0, 1, 0, SECOND, 0, 0, 0)
    segment = Segment.parse(PREFIX.pack(0, 1, 1, KEY_SEGMENT, PLAIN) + record + coder.bytes(), 1)
    with pytest.raises(BitstreamError, match="tensor of one axis has no second"):
        segment.weights({"a": (4,)})


def test_huffman_has_one_step_for_a_tensor():
    tensor = Quantized(
        integers=np.array([1, 2], np.int32), step=1.0, channels=np.array([0, 1], np.int32)
    )
    with pytest.raises(ValueError, match="one step for each tensor"):
        Segment.encode(0, 1, {"a": tensor}, {"a": (2,)}, coder="huffman")


def test_huffman_is_an_order_0_code():
    """It stays at the entropy of the single weights even where they repeat."""
    integers = np.tile(np.arange(-8, 8, dtype=np.int32), 4000)
    segment = Segment.encode(
        0, 1, {"a": Quantized(integers=integers, step=1.0)}, {"a": integers.shape}, coder="huffman"
    )
    assert 8 * len(segment.code) / integers.size == pytest.approx(4, rel=0.03)


def test_huffman_takes_bytes():
    tensors = {"a": Quantized(integers=np.array([128], np.int32), step=1.0)}
    with pytest.raises(ValueError, match=r"must be in -127\.\.127 for Huffman's code, got 128"):
        Segment.encode(0, 1, tensors, {"a": (1,)}, coder="huffman")


def test_integers_beyond_the_bound():
    with pytest.raises(ValueError, match=r"must be in -4095\.\.4095, got 5000"):
        Segment.encode(
            0, 1, {"a": Quantized(integers=np.array([5000], np.int32), step=1.0)}, {"a": (1,)}
        )


def test_wrong_shape():
    with pytest.raises(ValueError, match=r"must have shape \(4,\), got \(2, 3\)"):
        Segment.encode(0, 1, {"a": TENSORS["a"]}, {"a": (4,)})


@pytest.mark.parametrize(
    "record",
    [
        (inf, 1, 0, 0, 0, 0, 0),
        (nan, 1, 0, 0, 0, 0, 0),
        (-1.0, 1, 0, 0, 0, 0, 0),
        (0.0, 1, 0, 0, 0, 0, 0),
        (2.0**-65, 1, 0, 0, 0, 0, 0),
        (2.0**65, 1, 0, 0, 0, 0, 0),
        (1.0, 0, 0, 0, 0, 0, 0),
        (1.0, 4096, 0, 0, 0, 0, 0),
        (1.0, 1, 64, 0, 0, 0, 0),
        (1.0, 1, 0, 0, 64, 0, 0),
        (1.0, 1, 0, 0, 0, 64, 0),
        (1.0, 1, 0, 0, 0, 0, 64),
    ],
)
def test_record_out_of_range(record):
    with pytest.raises(BitstreamError, match="tensor's parameters are out of range"):
        Segment.parse(PREFIX.pack(0, 1, 1, KEY_SEGMENT, PLAIN) + RECORD.pack(*record), 1)


@pytest.mark.parametrize(
    ("prefix", "flags", "message"),
    [
        ((0, 1, 1, 2, PLAIN), 0, "unknown kind of segment 2"),
        ((0, 1, 1, KEY_SEGMENT, 3), 0, "coder 3"),
        ((0, 1, 9, KEY_SEGMENT, PLAIN), 0, "segment of 9 tensors cannot have 23 bytes"),
        ((0, 1, 1, DELTA_SEGMENT, PLAIN), 0, "of the other kind than it says"),
        ((0, 1, 1, KEY_SEGMENT, PLAIN), DELTA, "of the other kind than it says"),
        ((0, 1, 1, KEY_SEGMENT, HUFFMAN), 0, "has models, which Huffman's code has not"),
        ((0, 1, 1, KEY_SEGMENT, PLAIN), CONTEXT, "has contexts, which its coder has not"),
        ((0, 1, 1, KEY_SEGMENT, PLAIN), CONTEXT | ROWS, "with contexts has no rows and columns"),
        ((0, 1, 1, KEY_SEGMENT, PLAIN), CONTEXT | PAIRS, "with contexts has no rows and columns"),
    ],
)
def test_prefix_out_of_range(prefix, flags, message):
    with pytest.raises(BitstreamError, match=message):
        Segment.parse(PREFIX.pack(*prefix) + RECORD.pack(1.0, 1, 0, flags, 0, 0, 0), prefix[2])


RECORDS = RECORD.pack(1.0, 1, 0, 0, 0, 0, 0) * 2


def packed(records):
    fields = b"".join(records[index :: RECORD.size] for index in range(RECORD.size))
    data = zlib.compress(fields, wbits=-15)
    return len(data).to_bytes(2, "little") + data


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (b"", "segment of 2 tensors cannot have 12 bytes"),
        (b"\1", "segment of 2 tensors cannot have 13 bytes"),
        (packed(RECORDS)[:-1], "must have 22 bytes"),
        (packed(RECORDS[:-1]), "must have 22 bytes"),
        (packed(RECORDS + b"x"), "must have 22 bytes"),
        (packed(bytes(1 << 24)), "must have 22 bytes"),
        (b"\1\0\xff", "records cannot be unpacked"),
        (packed(RECORD.pack(0.0, 1, 0, 0, 0, 0, 0) * 2), "parameters are out of range"),
    ],
)
def test_packed_records_that_do_not_fit(records, message):
    prefix = PREFIX.pack(0, 1, 2, KEY_SEGMENT, RANGE)
    assert Segment.parse(prefix + packed(RECORDS), 2).records == packed(RECORDS)
    with pytest.raises(BitstreamError, match=message):
        Segment.parse(prefix + records, 2)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4,), "must have 4 axes"),
        ((4, 4, 4), "must have 4 axes"),
        ((1, 1, 1, 1, 1), "must have 4 axes"),
        ((1, 1, 2048, 2049), "at most 4194304 weights"),
        ((MAX_PLANES + 1, 1, 1, 1), "over 8192 planes"),
        ((2, MAX_PLANES // 2 + 1, 1, 1), "over 8192 planes"),
    ],
)
def test_contexts_of_another_tensor(shape, message):
    records = packed(RECORD.pack(1.0, 1, 0, CONTEXT, 0, 0, 0))
    segment = Segment.parse(PREFIX.pack(0, 1, 1, KEY_SEGMENT, RANGE) + records, 1)
    with pytest.raises(BitstreamError, match=message):
        segment.weights({"a": shape})


def test_planes_of_all_tensors_are_counted():
    """The encoder keeps to the limit, too."""
    walk = np.random.default_rng(0).normal(0, 0.2, (3000, 2, 8, 8)).cumsum(0)
    integers = np.random.default_rng(1).laplace(0, 3 * np.exp(2 * np.sin(walk)))
    tensor = Quantized(integers=integers.round().clip(-4000, 4000).astype(np.int32), step=1.0)
    shapes = {"a": integers.shape, "b": integers.shape}
    segment = Segment.encode(0, 1, {"a": tensor, "b": tensor}, shapes)
    assert [bool(each.flags & CONTEXT) for each in segment.tensors] == [True, False]
    weights = segment.weights(shapes)
    assert all(np.array_equal(weights[name], tensor.integers) for name in shapes)
    twice = replace(segment, tensors=segment.tensors[:1] * 2)
    with pytest.raises(BitstreamError, match="over 8192 planes"):
        twice.weights(shapes)


def test_models_of_many_passes_are_counted_once():
    """A long segment's field with large integers has thousands of passes."""
    integers = np.random.default_rng(0).laplace(0, 300, (1001, 2, 6, 11)).clip(-4000, 4000)
    tensor = Quantized(integers=np.rint(integers).astype(np.int32), step=1.0)
    segment = Segment.encode(0, 1, {"a": tensor}, {"a": integers.shape}, modes=[CONTEXT])
    assert segment.tensors[0].flags & CONTEXT
    weights = segment.weights({"a": integers.shape})["a"]
    assert np.array_equal(weights, np.rint(integers))


def test_contexts_take_bounded_time():
    """8192 planes with levels all over the range."""
    shape = (MAX_PLANES, 1, 4, 4)
    values = np.random.default_rng(0).laplace(0, np.geomspace(0.01, 999, 16).reshape(4, 4), shape)
    tensor = Quantized(integers=np.rint(values).clip(-4095, 4095).astype(np.int32), step=1.0)
    segment = Segment.encode(0, 1, {"a": tensor}, {"a": shape}, modes=[CONTEXT])
    began = time.process_time()
    assert np.array_equal(segment.weights({"a": shape})["a"], tensor.integers)
    assert time.process_time() - began < 5


def test_coder_that_version_1_has_not():
    data = bytes(Segment.encode(0, 5, TENSORS, SHAPES))
    assert Segment.parse(data, 2).coder == RANGE
    with pytest.raises(BitstreamError, match="files of version 1 have no coder 2"):
        Segment.parse(data, 2, version=1)


def test_another_number_of_tensors():
    with pytest.raises(BitstreamError, match="segment has 2 tensors, expected 3"):
        Segment.parse(bytes(Segment.encode(0, 5, TENSORS, SHAPES)), 3)


def test_shorter_than_its_prefix():
    with pytest.raises(BitstreamError, match="segment needs 12 bytes, got 3"):
        Segment.parse(b"abc", 1)


@pytest.mark.parametrize(
    "data", [b"\xff", zlib.compress(bytes(3), wbits=-15), zlib.compress(bytes(5), wbits=-15), b""]
)
def test_huffman_code_of_another_size(data):
    record = RECORD.pack(1.0, 127, 0, 0, 0, 0, 0)
    segment = Segment.parse(PREFIX.pack(0, 1, 1, KEY_SEGMENT, HUFFMAN) + record + data, 1)
    with pytest.raises(BitstreamError):
        segment.weights({"a": (4,)})


def test_prediction_that_runs_away():
    record = RECORD.pack(1.0, 4095, 63, 2, 0, 0, 0)
    coder = RangeEncoder()
    coder.encode(np.full(5000, 4095, np.int32), 63, 4095)
    segment = Segment.parse(PREFIX.pack(0, 1, 1, KEY_SEGMENT, PLAIN) + record + coder.bytes(), 1)
    with pytest.raises(BitstreamError, match="after prediction must be in"):
        segment.weights({"a": (5000, 1)})


@pytest.mark.soak
def test_largest_segment_fits_in_a_gigabyte(tmp_path):
    rows, columns = 4096, MAX_WEIGHTS // 4096
    coder = RangeEncoder()
    for shape in ((rows,), (columns,), (rows, columns)):
        coder.encode(np.zeros(shape, np.int32), 0, 63)
    record = RECORD.pack(1.0, 63, 0, PREDICTED | ROWS | COLUMNS, 0, 0, 0)
    data = PREFIX.pack(0, 1, 1, KEY_SEGMENT, PLAIN) + record + coder.bytes()
    assert peak_bytes(data, {"a": (rows, columns)}, tmp_path / "segment") < 1 << 30


@pytest.mark.soak
def test_largest_contexts_fit_in_a_gigabyte(tmp_path):
    """One segment has as many weights as it may have, in latents as large as they may be."""
    shapes = {str(index): (1, 1, 2048, 2048) for index in range(8)}
    records = packed(RECORD.pack(1.0, 1, 0, CONTEXT, 0, 0, 0) * 8)
    coder = RangeEncoder()
    for shape in shapes.values():
        for run in ((1,), (10,), shape):
            coder.encode(np.zeros(run, np.int32), 34 * (run == (10,)), 63 if len(run) == 1 else 1)
    data = PREFIX.pack(0, 1, 8, KEY_SEGMENT, RANGE) + records + coder.bytes()
    assert peak_bytes(data, shapes, tmp_path / "segment") < 1 << 30


def peak_bytes(data, shapes, path):
    """Return the most memory of a process that decodes a segment."""
    path.write_bytes(data)
    program = (
        "import pathlib, re, sys; from encoder.codec.segment import Segment;"
        f"Segment.parse(pathlib.Path(sys.argv[1]).read_bytes(), {len(shapes)}).weights({shapes});"
        # What getrusage says would include the process that started this one.
        "print(re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
    )
    return int(done.stdout) << 10


def test_six_million_weights_are_decoded_in_two_seconds():
    random = np.random.default_rng(0)
    shapes = {
        "latents": (200, 40, 10, 15),
        **{f"weights{index}": (600, 500) for index in range(16)},
    }
    spread = {
        name: np.exp(random.normal(0, 1, (shape[0], *[1] * (len(shape) - 1))))
        for name, shape in shapes.items()
    }
    drawn = {
        name: np.rint(random.laplace(0, 2 * spread[name], shape)).astype(np.int32)
        for name, shape in shapes.items()
    }
    tensors = {name: Quantized(integers=values, step=0.1) for name, values in drawn.items()}
    data = bytes(Segment.encode(0, 1, tensors, shapes))
    start = time.process_time()
    weights = Segment.parse(data, len(shapes)).weights(shapes)
    seconds = time.process_time() - start
    assert sum(values.size for values in weights.values()) == 6_000_000
    assert seconds < 2
