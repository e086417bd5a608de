import asyncio
import threading
import time
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from encoder.codec.errors import EngineError
from export.engines import open_engine
from player.broadcast import KEYFRAME_TICKS, Broadcast, Viewer
from player.meter import WINDOW_SECONDS, Meter
from player.pacer import Pacer
from player.reader import READ_AHEAD_BATCHES, Reader
from player.stream import Stream
from player.video_encoder import CODECS, VideoEncoder

pytestmark = pytest.mark.alone


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_meter_counts_what_went_through_lately():
    clock = Clock()
    meter = Meter(clock=clock)
    meter.add(1000, 1.0)
    clock.now += WINDOW_SECONDS
    for _ in range(10):
        meter.add(8, 0.02)
    assert meter.per_second == 80 / WINDOW_SECONDS
    assert meter.per_busy_second == pytest.approx(400)
    clock.now += WINDOW_SECONDS
    assert (meter.per_second, meter.per_busy_second) == (0, 0)


def test_meter_measures_its_body():
    clock = Clock()
    meter = Meter(clock=clock)
    with meter.measure(5):
        clock.now += 0.5
    assert meter.per_busy_second == 10


def test_pacer_ticks_on_time():
    clock = Clock()
    pacer = Pacer(Fraction(30000, 1001), clock=clock)
    ticks = []
    for _ in range(4):
        ticks.append(pacer.take())
        clock.now += pacer.wait_seconds() + 1e-6
    assert ticks == [(0, 0), (3003, 0), (6006, 0), (9009, 0)]


def test_late_tick_does_not_delay_the_next():
    clock = Clock()
    pacer = Pacer(Fraction(25), clock=clock)
    pacer.take()
    clock.now += 0.07
    assert pacer.take() == (3600, 0)
    assert pacer.wait_seconds() == pytest.approx(0.01)


def test_ticks_that_passed_are_left_out():
    clock = Clock()
    pacer = Pacer(Fraction(25), clock=clock)
    pacer.take()
    clock.now += 1.01
    assert pacer.take() == (25 * 3600, 24)


def read_all(reader, count):
    pictures = [reader.read(10) for _ in range(count)]
    assert all(pictures)
    return pictures


@pytest.fixture
def reader(tiny_clip):
    reader = Reader(lambda: open_engine(tiny_clip, "onnxruntime-cpu", batch=2))
    yield reader
    reader.close()


def test_reader_goes_round(reader, tiny_clip):
    engine = open_engine(tiny_clip, "onnxruntime-cpu")
    expected = engine.frames(np.arange(6.0))
    engine.close()
    pictures = read_all(reader, 15)
    assert [number for number, _ in pictures] == [*range(6), *range(6), 0, 1, 2]
    assert all(np.array_equal(picture, expected[number]) for number, picture in pictures)
    assert reader.engine_name == "onnxruntime-cpu"


def test_reader_seeks(reader):
    read_all(reader, 1)
    reader.seek(4)
    assert [number for number, _ in read_all(reader, 4)] == [4, 5, 0, 1]


def test_reader_reads_ahead_so_far_and_no_further(reader):
    read_all(reader, 1)
    deadline = time.monotonic() + 5
    while reader.ahead < 2 * READ_AHEAD_BATCHES - 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert 2 * READ_AHEAD_BATCHES - 1 <= reader.ahead <= 2 * READ_AHEAD_BATCHES


def test_reader_passes_errors_on():
    def fail():
        raise EngineError("no engine today")

    reader = Reader(fail)
    with pytest.raises(EngineError, match="no engine today"):
        reader.read(10)
    reader.close()


def picture(value=128):
    return np.full((96, 64), value, np.uint8)


@pytest.mark.parametrize(("codec", "decoder"), [("H264", "h264"), ("VP8", "vp8")])
def test_video_encoder_delays_nothing_and_makes_key_frames_when_told(codec, decoder):
    encoder = VideoEncoder(codec, 64, 64, Fraction(25))
    context = av.CodecContext.create(decoder, "r")
    keys, brightness = [], []
    for index in range(8):
        packets = encoder.encode(picture(16 + 20 * index), index * 3600, keyframe=index == 5)
        assert [packet.pts for packet in packets] == [index * 3600]
        keys += [packet.is_keyframe for packet in packets]
        brightness += [int(frame.to_ndarray()[:64].mean()) for packet in packets for frame in context.decode(packet)]
    brightness += [int(frame.to_ndarray()[:64].mean()) for frame in context.decode(None)]
    assert keys == [True, False, False, False, False, True, False, False]
    assert brightness == pytest.approx([16 + 20 * index for index in range(8)], abs=3)


def test_h264_key_frames_carry_what_a_late_viewer_needs():
    encoder = VideoEncoder("H264", 64, 64, Fraction(25))
    encoder.encode(picture(), 0)
    (packet,) = encoder.encode(picture(), 3600, keyframe=True)
    kinds = [part[0] & 31 for part in bytes(packet).replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]]
    assert [kind for kind in kinds if kind != 6] == [7, 8, 5]  # parameter sets, then an IDR picture


def packets(count):
    encoder = VideoEncoder("H264", 64, 64, Fraction(25))
    return [p for index in range(count) for p in encoder.encode(picture(), index * 3600, keyframe=index == 6)]


async def test_viewer_starts_at_a_key_frame():
    viewer = Viewer(10, lambda: None)
    sent = packets(8)
    for packet in sent[3:]:
        viewer.push(packet)
    assert await viewer.recv() is sent[6]
    assert await viewer.recv() is sent[7]


async def test_slow_viewer_goes_on_at_the_next_key_frame():
    asked = []
    viewer = Viewer(3, lambda: asked.append(1))
    sent = packets(8)
    for packet in sent:
        viewer.push(packet)
    assert (len(asked), viewer.dropped) == (1, 4)
    assert await viewer.recv() is sent[6]


async def test_stopped_viewer_ends():
    viewer = Viewer(3, lambda: None)
    viewer.stop()
    with pytest.raises(MediaStreamError):
        await viewer.recv()


async def test_key_frames_are_spaced_however_many_ask():
    broadcast = Broadcast("H264", 64, 64, Fraction(25))
    viewer = Viewer(1000, broadcast.request_keyframe)
    broadcast.viewers.add(viewer)
    events = asyncio.get_running_loop()
    keys = []
    for index in range(30):
        broadcast.request_keyframe()
        broadcast.send(picture(), index * 3600, events)
        await asyncio.sleep(0)
        packet = await viewer.recv()
        keys += [packet.pts] if packet.is_keyframe else []
    assert all(later - earlier >= KEYFRAME_TICKS for earlier, later in pairwise(keys))
    assert len(keys) >= 2


@pytest.fixture
async def stream(tiny_clip):
    stream = Stream(tiny_clip, lambda: open_engine(tiny_clip, "onnxruntime-cpu", batch=2), file_bytes=1)
    yield stream
    await asyncio.to_thread(stream.close)
    assert not [thread for thread in threading.enumerate() if thread.name in ("encoder", "decoder")]


async def receive(viewer, count):
    return [await asyncio.wait_for(viewer.recv(), 20) for _ in range(count)]


async def test_stream_sends_at_the_clips_rate(stream):
    viewer = stream.viewer("H264")
    stream.join("H264", viewer)
    received = await receive(viewer, 20)
    assert received[0].is_keyframe
    steps = np.diff([packet.pts for packet in received])
    assert np.median(steps) == 3600
    figures = stream.figures
    assert figures.engine == "onnxruntime-cpu"
    assert figures.viewers == 1
    assert min(figures.decode_fps, figures.encode_fps, figures.sent_fps, figures.bitrate) > 0


async def test_viewers_of_a_codec_share_its_packets(stream):
    viewers = [stream.viewer(codec) for codec in ("H264", "H264", "VP8")]
    for viewer, codec in zip(viewers, ("H264", "H264", "VP8"), strict=True):
        stream.join(codec, viewer)
    first, second, other = [{packet.pts: packet for packet in await receive(viewer, 8)} for viewer in viewers]
    shared = first.keys() & second.keys()
    assert shared
    assert all(first[pts] is second[pts] for pts in shared)
    assert not any(packet in first.values() for packet in other.values())


async def test_pause_repeats_the_picture_and_seek_changes_it(stream):
    stream.playing = False
    viewer = stream.viewer("H264")
    stream.join("H264", viewer)
    await receive(viewer, 3)
    first = stream._picture
    await receive(viewer, 5)
    assert stream._picture is first
    assert stream.frame == 0
    stream.seek(4)
    await receive(viewer, 5)
    assert stream.frame == 4
    assert stream._picture is not first


async def test_without_loop_the_clip_ends_and_begins_anew(stream):
    stream.loop = False
    viewer = stream.viewer("H264")
    stream.join("H264", viewer)
    await receive(viewer, 12)
    assert (stream.playing, stream.frame) == (False, 5)
    stream.playing = True
    await receive(viewer, 2)
    assert stream.frame < 5


async def test_nothing_is_encoded_while_nobody_watches(stream):
    viewer = stream.viewer("VP8")
    stream.join("VP8", viewer)
    await receive(viewer, 2)
    stream.leave(viewer)
    await asyncio.sleep(0.1)
    frame, missed = stream.frame, stream.figures.missed
    await asyncio.sleep(0.3)
    assert stream.frame == frame
    stream.join("VP8", viewer)
    await receive(viewer, 3)
    assert stream.figures.missed == missed


@pytest.mark.parametrize(
    ("error", "reason"), [(EngineError("no engine today"), "no engine today"), (KeyError("bug"), "internal error")]
)
async def test_stream_that_fails_says_why_and_starts_anew(tiny_clip, error, reason):
    failures = [error]

    def open_once_broken():
        if failures:
            raise failures.pop()
        return open_engine(tiny_clip, "onnxruntime-cpu")

    stream = Stream(tiny_clip, open_once_broken, file_bytes=1)
    viewer = stream.viewer("H264")
    stream.join("H264", viewer)
    await asyncio.to_thread(stream._thread.join, 10)
    assert stream.error.startswith(reason)
    stream.join("H264", viewer)
    await receive(viewer, 2)
    assert stream.error is None
    # It may fail later as well: the encoders go on from where they were.
    stream._reader._error = error
    await asyncio.to_thread(stream._thread.join, 10)
    stream.join("H264", viewer)
    await receive(viewer, 15)
    assert stream.error is None
    await asyncio.to_thread(stream.close)


async def test_close_that_meets_the_wake_up_is_not_lost(stream):
    clear = stream._wake.clear

    def close_then_clear():
        stream._closed = True
        stream._wake.set()
        clear()

    stream._wake.clear = close_then_clear
    stream.join("H264", stream.viewer("H264"))
    await asyncio.to_thread(stream._thread.join, 5)
    assert not stream._thread.is_alive()


def test_every_codec_has_an_encoder_here():
    for codec in CODECS:
        assert VideoEncoder(codec, 64, 64, Fraction(25)).encode(picture(), 0)
