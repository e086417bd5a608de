"""Playouts of one clip: pace, controls and growth."""

import asyncio
import threading
import time
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from stand_ins import (
    TICK_SECONDS,
    LateDecoder,
    Noise,
    PatientDecoder,
    Screen,
    Shades,
    make_clip,
    make_source,
    player_threads,
)

from player.metrics import Metrics
from player.playback.playout import Playout

TICK_PTS = 3600
"""Units of timestamps of a tick."""


@pytest.mark.alone
async def test_sends_at_the_clips_rate_by_the_systems_clock():
    playout = Playout([make_source()], Metrics().of("tiny"))
    viewer = Screen().viewer
    began = time.monotonic()
    playout.join(viewer)
    received = [await asyncio.wait_for(viewer.recv(), 20) for _ in range(13)]
    elapsed = time.monotonic() - began
    await asyncio.to_thread(playout.close)
    assert 12 * TICK_SECONDS - 0.01 < elapsed < 12 * TICK_SECONDS + 0.3
    assert np.median(np.diff([packet.pts for packet in received])) == TICK_PTS
    assert player_threads() == []


async def test_each_tick_sends_the_next_picture(studio):
    screen = await studio.watch(studio.make())
    assert await studio.times(screen, 13) == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1]


async def test_packets_are_a_tick_apart(studio):
    screen = await studio.watch(studio.make())
    await studio.advance(13)
    packets = await screen.packets()
    assert [packet.is_keyframe for packet in packets] == [True] + 13 * [False]
    assert set(np.diff([packet.pts for packet in packets])) == {TICK_PTS}


async def test_stats_tell_how_it_goes(studio):
    playout = studio.make(make_source(make_clip(damage=("one", "two"))))
    assert (playout.stats.engine, playout.stats.damaged) == (None, 2)
    assert not playout.is_ready
    screen = await studio.watch(playout)
    assert len(await studio.times(screen, 10)) == 11
    stats = playout.stats
    assert (stats.engine, stats.viewers, stats.missed, stats.dropped) == ("shades", 1, 0, 0)
    assert playout.is_ready
    rates = (stats.decode_fps, stats.encode_fps, stats.encode_ms, stats.sent_fps, stats.bitrate)
    assert min(rates) > 0


async def test_bitrate_is_what_was_asked_for(studio):
    screen = await studio.watch(studio.make(make_source(engine=Noise()), bitrate=123_000))
    await studio.advance(100)
    packets = await screen.packets()
    bits_per_packet = 8 * sum(packet.size for packet in packets) / len(packets)
    assert bits_per_packet / TICK_SECONDS == pytest.approx(123_000, rel=0.1)


async def test_viewers_of_a_codec_share_its_packets(studio):
    playout = studio.make()
    screens = [await studio.watch(playout, codec) for codec in ("H264", "H264", "VP8")]
    await studio.advance(8)
    first, second, other = [
        {packet.pts: packet for packet in await screen.packets()} for screen in screens
    ]
    shared = first.keys() & second.keys()
    assert len(shared) >= 6
    assert all(first[pts] is second[pts] for pts in shared)
    assert not any(packet in first.values() for packet in other.values())


async def test_stamp_is_the_time_of_sending(studio):
    side = 4
    engine = Shades()
    engine.frames = lambda times: np.full((len(times), 48, 32 * side), 128, np.uint8)
    playout = studio.make(make_source(engine=engine), stamp=True)
    assert playout.stamp
    (picture,) = await (await studio.watch(playout)).pictures()
    squares = picture[:side].reshape(side, 32, side).mean((0, 2))
    milliseconds = int("".join("01"[int(square > 128)] for square in squares[:24]), 2)
    assert milliseconds == int(studio.time.now * 1000) % (1 << 24)


async def test_pause_repeats_the_picture_and_seek_changes_it(studio):
    playout = studio.make()
    playout.playing = False
    screen = await studio.watch(playout)
    assert await studio.times(screen, 5) == 6 * [0]
    assert playout.frame == 0
    playout.seek(4)
    assert await studio.times(screen, 2) == [4, 4, 4]
    assert playout.frame == 4


@pytest.mark.parametrize("playing", [True, False])
async def test_seek_shows_its_picture_without_a_tick_to_wait_for(studio, playing):
    playout = studio.make()
    playout.playing = playing
    screen = await studio.watch(playout)
    await studio.times(screen, 10.25)
    now = studio.time.now
    for frame in (4, 1, 5, 2):
        playout.seek(frame)
        await studio.settle()
        assert await screen.times() == [frame]
    assert studio.time.now == now


async def test_ticks_go_on_from_a_seek(studio):
    playout = studio.make()
    screen = await studio.watch(playout)
    assert await studio.times(screen, 1.5) == [0, 1]
    playout.seek(3)
    assert await studio.times(screen, 0.9) == [3]
    assert await studio.times(screen, 0.2) == [4]


async def test_the_last_of_many_changes_counts(studio):
    playout = studio.make()
    playout.playing = False
    screen = await studio.watch(playout)
    assert await screen.times() == [0]
    for frame in (1, 5, 2, 4, 3):
        playout.seek(frame)
        playout.set_speed(Fraction(1, 2))
    assert (await studio.times(screen, 3))[-3:] == [3, 3, 3]
    assert playout.frame == 3
    playout.playing = True
    assert await studio.times(screen, 2) == [3.5, 4]


async def test_seek_while_the_first_picture_is_decoded(studio):
    engine = Shades()
    decode = engine.frames
    decoding = threading.Event()
    go_on = threading.Event()

    def wait_and_decode(times):
        decoding.set()
        go_on.wait(10)
        return decode(times)

    engine.frames = wait_and_decode
    playout = studio.make(make_source(engine=engine))
    playout.playing = False
    screen = Screen()
    playout.join(screen.viewer)
    assert await asyncio.to_thread(decoding.wait, 10)
    playout.seek(4)
    go_on.set()
    assert (await studio.times(screen, 1))[-2:] == [4, 4]
    assert playout.frame == 4


@pytest.mark.parametrize(
    ("start", "frames", "expected"),
    [(2, 1, 3), (2, -1, 1), (2.3, 1, 3), (2.3, -1, 2), (5, 1, 5), (0, -1, 0)],
)
async def test_step_pauses_at_a_whole_frame(studio, start, frames, expected):
    playout = studio.make()
    screen = await studio.watch(playout)
    playout.seek(start)
    playout.step(frames)
    assert (await studio.times(screen, 3))[-3:] == 3 * [expected]
    assert (playout.playing, playout.frame) == (False, expected)


async def test_slow_motion_goes_on_smoothly(studio):
    playout = studio.make()
    playout.set_speed(Fraction(1, 10))
    assert playout.speed == Fraction(1, 10)
    screen = await studio.watch(playout)
    assert await studio.times(screen, 12) == [index / 10 for index in range(13)]


async def test_speed_changes_after_the_next_picture(studio):
    playout = studio.make()
    screen = await studio.watch(playout)
    assert await studio.times(screen, 1) == [0, 1]
    playout.set_speed(Fraction(2))
    assert await studio.times(screen, 3) == [2, 4, 0]


async def test_without_loop_the_clip_ends_and_begins_anew(studio):
    playout = studio.make()
    playout.loop = False
    screen = await studio.watch(playout)
    assert await studio.times(screen, 8) == [0, 1, 2, 3, 4, 5, 5, 5, 5]
    assert (playout.playing, playout.loop, playout.frame) == (False, False, 5)
    playout.playing = True
    assert await studio.times(screen, 2) == [0, 1]


async def test_clip_that_grows_goes_on_where_it_ended(studio):
    source = make_source(make_clip(3))
    source.follower = SimpleNamespace(close=lambda: None)  # its file may grow
    playout = studio.make(source)
    playout.loop = False
    screen = await studio.watch(playout)
    assert await studio.times(screen, 4) == [0, 1, 2, 2, 2]
    assert not playout.playing
    source.clip.segments.append(SimpleNamespace(start=3, frames=3))
    assert await studio.times(screen, 5) == [2, 3, 4, 5, 5]


async def test_clip_that_ended_before_it_grew_stays_at_its_end(studio):
    source = make_source(make_clip(3))
    playout = studio.make(source)
    playout.loop = False
    screen = await studio.watch(playout)
    assert await studio.times(screen, 4) == [0, 1, 2, 2, 2]
    source.clip.segments.append(SimpleNamespace(start=3, frames=3))
    assert await studio.times(screen, 2) == [2, 2]


async def test_clip_that_grows_in_a_loop_shows_all_of_it(studio):
    source = make_source(make_clip(3))
    screen = await studio.watch(studio.make(source))
    assert await studio.times(screen, 3) == [0, 1, 2, 0]
    source.clip.segments.append(SimpleNamespace(start=3, frames=3))
    assert await studio.times(screen, 6) == [1, 2, 3, 4, 5, 0]


async def test_tick_without_a_picture_is_missed(studio):
    playout = studio.make(decode=LateDecoder)
    screen = await studio.watch(playout)
    assert await studio.times(screen, 7) == [0, 1, 2, 3, 4, 5]
    assert playout.stats.missed == 2


async def test_ticks_that_pass_during_a_slow_one_are_missed(studio):
    class SlowDecoder(PatientDecoder):
        def read(self, *_):
            picture = super().read()
            if picture.time == 3:
                studio.time.now += 2.5 * TICK_SECONDS
            return picture

    playout = studio.make(decode=SlowDecoder)
    screen = await studio.watch(playout)
    await studio.advance(7)
    steps = np.diff([packet.pts for packet in await screen.packets()])
    assert (steps / TICK_PTS).tolist() == [1, 1, 1, 2, 1, 1]
    assert playout.stats.missed == 1
