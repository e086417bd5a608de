from dataclasses import replace

import numpy as np
import pytest
from helpers import fit_clip
from playing import make_item, make_server
from waiting import until

from encoder.codec.clip import Clip
from encoder.codec.container import ChunkReader
from encoder.codec.growing_file import GrowingFile
from encoder.common.errors import BitstreamError
from export.engines.registry import open_engine
from player.metrics import Metrics
from player.playback import clip_source as item_module
from player.playback.decode_thread import DecodeThread


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
    follower = GrowingFile(path)
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
        GrowingFile(path)
    with pytest.raises(BitstreamError, match=r"cannot read .*none"):
        GrowingFile(tmp_path / "none.nerv")


def growing(path, clip, **options):
    """Write a clip's first segment; return what follows the file, and the clip to play."""
    path.write_bytes(parts(clip)[0])
    follower = GrowingFile(path)
    item = make_item(follower.clip, **options)
    item.follower, item.file_bytes = follower, follower.file_bytes
    return item


@pytest.mark.parametrize("read", [1, 3, 8])
def test_player_shows_what_has_come(clip, tmp_path, read):
    item = growing(tmp_path / "clip.nerv", clip, engine="onnxruntime-cpu")
    reader = DecodeThread(item.clip, item.open_engine, counts=Metrics().of("clip"))
    try:
        before = [reader.read(20) for _ in range(read)]
        assert [picture.time for picture in before] == [0, 1, 2, 0, 1, 2, 0, 1][:read]
        (tmp_path / "clip.nerv").write_bytes(bytes(clip))
        item.follow()
        assert (item.clip.end, item.file_bytes, item.follows) == (9, len(bytes(clip)), False)
        reader.go_on()
        shown = [reader.read(20) for _ in range(16)]
        first = int(before[-1].time) + 1  # not the start again, as it was before
        assert [picture.time for picture in shown] == [(first + index) % 9 for index in range(16)]
        assert [picture.is_last for picture in shown] == [picture.time == 8 for picture in shown]
        engine = open_engine(clip, "onnxruntime-cpu", batch=2)
        for picture in shown[:9]:
            assert np.array_equal(picture.pixels, engine.frames(np.array([picture.time]))[0])
        engine.close()
    finally:
        reader.stop()
        reader.join()


def test_file_of_a_resumed_fit_takes_the_place_of_the_first(clip, tmp_path):
    path, other = tmp_path / "clip.nerv", tmp_path / "other.nerv"
    first, second, _, whole = parts(clip)
    path.write_bytes(second)
    follower = GrowingFile(path)
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
    follower = GrowingFile(path)
    shortened = replace(clip, header=replace(clip.header, frames=6), segments=clip.segments[:2])
    other.write_bytes(bytes(shortened))
    other.replace(path)
    follower.read_on()
    assert follower.is_whole
    assert (follower.clip.end, tuple(follower.clip.segments)) == (6, tuple(clip.segments[:2]))
    follower.close()


async def test_server_looks_at_files_that_grow(clip, tmp_path, aiohttp_client, monkeypatch):
    monkeypatch.setattr(item_module, "FOLLOW_SECONDS", 0.05)
    path = tmp_path / "clip.nerv"
    first, second, _, whole = parts(clip)
    item = growing(path, clip)
    item.name = "clip"
    client = await aiohttp_client(make_server([item]))
    for data, frames in ((first, 3), (second, 6), (whole, 9)):
        path.write_bytes(data)
        await until(lambda data=data: item.file_bytes == len(data))
        state = await (await client.get("/api/clips/clip")).json()
        assert (state["frames"], state["file_bytes"]) == (frames, len(data))
        for frame, status in ((frames - 1, 200), (frames, 400)):
            assert (await client.post("/api/clips/clip", json={"frame": frame})).status == status
    assert Clip.read(path).end == 9


def test_item_that_is_closed_meanwhile_complains_of_nothing(clip, tmp_path, caplog):
    item = growing(tmp_path / "clip.nerv", clip)
    follower = item.follower
    item.close()
    item.follower = follower

    def read_on():
        item.follower = None
        raise BitstreamError("cannot read on: it is closed")

    follower.read_on = read_on
    item.follow()
    item.close()
    assert caplog.text == ""
