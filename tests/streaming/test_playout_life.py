"""Playouts as viewers come and go: rest, errors, closing, and playouts of a channel."""

import asyncio
import threading
from fractions import Fraction

import pytest
from stand_ins import (
    TICK_SECONDS,
    Screen,
    Shades,
    make_broken,
    make_source,
    player_threads,
)
from waiting import wait_for

from encoder.common.errors import EngineError
from player.metrics import Metrics
from player.playback.channel import Channel
from player.playback.clock import Clock
from player.playback.encoder_loop import IDLE_SECONDS

IDLE_TICKS = IDLE_SECONDS / TICK_SECONDS
INTERVALS = "nervcast_frame_interval_seconds_sum"


async def test_nothing_is_encoded_while_nobody_watches(studio):
    playout = studio.make()
    screen = await studio.watch(playout, "VP8")
    await studio.times(screen, 2)
    playout.leave(screen.viewer)
    await studio.advance(1)
    frame = playout.frame
    await studio.advance(IDLE_TICKS - 1)
    assert playout.frame == frame
    playout.join(screen.viewer)
    assert await studio.times(screen, 3) == [4, 5, 0, 1]
    assert playout.stats.missed == 0


async def test_interval_of_frames_is_measured_without_pauses(studio):
    playout = studio.make()
    screen = await studio.watch(playout)
    await studio.advance(4)
    playout.leave(screen.viewer)
    await studio.advance(IDLE_TICKS / 2)
    playout.join(screen.viewer)
    await studio.advance(3)
    (line,) = [line for line in studio.metrics.text().decode().splitlines() if INTERVALS in line]
    assert float(line.split()[1]) == pytest.approx(7 * TICK_SECONDS + 1, abs=TICK_SECONDS + 0.001)


async def test_engine_is_given_back_when_nobody_watches_for_long(studio):
    playout = studio.make()
    screen = await studio.watch(playout)
    await studio.advance(3)
    playout.leave(screen.viewer)
    await studio.advance(IDLE_TICKS + 2)
    assert playout.is_resting
    frame = playout.frame
    wait_for(lambda: player_threads() == [])
    assert playout.is_ready
    screen = await studio.watch(playout)  # somebody comes back, where it was
    assert await studio.times(screen, 1) == [frame, frame + 1]
    assert not playout.is_resting


async def test_viewer_who_joins_just_as_the_wait_for_viewers_ends_is_served(studio):
    playout = studio.make()
    playout.start()
    screen = Screen()
    studio.time.on_timeout = lambda seconds: (
        playout.join(screen.viewer) if seconds == IDLE_SECONDS else None
    )
    await studio.advance(IDLE_TICKS)
    assert await studio.times(screen, 3) == [1, 2, 3, 4]
    assert playout.stats.missed == 0


async def test_playout_that_keeps_its_engine_is_ready_before_the_first_viewer(studio):
    playout = studio.make(keep=True)
    playout.start()
    await studio.advance(3 * IDLE_TICKS)
    assert playout.is_ready
    assert sorted(player_threads()) == ["decoder", "encoder"]
    now = studio.time.now
    screen = Screen()
    playout.join(screen.viewer)
    await studio.settle()
    (first,) = await screen.packets()
    assert first.is_keyframe
    assert first.pts == round(now * 90_000)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(EngineError("no engine today"), "no engine today"), (KeyError("bug"), "internal error")],
)
async def test_playout_that_fails_says_why_and_starts_anew(studio, error, reason):
    engine = Shades()
    engine.error = error
    playout = studio.make(make_source(engine=engine))
    await studio.watch(playout)
    assert playout.error.startswith(reason)
    engine.error = None
    screen = await studio.watch(playout)
    assert await studio.times(screen, 1) == [0, 1]
    assert playout.error is None
    # It may fail later as well: the encoders go on from where they were.
    engine.error = error
    await studio.advance(25)
    assert playout.error.startswith(reason)
    assert not playout.is_ready
    engine.error = None
    screen = await studio.watch(playout)
    assert len(await studio.times(screen, 15)) == 16
    assert playout.error is None


async def test_control_tries_again_after_an_error(studio):
    engine = Shades()
    engine.error = EngineError("no engine today")
    playout = studio.make(make_source(engine=engine))
    screen = await studio.watch(playout)
    assert playout.error is not None
    engine.error = None
    playout.seek(2)
    assert await studio.times(screen, 1) == [2, 3]
    assert playout.error is None


async def test_clip_that_cannot_be_played_ends_the_playout(studio):
    playout = studio.make(make_broken())
    await studio.watch(playout)
    assert playout.error == "no engine today"
    assert not playout.is_ready
    assert playout.is_resting


async def test_nobody_joins_a_closed_playout(studio):
    playout = studio.make()
    await asyncio.to_thread(playout.close)
    playout.join(Screen().viewer)
    playout.start()
    assert playout.is_closed
    assert playout.is_resting
    assert playout.viewers == []


async def test_close_that_meets_the_wake_up_is_not_lost(studio):
    """It comes just before the event that it sets is cleared, and before a wait without end."""

    class Event(threading.Event):
        def clear(self):
            if playout.is_ready:
                threading.Thread(target=playout.close).start()
                wait_for(lambda: playout.is_closed and self.is_set())
            super().clear()

    playout = studio.make(clock=Clock(make_event=Event), keep=True)
    playout.start()
    wait_for(lambda: playout.is_closed)
    wait_for(lambda: player_threads() == [])
    assert playout.is_resting


async def test_private_playout_is_where_the_shared_one_is():
    channel = Channel("all", [make_source(name="one"), make_source(name="two")], Metrics())
    channel.shared.play_source(1)
    channel.shared.seek(4)
    channel.shared.playing = False
    channel.shared.loop = False
    channel.shared.set_speed(Fraction(2))
    private = channel.open_private()
    assert channel.streams == [channel.shared, private]
    assert (private.source.name, private.frame, private.speed) == ("two", 4, 2)
    assert (private.playing, private.loop) == (False, False)
    channel.close()
    assert private.is_closed


async def test_spare_playout_is_reused_unless_it_is_closed():
    channel = Channel("one", [make_source()], Metrics())
    spare = channel.open_private()
    spare.seek(5)
    assert channel.open_private(spare) is spare
    assert spare.frame == 0
    spare.close()
    assert not channel.open_private(spare).is_closed
    channel.close()
