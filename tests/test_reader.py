import contextlib
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from encoder.codec.segment import HUFFMAN
from encoder.common.errors import EngineError
from export.engines.registry import open_engine
from player.metrics import Metrics
from player.playback.decode_thread import READ_AHEAD_BATCHES, DecodeThread

pytestmark = pytest.mark.alone


def read_all(reader, count):
    pictures = [reader.read(10) for _ in range(count)]
    assert all(pictures)
    return pictures


def times(reader, count):
    return [picture.time for picture in read_all(reader, count)]


@pytest.fixture
def read(tiny_clip):
    """Return a function that starts a reader of the tiny clip, or of another."""
    with contextlib.ExitStack() as stack:

        def start(clip=tiny_clip, **options):
            reader = DecodeThread(clip, opener(clip), counts=Metrics().of("tiny"), **options)
            stack.callback(reader.join)
            stack.callback(reader.stop)
            return reader

        yield start


def opener(clip):
    return lambda failed: open_engine(clip, "onnxruntime-cpu", batch=2, failed=failed)


def test_goes_round(read, tiny_clip):
    engine = open_engine(tiny_clip, "onnxruntime-cpu")
    expected = engine.frames(np.arange(6.0))
    engine.close()
    reader = read()
    pictures = read_all(reader, 15)
    assert [picture.time for picture in pictures] == [*range(6), *range(6), 0, 1, 2]
    assert [picture.is_last for picture in pictures] == [picture.time == 5 for picture in pictures]
    assert all(np.array_equal(picture.pixels, expected[int(picture.time)]) for picture in pictures)
    assert reader.engine_name == "onnxruntime-cpu"


def test_seeks(read):
    reader = read()
    read_all(reader, 1)
    reader.seek(4)
    assert times(reader, 4) == [4, 5, 0, 1]


def test_starts_where_it_is_told(read):
    assert times(read(start=2.0), 3) == [2, 3, 4]


def test_reads_ahead_so_far_and_no_further(read):
    reader = read()
    read_all(reader, 1)
    deadline = time.monotonic() + 5
    while reader.ahead < 2 * READ_AHEAD_BATCHES - 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert 2 * READ_AHEAD_BATCHES - 1 <= reader.ahead <= 2 * READ_AHEAD_BATCHES


def test_slow_motion_decodes_the_times_in_between(read, tiny_clip):
    engine = open_engine(tiny_clip, "onnxruntime-cpu")
    between = engine.frames(np.array([1.25]))[0]
    engine.close()
    pictures = read_all(read(speed=Fraction(1, 4)), 25)
    assert [picture.time for picture in pictures] == [index / 4 % 6 for index in range(25)]
    assert np.array_equal(pictures[5].pixels, between)
    assert [index for index, picture in enumerate(pictures) if picture.is_last] == [23]


def test_clip_without_times_in_between_repeats_its_frames(read, tiny_clip):
    clip = replace(tiny_clip, header=replace(tiny_clip.header, continuous=False))
    reader = read(clip, speed=Fraction(1, 2))
    pictures = read_all(reader, 5)
    assert [picture.time for picture in pictures] == [0, 0, 1, 1, 2]
    assert np.array_equal(pictures[2].pixels, pictures[3].pixels)


def test_fast_motion_leaves_frames_out(read):
    assert times(read(speed=Fraction(4)), 5) == [0, 4, 2, 0, 4]


def test_speed_changes_at_the_picture_that_is_shown(read):
    reader = read()
    assert times(reader, 3) == [0, 1, 2]
    reader.set_speed(Fraction(1, 2))
    assert times(reader, 3) == [2.5, 3, 3.5]
    reader.set_speed(Fraction(2))
    assert times(reader, 2) == [5.5, 1.5]


def test_speed_before_the_first_picture_leaves_the_place(read):
    reader = read(start=3.0)
    reader.set_speed(Fraction(1, 2))
    assert times(reader, 2) == [3, 3.5]


def test_passes_errors_on(tiny_clip):
    def fail(_):
        raise EngineError("no engine today")

    reader = DecodeThread(tiny_clip, fail, counts=Metrics().of("tiny"))
    with pytest.raises(EngineError, match="no engine today"):
        reader.read(10)
    reader.join()
    assert reader.has_ended


class Failing:
    """An engine that fails after some batches."""

    name = "failing"

    def __init__(self, engine, batches):
        self._engine, self._left = engine, batches

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def frames(self, times):
        if not self._left:
            raise EngineError("the GPU fell off the bus")
        self._left -= 1
        return self._engine.frames(times)


def test_engine_that_fails_gives_way_to_the_next_one(tiny_clip, caplog):
    opened = []

    def open_any(failed):
        opened.append(list(failed))
        if failed:
            return open_engine(tiny_clip, "openvino", batch=2, failed=failed)
        return Failing(open_engine(tiny_clip, "onnxruntime-cpu", batch=2), 3)

    counts = Metrics().of("tiny")
    reader = DecodeThread(tiny_clip, open_any, counts=counts)
    assert times(reader, 12) == [*range(6), *range(6)]  # none is missing, none is there twice
    assert opened == [[], ["failing"]]
    assert reader.engine_name in ("openvino", "onnxruntime-cpu")
    assert "failing failed, trying another engine: the GPU fell off the bus" in caplog.text
    assert counts.fallbacks._value.get() == 1
    reader.stop()
    reader.join()


def test_no_engine_left(tiny_clip):
    def open_any(failed):
        if failed:
            return open_engine(
                tiny_clip,
                failed=["tensorrt", "onnxruntime-cuda", "openvino", "onnxruntime-cpu", *failed],
            )
        return Failing(open_engine(tiny_clip, "onnxruntime-cpu", batch=2), 1)

    reader = DecodeThread(tiny_clip, open_any, counts=Metrics().of("tiny"))
    with pytest.raises(EngineError, match=r"no engine is left for this clip: .*onnxruntime-cpu"):
        reader.read(10)
    reader.join()


def test_damaged_segment_freezes_the_picture_and_is_counted(read, tiny_clip):
    first, second = tiny_clip.segments
    reader = read(
        replace(tiny_clip, segments=(first, replace(second, coder=HUFFMAN, code=b"\xff")))
    )
    pictures = read_all(reader, 8)
    assert [picture.time for picture in pictures] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert all(np.array_equal(picture.pixels, pictures[2].pixels) for picture in pictures[3:6])
    assert not np.array_equal(pictures[7].pixels, pictures[2].pixels)
    assert reader.lost_segments == 1
