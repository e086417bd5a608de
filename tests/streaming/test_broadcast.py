"""Video encoders, what they make for several viewers at once, and the clock."""

import asyncio
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError
from av.error import FFmpegError
from playing import picture

from player.metrics import WINDOW_SECONDS, Meter, Metrics
from player.playback.frame_clock import FrameClock
from player.rtc import video_encoder
from player.rtc.fanout import JOIN_TICKS, LOSS_TICKS, Broadcast, ViewerTrack
from player.rtc.video_encoder import CODECS, VideoEncoder, pick_bitrate

RATE = Fraction(25)


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


def test_meter_measures_its_body_and_lets_it_be_observed():
    clock, seen = Clock(), []
    meter = Meter(clock=clock, observe=seen.append)
    with meter.measure(5):
        clock.now += 0.5
    assert meter.per_busy_second == 10
    assert seen == [0.5]


def test_frame_clock_ticks_on_time():
    clock = Clock()
    frame_clock = FrameClock(Fraction(30000, 1001), clock=clock)
    ticks = []
    for _ in range(4):
        ticks.append(frame_clock.take())
        clock.now += frame_clock.wait_seconds() + 1e-6
    assert [(pts - 9_000_000, left_out) for pts, left_out in ticks] == [
        (0, 0),
        (3003, 0),
        (6006, 0),
        (9009, 0),
    ]


def test_late_tick_does_not_delay_the_next():
    clock = Clock()
    frame_clock = FrameClock(RATE, clock=clock)
    frame_clock.take()
    clock.now += 0.07
    assert frame_clock.take() == (9_003_600, 0)
    assert frame_clock.wait_seconds() == pytest.approx(0.01)


def test_ticks_that_passed_are_left_out():
    clock = Clock()
    frame_clock = FrameClock(RATE, clock=clock)
    frame_clock.take()
    clock.now += 1.01
    assert frame_clock.take() == (9_000_000 + 25 * 3600, 24)


def test_frame_clock_that_restarts_ticks_at_once_and_never_back():
    clock = Clock()
    frame_clock = FrameClock(RATE, clock=clock)
    first, _ = frame_clock.take()
    frame_clock.restart(Fraction(50))
    assert frame_clock.wait_seconds() == 0
    assert frame_clock.take() == (first + 1, 0)
    clock.now += 0.02
    assert frame_clock.take() == (first + 1800, 0)


@pytest.mark.parametrize(("codec", "decoder"), [("H264", "h264"), ("VP8", "vp8")])
def test_video_encoder_delays_nothing_and_makes_key_frames_when_told(codec, decoder):
    encoder = VideoEncoder(codec, 64, 64, RATE)
    context = av.CodecContext.create(decoder, "r")
    keys, brightness = [], []
    for index in range(8):
        packets = encoder.encode(picture(16 + 20 * index), index * 3600, keyframe=index == 5)
        assert [packet.pts for packet in packets] == [index * 3600]
        keys += [packet.is_keyframe for packet in packets]
        brightness += [
            int(frame.to_ndarray()[:64].mean())
            for packet in packets
            for frame in context.decode(packet)
        ]
    brightness += [int(frame.to_ndarray()[:64].mean()) for frame in context.decode(None)]
    assert keys == [True, False, False, False, False, True, False, False]
    assert brightness == pytest.approx([16 + 20 * index for index in range(8)], abs=3)


def test_h264_key_frames_carry_what_a_late_viewer_needs():
    encoder = VideoEncoder("H264", 64, 64, RATE)
    encoder.encode(picture(), 0)
    (packet,) = encoder.encode(picture(), 3600, keyframe=True)
    kinds = [
        part[0] & 31 for part in bytes(packet).replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]
    ]
    assert [kind for kind in kinds if kind != 6] == [7, 8, 5]  # parameter sets, then an IDR picture


def test_every_codec_has_an_encoder_here():
    for codec in CODECS:
        assert VideoEncoder(codec, 64, 64, RATE).encode(picture(), 0)


@pytest.mark.parametrize("runs", [True, False])
def test_hardware_encoder_is_taken_after_a_trial_alone(monkeypatch, runs):
    """FFmpeg has h264_nvenc by name on every machine."""
    tried = []

    def trial(encoder):
        tried.append(encoder.name)
        return runs

    monkeypatch.setattr(video_encoder, "works", trial)
    video_encoder.first_working.cache_clear()
    assert video_encoder.first_working("H264").name == ("h264_nvenc" if runs else "libx264")
    assert tried == ["h264_nvenc"]
    video_encoder.first_working.cache_clear()


def test_trial_encodes_a_picture(monkeypatch):
    software = CODECS["H264"][1]
    assert video_encoder.works(software)

    def fail(*_, **__):
        raise FFmpegError(1, "Operation not permitted")

    monkeypatch.setattr(video_encoder, "_encode", fail)
    assert not video_encoder.works(software)


def test_hardware_encoder_that_fails_gives_way_to_software(monkeypatch, caplog):
    """As NVIDIA's does where too many are open."""
    hardware = video_encoder.FfmpegEncoder("h264_nvenc", {}, needs_trial=True)
    monkeypatch.setitem(CODECS, "H264", (hardware, CODECS["H264"][1]))
    monkeypatch.setattr(video_encoder, "first_working", lambda codec: hardware)
    encode = video_encoder._encode

    def fail_in_hardware(context, *rest, **options):
        if context.codec.name == "h264_nvenc":
            raise FFmpegError(1, "Operation not permitted")
        return encode(context, *rest, **options)

    monkeypatch.setattr(video_encoder, "_encode", fail_in_hardware)
    encoder = VideoEncoder("H264", 64, 64, RATE)
    assert [encoder.encode(picture(), index * 3600)[0].is_keyframe for index in range(3)] == [
        True,
        False,
        False,
    ]
    assert "h264_nvenc failed, trying another encoder" in caplog.text


def make_broadcast(codec="H264"):
    return Broadcast(codec, Metrics().of("tiny"))


def packets(count):
    encoder = VideoEncoder("H264", 64, 64, RATE)
    return [
        p
        for index in range(count)
        for p in encoder.encode(picture(), index * 3600, keyframe=index == 6)
    ]


async def test_viewer_starts_at_a_key_frame():
    viewer = ViewerTrack("H264")
    sent = packets(8)
    for packet in sent[3:]:
        viewer.push(packet)
    assert await viewer.recv() is sent[6]
    assert await viewer.recv() is sent[7]


async def test_slow_viewer_goes_on_at_the_next_key_frame():
    viewer = ViewerTrack("H264", limit=3)
    sent = packets(8)
    for packet in sent:
        viewer.push(packet)
    assert viewer.dropped == 4
    assert await viewer.recv() is sent[6]


async def test_slow_viewer_is_made_a_key_frame():
    broadcast, viewer = make_broadcast(), ViewerTrack("H264", limit=2)
    broadcast.join(viewer)
    for pts in (0, 3600, 7200, LOSS_TICKS):
        broadcast.send(picture(), pts, RATE, asyncio.get_running_loop())
        await asyncio.sleep(0)
    assert viewer.dropped == 3
    frame = await viewer.recv()
    assert (frame.pts, frame.is_keyframe) == (LOSS_TICKS, True)


async def test_others_do_not_notice_a_slow_viewer():
    broadcast, events = make_broadcast(), asyncio.get_running_loop()
    slow, quick = ViewerTrack("H264", limit=3), ViewerTrack("H264")
    broadcast.join(slow)
    broadcast.join(quick)
    received = []
    for index in range(40):
        broadcast.send(picture(), index * 3600, RATE, events)
        await asyncio.sleep(0)
        received.append((await quick.recv()).pts)
        assert slow.waiting <= 3
    assert received == [index * 3600 for index in range(40)]
    assert quick.dropped == 0
    assert slow.dropped >= 8  # twice it took what fits, and lost it


async def test_stopped_viewer_ends():
    viewer = ViewerTrack("H264")
    viewer.stop()
    with pytest.raises(MediaStreamError):
        await viewer.recv()


async def key_frames(broadcast, viewer, ask, count=30):
    """Return the times of the key frames, in ticks, when something is asked before each frame."""
    keys = []
    for index in range(count):
        ask()
        broadcast.send(picture(), index * 3600, RATE, asyncio.get_running_loop())
        await asyncio.sleep(0)
        packet = await viewer.recv()
        keys += [packet.pts] if packet.is_keyframe else []
    return keys


async def test_key_frames_are_spaced_however_many_lost_a_picture():
    broadcast, viewer = make_broadcast(), ViewerTrack("H264")
    broadcast.join(viewer)
    keys = await key_frames(broadcast, viewer, viewer.picture_lost)
    assert {later - earlier for earlier, later in pairwise(keys)} == {-(-LOSS_TICKS // 3600) * 3600}
    assert len(keys) >= 2


async def test_who_joins_gets_a_key_frame_soon():
    broadcast, viewer = make_broadcast(), ViewerTrack("H264")
    broadcast.join(viewer)
    joined = []

    def join():
        joined.append(ViewerTrack("H264", limit=1000))
        broadcast.join(joined[-1])

    keys = await key_frames(broadcast, viewer, join)
    assert {later - earlier for earlier, later in pairwise(keys)} == {-(-JOIN_TICKS // 3600) * 3600}
    # All get the same packets, from the key frame after they came on.
    firsts = [await late.recv() for late in joined[:-3]]
    assert all(packet.is_keyframe for packet in firsts)


async def test_nobody_asks_and_no_key_frame_is_made():
    broadcast, viewer = make_broadcast(), ViewerTrack("H264")
    broadcast.join(viewer)
    assert await key_frames(broadcast, viewer, lambda: None) == [0]


async def test_picture_of_another_size_begins_with_a_key_frame():
    broadcast, viewer = make_broadcast(), ViewerTrack("H264")
    broadcast.join(viewer)
    events, keys = asyncio.get_running_loop(), []
    for index, size in enumerate([64, 64, 32, 32, 32]):
        broadcast.send(picture()[: size * 3 // 2, :size], index * 3600, RATE, events)
        await asyncio.sleep(0)
        keys.append((await viewer.recv()).is_keyframe)
    assert keys == [True, False, True, False, False]


async def test_key_frames_do_not_burst():
    """Noise costs most: a key frame of it takes no more than the buffer of 0.25 s."""
    noise = np.random.default_rng(0).integers(16, 235, (360 * 3 // 2, 640), np.uint8)
    encoder = VideoEncoder("H264", 640, 360, Fraction(30))
    sizes = [
        sum(packet.size for packet in encoder.encode(noise, index * 3000, keyframe=index % 30 == 0))
        for index in range(61)
    ]
    assert max(sizes[1:]) <= pick_bitrate(640, 360, Fraction(30)) / 8 * 0.25 * 1.1


@pytest.mark.parametrize(
    ("size", "bitrate"),
    [
        ((640, 360), 1_000_000),
        ((1280, 720), 2_828_427),
        ((64, 64), 600_000),
        ((7680, 4320), 12_000_000),
    ],
)
def test_bitrate_follows_the_size_and_is_bounded(size, bitrate):
    assert pick_bitrate(*size, Fraction(30)) == bitrate


def test_bitrate_that_was_asked_for_comes_out():
    noise = np.random.default_rng(0).integers(16, 235, (30, 180 * 3 // 2, 320), np.uint8)
    encoder = VideoEncoder("H264", 320, 180, RATE, bitrate=2_000_000)
    sizes = [
        sum(packet.size for packet in encoder.encode(frame, index * 3600))
        for index, frame in enumerate(noise)
    ]
    assert 8 * sum(sizes) / len(sizes) * 25 == pytest.approx(2_000_000, rel=0.15)
