"""The decoder thread of a clip."""

import contextlib
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from stand_ins import Shades, make_clip
from waiting import wait_for

from encoder.codec.coder import HUFFMAN
from encoder.common.errors import EngineError
from export.engines.registry import open_engine
from player.metrics import Metrics
from player.playback.decode_thread import READ_AHEAD_BATCHES, DecodeThread

CLIP = make_clip(6)


def read_all(reader, count):
    pictures = [reader.read(10) for _ in range(count)]
    assert all(pictures)
    return pictures


def times(reader, count):
    return [picture.time for picture in read_all(reader, count)]


@pytest.fixture
def read():
    """Return a function that starts a reader of a clip, by a stand-in engine or another one."""
    with contextlib.ExitStack() as stack:

        def start(clip=CLIP, open_engine=lambda _: Shades(), *, metrics=None, **options):
            counts = (metrics or Metrics()).of("tiny")
            reader = DecodeThread(clip, open_engine, counts=counts, **options)
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
    reader = read(tiny_clip, opener(tiny_clip))
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


def test_picture_that_is_not_decoded_in_time_is_none(read):
    reader = read(open_engine=lambda _: time.sleep(0.05) or Shades())
    assert reader.read() is None
    assert reader.read(10).time == 0


def test_reads_ahead_so_far_and_no_further(read):
    reader = read()
    read_all(reader, 1)
    wait_for(lambda: reader.ahead >= 2 * READ_AHEAD_BATCHES - 1)
    time.sleep(0.05)
    assert 2 * READ_AHEAD_BATCHES - 1 <= reader.ahead <= 2 * READ_AHEAD_BATCHES


def test_slow_motion_decodes_the_times_in_between(read, tiny_clip):
    engine = open_engine(tiny_clip, "onnxruntime-cpu")
    between = engine.frames(np.array([1.25]))[0]
    engine.close()
    pictures = read_all(read(tiny_clip, opener(tiny_clip), speed=Fraction(1, 4)), 25)
    assert [picture.time for picture in pictures] == [index / 4 % 6 for index in range(25)]
    assert np.array_equal(pictures[5].pixels, between)
    assert [index for index, picture in enumerate(pictures) if picture.is_last] == [23]


def test_clip_without_times_in_between_repeats_its_frames(read):
    pictures = read_all(read(make_clip(continuous=False), speed=Fraction(1, 2)), 5)
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


def test_passes_errors_on(read):
    def fail(_):
        raise EngineError("no engine today")

    reader = read(open_engine=fail)
    with pytest.raises(EngineError, match="no engine today"):
        reader.read(10)
    reader.join()
    assert reader.has_ended


class Failing(Shades):
    """An engine that fails after some batches."""

    name = "failing"

    def __init__(self, batches):
        super().__init__()
        self._left = batches

    def frames(self, times):
        if not self._left:
            raise EngineError("the GPU fell off the bus")
        self._left -= 1
        return super().frames(times)


def test_engine_that_fails_gives_way_to_the_next_one(read, caplog):
    opened = []

    def open_any(failed):
        opened.append(list(failed))
        return Shades() if failed else Failing(3)

    metrics = Metrics()
    reader = read(open_engine=open_any, metrics=metrics)
    assert times(reader, 12) == [*range(6), *range(6)]  # none is missing, none is there twice
    assert opened == [[], ["failing"]]
    assert reader.engine_name == "shades"
    assert "failing failed, trying another engine: the GPU fell off the bus" in caplog.text
    assert b'nervcast_engine_failures_total{clip="tiny"} 1.0' in metrics.text()


def test_no_engine_left(read, tiny_clip):
    all_engines = ["tensorrt", "onnxruntime-cuda", "openvino", "onnxruntime-cpu"]

    def open_any(failed):
        return open_engine(tiny_clip, failed=[*all_engines, *failed]) if failed else Failing(1)

    reader = read(open_engine=open_any)
    with pytest.raises(EngineError, match=r"no engine is left for this clip: .*onnxruntime-cpu"):
        reader.read(10)


def test_damaged_segment_freezes_the_picture_and_is_counted(read, tiny_clip):
    first, second = tiny_clip.segments
    damaged = replace(tiny_clip, segments=(first, replace(second, coder=HUFFMAN, code=b"\xff")))
    reader = read(damaged, opener(damaged))
    pictures = read_all(reader, 8)
    assert [picture.time for picture in pictures] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert all(np.array_equal(picture.pixels, pictures[2].pixels) for picture in pictures[3:6])
    assert not np.array_equal(pictures[7].pixels, pictures[2].pixels)
    assert reader.lost_segments == 1
