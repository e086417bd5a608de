import pytest

from encoder.codec.clip import Clip
from encoder.codec.writer import END_BYTES, ClipWriter
from encoder.common.errors import BitstreamError


def test_file_grows_by_what_can_be_read(tiny_clip, tmp_path):
    path = tmp_path / "clip.nerv"
    path.write_bytes(b"old")
    writer = ClipWriter(path, tiny_clip.header, tiny_clip.topology)
    assert path.read_bytes() == b"old"
    for count, segment in enumerate(tiny_clip.segments, 1):
        writer.add(segment)
        assert Clip.read(path, strict=False).segments == tiny_clip.segments[:count]
    with pytest.raises(BitstreamError, match="index is missing"):
        Clip.read(path)
    writer.finish()
    assert path.read_bytes() == bytes(tiny_clip)
    assert list(tmp_path.iterdir()) == [path]


def test_clip_never_becomes_too_large_to_be_read(tiny_clip, tmp_path, monkeypatch):
    room = len(bytes(tiny_clip)) - len(bytes(tiny_clip.segments[-1]))
    monkeypatch.setattr("encoder.codec.writer.MAX_FILE_BYTES", room + END_BYTES)
    writer = ClipWriter(tmp_path / "clip.nerv", tiny_clip.header, tiny_clip.topology)
    for segment in tiny_clip.segments[:-1]:
        writer.add(segment)
    with pytest.raises(
        BitstreamError, match=f"it ends before frame {tiny_clip.segments[-1].start}"
    ):
        writer.add(tiny_clip.segments[-1])
    writer.finish()
    assert Clip.read(tmp_path / "clip.nerv", strict=False).segments == tiny_clip.segments[:-1]


def test_folder_that_is_not_there(tiny_clip, tmp_path):
    writer = ClipWriter(tmp_path / "none" / "clip.nerv", tiny_clip.header, tiny_clip.topology)
    with pytest.raises(FileNotFoundError):
        writer.add(tiny_clip.segments[0])
