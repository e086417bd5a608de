"""Playouts of several clips, one after another."""

import asyncio
from fractions import Fraction

import numpy as np
import pytest
from stand_ins import (
    Screen,
    Shades,
    make_broken,
    make_clip,
    make_source,
    player_threads,
)
from waiting import wait_for

from encoder.common.errors import EngineError
from player.playback.encoder_loop import EARLY_SECONDS
from player.playback.playout import Playout

LONG = 60
SHORT = 180
"""Chroma of the clips' pictures."""


@pytest.fixture
def playlist(studio) -> Playout:
    """Return two clips: one of six frames, one of three at another rate."""
    return studio.make(
        make_source(make_clip(6), "long", Shades(LONG)),
        make_source(make_clip(3, rate=Fraction(50)), "short", Shades(SHORT)),
    )


WHOLE = [(time, LONG) for time in range(6)] + [(time, SHORT) for time in range(3)]


async def shown(studio, screen, ticks):
    """Return the times and chroma of the pictures that are shown in so many ticks."""
    await studio.advance(ticks)
    return await screen.shades()


async def test_playlist_goes_from_clip_to_clip_and_round(studio, playlist):
    screen = await studio.watch(playlist)
    assert (await shown(studio, screen, 16))[:20] == (WHOLE * 3)[:20]


async def test_clips_play_at_their_own_rates(studio, playlist):
    screen = await studio.watch(playlist)
    await studio.advance(16)
    steps = np.diff([packet.pts for packet in await screen.packets()])
    assert steps[:9].tolist() == pytest.approx(6 * [3600] + 3 * [1800], abs=1)
    assert (steps > 0).all()


async def test_next_clip_is_opened_early_and_once(studio):
    ticks = round(EARLY_SECONDS * 25)
    first = make_source(make_clip(ticks + 10), "first", Shades(LONG))
    second = make_source(make_clip(200), "second", Shades(SHORT))
    playout = studio.make(first, second)
    screen = await studio.watch(playout)
    await studio.advance(9)
    assert (first.opened, second.opened) == (1, 0)
    await studio.advance(3)
    wait_for(lambda: second.opened == 1)  # by a thread of its own
    assert player_threads().count("decoder") == 2
    await studio.advance(ticks)
    assert (await screen.shades())[-1][1] == SHORT
    assert (first.opened, second.opened) == (1, 1)


async def test_clip_that_is_opened_early_is_of_no_use_for_another_position(studio, playlist):
    screen = await studio.watch(playlist)
    await studio.advance(3)
    playlist.play_source(1)
    playlist.seek(2)
    assert (await shown(studio, screen, 0.1))[-1] == (2, SHORT)


async def test_speed_at_the_change_is_that_of_the_next_clip(studio, playlist):
    screen = await studio.watch(playlist)
    await studio.advance(2)
    playlist.set_speed(Fraction(1, 2))
    pictures = await shown(studio, screen, 14)
    assert [time for time, chroma in pictures if chroma == SHORT][:5] == [0, 0.5, 1, 1.5, 2]


async def test_viewer_who_joins_at_the_end_of_a_clip_does_not_hinder_the_next_one(studio, playlist):
    screen = await studio.watch(playlist)
    for _ in range(16):
        playlist.start()  # as each viewer does who joins
        await studio.advance(0.5)
        playlist.start()
        await studio.advance(0.5)
    assert (await screen.shades())[:20] == (WHOLE * 3)[:20]


async def test_clip_that_cannot_be_played_is_left_out(studio, caplog):
    playout = studio.make(make_source(name="good", engine=Shades(LONG)), make_broken())
    screen = await studio.watch(playout)
    pictures = await shown(studio, screen, 14)
    assert pictures == [(index % 6, LONG) for index in range(len(pictures))]
    assert len(pictures) >= 13
    assert caplog.text.count("broken is left out: no engine today") == 2
    assert playout.error is None


async def test_viewers_of_clips_that_cannot_be_played_may_try_another(studio):
    engine = Shades(SHORT)
    engine.error = EngineError("no engine today")
    playout = studio.make(make_broken(), make_source(name="other", engine=engine))
    screen = await studio.watch(playout)
    assert playout.error == "no engine today"
    assert not playout.is_ready
    engine.error = None
    playout.play_source(1)
    assert await shown(studio, screen, 1) == [(0, SHORT), (1, SHORT)]
    assert playout.is_ready


async def test_clip_that_cannot_be_played_is_left_out_after_an_error_too(studio):
    engine = Shades(SHORT)
    engine.error = EngineError("no engine today")
    playout = studio.make(make_broken(), make_source(name="other", engine=engine))
    screen = await studio.watch(playout)
    engine.error = None
    playout.play_source(0)
    assert await shown(studio, screen, 1) == [(0, SHORT), (1, SHORT)]


async def test_playlist_without_loop_ends_with_its_last_clip(studio, playlist):
    playlist.loop = False
    screen = await studio.watch(playlist)
    pictures = await shown(studio, screen, 9)
    assert pictures == WHOLE + (len(pictures) - len(WHOLE)) * WHOLE[-1:]
    assert not playlist.playing
    assert (playlist.source.name, playlist.frame) == ("short", 2)


async def test_clip_of_a_playlist_is_chosen(studio, playlist):
    playlist.playing = False
    screen = await studio.watch(playlist)
    assert await shown(studio, screen, 2) == 3 * [(0, LONG)]
    playlist.play_source(1)
    await studio.settle()
    assert await screen.shades() == [(0, SHORT)]
    assert (playlist.source.name, playlist.frame) == ("short", 0)
    playlist.play_source(0)
    playlist.seek(4)
    await studio.settle()
    assert (await screen.shades())[-1] == (4, LONG)
    assert (playlist.source.name, playlist.frame) == ("long", 4)


async def test_pause_at_the_end_of_a_clip_holds_the_next_one_back(studio, playlist):
    screen = await studio.watch(playlist)
    await studio.advance(5)
    playlist.playing = False
    assert (await shown(studio, screen, 3))[-3:] == 3 * [(5, LONG)]
    playlist.playing = True
    assert await shown(studio, screen, 1.6) == [(0, SHORT), (1, SHORT)]


async def test_seek_at_the_end_of_a_clip_stays_in_it(studio, playlist):
    screen = await studio.watch(playlist)
    await studio.advance(5.5)
    playlist.seek(1)
    assert await shown(studio, screen, 2) == [*WHOLE[:6], (1, LONG), (2, LONG), (3, LONG)]


async def test_all_decoders_end_with_the_playout(studio, playlist):
    playlist.join(Screen().viewer)
    await studio.advance(3)
    assert player_threads().count("decoder") == 2
    await asyncio.to_thread(playlist.close)
    assert player_threads() == []
