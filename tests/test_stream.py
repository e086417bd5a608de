import asyncio
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from playing import make_item, player_threads, receive

from encoder.codec.clip import Clip
from encoder.codec.growing_file import GrowingFile
from encoder.common.errors import EngineError
from export.engines.registry import open_engine
from player.metrics import Metrics
from player.playback import playout as stream_module
from player.playback.clip_source import ClipSource
from player.playback.playout import Playout
from player.rtc.fanout import ViewerTrack

pytestmark = pytest.mark.alone


def make_stream(*items, **options):
    return Playout(items, Metrics().of("tiny"), **options)


@pytest.fixture
async def stream(tiny_clip):
    stream = make_stream(make_item(tiny_clip, engine="onnxruntime-cpu"))
    yield stream
    await asyncio.to_thread(stream.close)
    assert player_threads() == []


def join(stream, codec="H264"):
    viewer = ViewerTrack(codec, limit=1000)
    stream.join(viewer)
    return viewer


async def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.01)


async def test_sends_at_the_clips_rate(stream):
    received = await receive(join(stream), 20)
    assert received[0].is_keyframe
    steps = np.diff([packet.pts for packet in received])
    assert np.median(steps) == 3600
    figures = stream.figures
    assert figures.engine == "onnxruntime-cpu"
    assert figures.viewers == 1
    assert (
        min(
            figures.decode_fps,
            figures.encode_fps,
            figures.encode_ms,
            figures.sent_fps,
            figures.bitrate,
        )
        > 0
    )


async def test_bitrate_is_what_was_asked_for(tiny_clip):
    stream = make_stream(make_item(tiny_clip), bitrate=123_000)
    await receive(join(stream), 1)
    assert stream._broadcasts["H264"]._encoder._context.bit_rate == 123_000
    await asyncio.to_thread(stream.close)


async def test_viewers_of_a_codec_share_its_packets(stream):
    viewers = [join(stream, codec) for codec in ("H264", "H264", "VP8")]
    first, second, other = [
        {packet.pts: packet for packet in await receive(viewer, 8)} for viewer in viewers
    ]
    shared = first.keys() & second.keys()
    assert shared
    assert all(first[pts] is second[pts] for pts in shared)
    assert not any(packet in first.values() for packet in other.values())


async def test_pause_repeats_the_picture_and_seek_changes_it(stream):
    stream.playing = False
    viewer = join(stream)
    await receive(viewer, 3)
    first = stream._picture
    await receive(viewer, 5)
    assert stream._picture is first
    assert stream.frame == 0
    stream.seek(4)
    await until(lambda: stream._picture is not first and stream._picture is not None)
    assert stream.frame == 4


async def test_seek_shows_its_picture_without_a_tick_to_wait_for(stream):
    stream.playing = False
    viewer = join(stream)
    await receive(viewer, 10)
    waits = []
    for frame in (4, 1, 5, 2):
        await receive(viewer, 1)
        began = time.monotonic()
        stream.seek(frame)
        await until(
            lambda frame=frame: stream._picture is not None and stream._picture.time == frame
        )
        waits.append(time.monotonic() - began)
    assert np.median(waits) < 0.05


@pytest.mark.parametrize(
    ("start", "frames", "expected"), [(2, 1, 3), (2, -1, 1), (2.25, 1, 3), (2.25, -1, 2), (5, 1, 5)]
)
async def test_step_pauses_at_a_whole_frame(stream, start, frames, expected):
    viewer = join(stream)
    await receive(viewer, 2)
    stream.playing = False
    stream.seek(start)
    stream.step(frames)
    await receive(viewer, 5)
    assert (stream.playing, stream.frame) == (False, expected)


async def test_slow_motion_goes_on_smoothly(stream):
    viewer = join(stream)
    await receive(viewer, 2)
    stream.seek(0)
    stream.set_speed(Fraction(1, 10))
    await until(lambda: stream.frame >= 0.5)
    steps = []
    for _ in range(10):
        before = stream.frame
        await receive(viewer, 1)
        await until(lambda before=before: stream.frame != before)
        steps.append(stream.frame - before)
    assert np.median(steps) == pytest.approx(0.1)


async def test_without_loop_the_clip_ends_and_begins_anew(stream):
    stream.loop = False
    viewer = join(stream)
    await receive(viewer, 12)
    assert (stream.playing, stream.frame) == (False, 5)
    stream.playing = True
    await until(lambda: stream.frame < 5)


async def test_nothing_is_encoded_while_nobody_watches(stream):
    viewer = join(stream, "VP8")
    await receive(viewer, 2)
    stream.leave(viewer)
    await asyncio.sleep(0.1)
    frame, missed = stream.frame, stream.figures.missed
    await asyncio.sleep(0.3)
    assert stream.frame == frame
    stream.join(viewer)
    await receive(viewer, 3)
    assert stream.figures.missed == missed


async def test_engine_is_given_back_when_nobody_watches_for_long(stream, monkeypatch):
    monkeypatch.setattr(stream_module, "IDLE_SECONDS", 0.2)
    viewer = join(stream)
    await receive(viewer, 3)
    stream.leave(viewer)
    frame = stream.frame
    await until(lambda: player_threads() == [])
    viewer = join(stream)  # and comes back, where it was
    await receive(viewer, 1)
    assert stream.frame == pytest.approx(frame, abs=2)


async def test_stream_that_keeps_its_engine_is_ready_before_the_first_viewer(
    tiny_clip, monkeypatch
):
    monkeypatch.setattr(stream_module, "IDLE_SECONDS", 0.1)
    stream = make_stream(make_item(tiny_clip), keep=True)
    stream.start()
    await until(lambda: stream.is_ready)
    await asyncio.sleep(0.4)
    assert player_threads() != []
    began = time.monotonic()
    (first,) = await receive(join(stream), 1)
    assert first.is_keyframe
    assert time.monotonic() - began < 0.1
    await asyncio.to_thread(stream.close)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(EngineError("no engine today"), "no engine today"), (KeyError("bug"), "internal error")],
)
async def test_stream_that_fails_says_why_and_starts_anew(tiny_clip, error, reason):
    failures = [error]

    def open_once_broken(_):
        if failures:
            raise failures.pop()
        return open_engine(tiny_clip, "onnxruntime-cpu")

    stream = make_stream(ClipSource("tiny", tiny_clip, open_once_broken, file_bytes=1))
    join(stream)
    await until(lambda: stream.error is not None)
    assert stream.error.startswith(reason)
    viewer = join(stream)
    await receive(viewer, 2)
    assert stream.error is None
    # It may fail later as well: the encoders go on from where they were.
    stream._reader._error = error
    await until(lambda: stream.error is not None)
    viewer = join(stream)
    await receive(viewer, 15)
    assert stream.error is None
    await asyncio.to_thread(stream.close)
    assert player_threads() == []


async def test_close_that_meets_the_wake_up_is_not_lost(stream):
    clear = stream._wake.clear

    def close_then_clear():
        stream._closed = True
        stream._wake.set()
        clear()

    stream._wake.clear = close_then_clear
    join(stream)
    thread = stream._thread
    if thread is not None:  # it may have ended by now
        await asyncio.to_thread(thread.join, 5)
        assert not thread.is_alive()


def renamed(clip: Clip, frames: int) -> Clip:
    """Return the clip's first segment alone, as a clip of so many frames."""
    return replace(clip, header=replace(clip.header, frames=frames), segments=clip.segments[:1])


@pytest.fixture
async def playlist(tiny_clip):
    """Two clips: one of six frames, one of three at another rate."""
    short = renamed(tiny_clip, 3)
    short = replace(short, header=replace(short.header, rate=Fraction(50)))
    stream = make_stream(make_item(tiny_clip, "long"), make_item(short, "short"))
    yield stream
    await asyncio.to_thread(stream.close)
    assert player_threads() == []


async def seen(stream, count):
    """Return what is shown, as names and times, until it has changed so many times."""
    shown = []
    while len(shown) < count:
        picture = stream._picture
        now = (stream.item.name, stream.frame)
        if picture is not None and (not shown or shown[-1] != now):
            shown.append(now)
        await asyncio.sleep(0.002)
    return shown


async def test_playlist_goes_from_clip_to_clip_and_round(playlist):
    join(playlist)
    shown = await seen(playlist, 14)
    whole = [("long", time) for time in range(6)] + [("short", time) for time in range(3)]
    assert shown == (whole * 2)[:14]


async def test_who_joins_at_the_end_of_a_clip_does_not_hinder_the_next_one(playlist):
    join(playlist)
    for _ in range(3):
        await until(lambda: (playlist.item.name, playlist.frame) == ("long", 5))
        for _ in range(20):
            playlist.start()  # as each does who joins
            await asyncio.sleep(0.003)
        assert (playlist.item.name, playlist.frame) != ("long", 0)
        await until(lambda: playlist.item.name == "short")


async def test_clip_of_a_playlist_that_cannot_be_played_is_left_out(tiny_clip, caplog):
    def fail(_):
        raise EngineError("no engine today")

    broken = ClipSource("broken", tiny_clip, fail, file_bytes=1)
    stream = make_stream(make_item(tiny_clip, "good"), broken)
    join(stream)
    shown = await seen(stream, 8)
    assert {name for name, _ in shown} <= {"good", "broken"}
    await until(lambda: caplog.text.count("broken is left out: no engine today") >= 2)
    assert stream.error is None
    await asyncio.to_thread(stream.close)
    alone = make_stream(broken, broken)
    viewer = join(alone)
    await until(lambda: alone.error == "no engine today")
    assert not alone.is_ready
    # Who still watches may try another clip.
    alone.items = [broken, make_item(tiny_clip, "good")]
    alone.play_item(1)
    await receive(viewer, 3)
    assert alone.is_ready
    await asyncio.to_thread(alone.close)


async def test_playlist_without_loop_ends_with_its_last_clip(playlist):
    playlist.loop = False
    join(playlist)
    await until(lambda: not playlist.playing)
    assert (playlist.item.name, playlist.frame) == ("short", 2)


async def test_item_of_a_playlist_is_chosen(playlist):
    playlist.playing = False
    viewer = join(playlist)
    await receive(viewer, 3)
    first = playlist._picture
    playlist.play_item(1)
    await until(lambda: playlist._picture not in (None, first))
    assert (playlist.item.name, playlist.frame) == ("short", 0)
    second = playlist._picture
    playlist.play_item(0)
    playlist.seek(4)
    await until(lambda: playlist._picture not in (None, second))
    assert (playlist.item.name, playlist._picture.time) == ("long", 4)


async def test_timestamps_rise_from_clip_to_clip(playlist):
    packets = await receive(join(playlist), 30)
    assert (np.diff([packet.pts for packet in packets]) > 0).all()


async def test_clip_that_grows_goes_on_where_it_ended(tiny_clip, tmp_path):
    path, data = tmp_path / "growing.nerv", bytes(tiny_clip)
    made = len(data) * 2 // 3  # one of two segments
    path.write_bytes(data[:made])
    follower = GrowingFile(path)
    item = make_item(follower.clip)
    item.follower = follower
    stream = make_stream(item)
    stream.loop = False
    join(stream)
    await until(lambda: not stream.playing)
    assert stream.frame == 2
    with path.open("ab") as file:
        file.write(data[made:])
    item.follow()
    await until(lambda: stream.frame == 5)
    assert not item.follows
    assert item.file_bytes == len(data)
    await asyncio.to_thread(stream.close)


async def test_damage_is_counted(tiny_clip):
    clip = replace(tiny_clip, damage=("one", "two"))
    stream = make_stream(make_item(clip))
    assert stream.figures.damaged == 2


async def test_changes_while_something_else_is_wished_for(stream):
    """Seeks that come one after another: the last one counts."""
    stream.playing = False
    viewer = join(stream)
    for frame in (1, 5, 2, 4, 3):
        stream.seek(frame)
        stream.set_speed(Fraction(1, 2))
    await receive(viewer, 3)
    await until(lambda: stream._picture is not None and stream._picture.time == 3)
    assert stream.frame == 3
