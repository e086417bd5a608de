import asyncio
from dataclasses import replace

import numpy as np
import pytest
from helpers import fit_clip

from encoder.codec.clip import Clip
from encoder.codec.container import ChunkReader
from encoder.codec.errors import BitstreamError
from encoder.codec.follower import Follower
from export.engines import open_engine
from player import server
from player.reader import Reader
from player.sessions import Sessions
from player.stream import Stream


@pytest.fixture(scope="module")
def clip():
    """Three segments of three frames."""
    return fit_clip("fast", frames=9, height=19, width=26, segment_frames=3)


def parts(clip):
    """Return a file up to the end of each segment, and all of it."""
    data = bytes(clip)
    _, _, _, *following = ChunkReader().feed(data)
    return [*(data[: chunk.offset] for chunk in following), data]


def test_segments_become_more(clip, tmp_path):
    path = tmp_path / "clip.nerv"
    first, second, _, whole = parts(clip)
    path.write_bytes(first)
    follower = Follower(path)
    assert (follower.clip.end, follower.is_whole, follower.file_bytes) == (3, False, len(first))
    with path.open("ab") as file:
        file.write(second[len(first) : -5])
        file.flush()
        follower.read_on()
        assert follower.clip.end == 3
        file.write(whole[len(second) - 5 :])
    follower.read_on()
    assert (follower.clip.end, follower.is_whole, follower.file_bytes) == (9, True, len(whole))
    assert tuple(follower.clip.segments) == tuple(clip.segments)
    assert follower.damage == ()
    follower.close()


@pytest.mark.parametrize("share", [0, 0.1])
def test_file_without_a_segment(clip, tmp_path, share):
    path = tmp_path / "clip.nerv"
    path.write_bytes(bytes(clip)[: int(share * len(bytes(clip)))])
    with pytest.raises(BitstreamError, match="ends before its first segment"):
        Follower(path)
    with pytest.raises(BitstreamError, match=r"cannot read .*none"):
        Follower(tmp_path / "none.nerv")


@pytest.fixture
def growing(clip, tmp_path):
    """The stream of a file that has one segment so far, what follows it, and a function that lets the file have all of them."""
    path = tmp_path / "clip.nerv"
    first, _, _, whole = parts(clip)
    path.write_bytes(first)
    follower = Follower(path)
    stream = Stream(follower.clip, lambda: None, file_bytes=len(first), follower=follower)
    yield stream, follower, lambda: path.write_bytes(whole)
    stream.close()


def test_player_shows_what_has_come(clip, growing):
    stream, follower, grow = growing
    reader = Reader(lambda: open_engine(follower.clip, "onnxruntime-cpu", batch=2))
    try:
        stream._reader = reader
        assert [reader.read(20)[0] for _ in range(8)] == [0, 1, 2, 0, 1, 2, 0, 1]
        grow()
        stream.follow()
        assert (stream.clip.end, stream.file_bytes) == (9, len(bytes(clip)))
        shown = [reader.read(20) for _ in range(16)]
        assert [number for number, _ in shown] == [2, 3, 4, 5, 6, 7, 8, *range(9)]  # not the start again, as it was before
        engine = open_engine(clip, "onnxruntime-cpu", batch=2)
        for number, picture in dict(shown).items():
            assert np.array_equal(picture, engine.frames(np.array([float(number)]))[0])
        engine.close()
    finally:
        reader.close()


def test_file_of_a_resumed_fit_takes_the_place_of_the_first(clip, tmp_path):
    path, other = tmp_path / "clip.nerv", tmp_path / "other.nerv"
    first, second, _, whole = parts(clip)
    path.write_bytes(second)
    follower = Follower(path)
    seen = follower.clip.segments
    for data, end in ((first, 6), (second, 6), (whole, 9)):
        other.write_bytes(data)
        other.replace(path)
        follower.read_on()
        assert (follower.clip.end, follower.clip.segments) == (end, seen)
    assert follower.is_whole
    assert tuple(seen) == tuple(clip.segments)
    changed = replace(clip, segments=clip.segments[1:])
    other.write_bytes(bytes(changed))
    other.replace(path)
    with pytest.raises(BitstreamError, match="another file has taken its place"):
        follower.read_on()
    path.unlink()
    with pytest.raises(BitstreamError, match="cannot read on"):
        follower.read_on()
    follower.close()


def test_interrupted_fit_leaves_fewer_frames(clip, tmp_path):
    path, other = tmp_path / "clip.nerv", tmp_path / "other.nerv"
    path.write_bytes(parts(clip)[0])
    follower = Follower(path)
    shortened = replace(clip, header=replace(clip.header, frames=6), segments=clip.segments[:2])
    other.write_bytes(bytes(shortened))
    other.replace(path)
    follower.read_on()
    assert follower.is_whole
    assert (follower.clip.end, tuple(follower.clip.segments)) == (6, tuple(clip.segments[:2]))
    follower.close()


def test_paused_stream_stays_where_it_is(growing):
    stream, _, grow = growing
    stream.playing = False
    stream.seek(2)
    grow()
    stream.follow()
    assert stream.clip.end == 9
    assert (stream.frame, stream.playing, list(stream._seeks)) == (2, False, [2])


async def test_server_looks_at_files_that_grow(clip, tmp_path, aiohttp_client, monkeypatch):
    monkeypatch.setattr(server, "FOLLOW_SECONDS", 0.05)
    path = tmp_path / "clip.nerv"
    first, second, _, whole = parts(clip)
    path.write_bytes(first)
    follower = Follower(path)
    stream = Stream(follower.clip, lambda: None, file_bytes=follower.file_bytes, follower=follower)
    client = await aiohttp_client(server.make_app({"clip": stream}, Sessions(host="127.0.0.1")))
    for data, frames in ((first, 3), (second, 6), (whole, 9)):
        path.write_bytes(data)
        await asyncio.sleep(0.3)
        state = await (await client.get("/api/clips/clip")).json()
        assert (state["frames"], state["file_bytes"]) == (frames, len(data))
        for frame, status in ((frames - 1, 200), (frames, 400)):
            assert (await client.post("/api/clips/clip", json={"frame": frame})).status == status
    assert Clip.read(path).end == 9
