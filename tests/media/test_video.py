import pickle
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import moving_square, write_images

from encoder.cli.options import SAMPLE
from encoder.common.errors import SettingsError, SourceError
from encoder.media.metrics import psnr_db
from encoder.media.size import parse_size
from encoder.media.source import Source, read_video

FRAMES = moving_square(6, 36, 64)
IDENTITY = bytes.fromhex(
    "0001 0000 0000 0000 0000 0000 0000 0000 0001 0000 0000 0000 0000 0000 0000 0000 4000 0000".replace(
        " ", ""
    )
)
QUARTER_TURN = bytes.fromhex(
    "0000 0000 0001 0000 0000 0000 FFFF 0000 0000 0000 0000 0000 0000 0000 0000 0000 4000 0000".replace(
        " ", ""
    )
)


def assert_close(a, b):
    assert a.shape == b.shape
    assert min(psnr_db(x, y) for x, y in zip(a, b, strict=True)) > 38


def test_sample():
    video = read_video(SAMPLE)
    assert video.frames.shape == (132, 3, 180, 320)
    assert video.rate == 25


def test_frames_are_read_as_they_are(write_video):
    video = read_video(write_video(FRAMES))
    assert video.frames.dtype == np.uint8
    assert_close(video.frames, FRAMES)


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv444p10le"])
def test_ten_bits(write_video, pix_fmt):
    gradient = np.repeat(
        np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None], 36, 0)[None, None], 3, 1
    )
    assert_close(read_video(write_video(gradient, pix_fmt=pix_fmt)).frames, gradient)


def test_odd_size(write_video):
    frames = moving_square(3, 35, 63)
    assert_close(read_video(write_video(frames)).frames, frames)


def test_vertical(write_video):
    frames = moving_square(3, 64, 36)
    assert_close(read_video(write_video(frames)).frames, frames)


def test_rotation_flag_is_applied(write_video):
    path = write_video(FRAMES)
    data = path.read_bytes()
    at = data.rindex(IDENTITY)  # the track's, after that of the movie
    path.write_bytes(data[:at] + QUARTER_TURN + data[at + len(IDENTITY) :])
    assert_close(read_video(path).frames, np.rot90(FRAMES, -1, axes=(2, 3)))


def shown(video):
    """Return which of FRAMES each frame of a video is."""
    return [
        int(np.argmin([np.abs(frame.astype(int) - known).mean() for known in FRAMES]))
        for frame in video.frames
    ]


def test_a_gap_repeats_the_frame_before(write_video):
    video = read_video(write_video(FRAMES, pts=[0, 1, 2, 5, 6, 7]))
    assert video.rate == 25
    assert shown(video) == [0, 1, 2, 2, 2, 3, 4, 5]


def test_variable_rate_becomes_that_of_most_frames(write_video):
    video = read_video(write_video(FRAMES, pts=[0, 13, 26, 35, 52, 65], unit=Fraction(1, 1000)))
    assert float(video.rate) == pytest.approx(1000 / 13, rel=1e-3)
    assert shown(video)[:6] == [0, 1, 2, 3, 4, 5]


def test_long_pause_costs_no_frames(write_video):
    video = read_video(write_video(FRAMES, pts=[0, 1, 2, 200, 201, 202]))
    assert video.rate == 25
    assert shown(video) == [0, 1, *([2] * 198), 3, 4, 5]


@pytest.mark.parametrize("rate", [Fraction(60), Fraction(30000, 1001)])
def test_times_rounded_to_milliseconds_give_the_exact_rate(write_video, rate):
    pts = [round(1000 * index / rate) for index in range(30)]
    video = read_video(
        write_video(
            np.repeat(FRAMES, 5, 0), "video.mkv", pts=pts, unit=Fraction(1, 1000), rate=rate
        )
    )
    assert video.rate == rate
    assert len(video.frames) in (30, 31)


def test_start_without_a_key_frame_shows_the_first_picture_there_is(write_video, tmp_path):
    path = write_video(np.repeat(FRAMES, 2, 0), key_frames=[0, 6])
    with av.open(path) as source, av.open(tmp_path / "cut.ts", "w") as cut:
        stream = cut.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(source.streams.video[0])):
            if index >= 2 and packet.dts is not None:
                packet.stream = stream
                cut.mux(packet)
    assert shown(read_video(tmp_path / "cut.ts")) in ([3] * 6 + [4, 4, 5, 5], [3, 3, 4, 4, 5, 5])


def test_name_with_a_colon(write_video, monkeypatch):
    path = write_video(FRAMES, "12:30:00.mp4")
    monkeypatch.chdir(path.parent)
    assert_close(read_video(Path(path.name)).frames, FRAMES)


@pytest.mark.parametrize("tail", [bytes(3), b"TAG" + bytes(125)])
def test_something_after_the_last_box(write_video, tail):
    path = write_video(FRAMES)
    path.write_bytes(path.read_bytes() + tail)
    assert_close(read_video(path).frames, FRAMES)


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv"])
def test_last_frame_stays_as_long_as_it_is_shown(write_video, name):
    video = read_video(write_video(FRAMES, name, last_duration=10))
    assert video.rate == 25
    assert shown(video) == [0, 1, 2, 3, 4, *([5] * 10)]


def test_edit_list_that_ends_early_cuts_the_end_off(write_video):
    path = write_video(np.repeat(FRAMES, 5, 0))
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    assert int.from_bytes(data[at : at + 4], "big") == 1200  # milliseconds
    data[at : at + 4] = (800).to_bytes(4, "big")
    path.write_bytes(data)
    assert 19 <= len(read_video(path).frames) <= 22


@pytest.mark.parametrize("size", [(32, 18), (128, 72), (20, 40)])
def test_resize(write_video, size):
    assert read_video(write_video(FRAMES), size=size).frames.shape == (6, 3, size[1], size[0])


def test_large_frames_become_small_unless_told_otherwise(write_video):
    path = write_video(np.zeros((2, 3, 720, 480), np.uint8))
    assert read_video(path).frames.shape[2:] == (294, 196)
    assert read_video(path, keep_size=True).frames.shape[2:] == (720, 480)


@pytest.mark.parametrize("text", ["320", "0x10", "10x0", "axb", "-1x5", "99999x1", "320x180x3"])
def test_sizes_that_are_none(text):
    with pytest.raises(SettingsError, match="a size is two numbers"):
        parse_size(text)


def test_parse_size():
    assert parse_size("640x360") == (640, 360)


def test_folder_of_images(tmp_path):
    write_images(tmp_path / "images", FRAMES)
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    video = read_video(tmp_path / "images")
    assert np.array_equal(video.frames, FRAMES)


def test_images_are_in_the_order_of_their_numbers(tmp_path):
    frames = [FRAMES[index % 6] for index in range(12)]
    write_images(tmp_path / "images", frames, name="{}.png")
    assert np.array_equal(read_video(tmp_path / "images").frames, frames)


def test_images_of_different_sizes(tmp_path):
    write_images(tmp_path / "images", [FRAMES[0], FRAMES[1, :, :20]])
    with pytest.raises(SourceError, match=r"images differ in size: .*001\.png is 64x20, not 64x36"):
        read_video(tmp_path / "images")


def test_folder_without_images(tmp_path):
    with pytest.raises(SourceError, match="no images in folder"):
        read_video(tmp_path)


def test_missing(tmp_path):
    with pytest.raises(SourceError, match="no such file or folder"):
        read_video(tmp_path / "nope.mp4")


@pytest.mark.parametrize("content", [b"", b"hello\n" * 100, bytes(5000)])
@pytest.mark.parametrize("name", ["file.mp4", "file.txt", "file.png"])
def test_not_a_video(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError):
        read_video(path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("name", ["video.mp4", "video.mov", "video.mkv", "video.webm", "video.avi"])
def test_truncated(write_video, name, share):
    frames = np.random.default_rng(0).integers(0, 255, (60, 3, 36, 64), np.uint8)
    path = write_video(frames, name)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(SourceError):
        read_video(path)


@pytest.mark.parametrize("share", [0.5, 0.97])
def test_truncated_with_the_index_first(write_video, share):
    frames = np.random.default_rng(0).integers(0, 255, (60, 3, 36, 64), np.uint8)
    path = write_video(frames, options={"movflags": "faststart"})
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(SourceError, match=r"truncated video: "):
        read_video(path)


def test_video_without_frames(tmp_path):
    path = tmp_path / "empty.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 36, "yuv420p"
    with pytest.raises(SourceError):
        read_video(path)


def test_too_long_for_memory(write_video, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 200)
    with pytest.raises(SourceError, match="6 frames of 64x36 do not fit in half of the memory"):
        read_video(write_video(FRAMES))


def test_runs_are_those_of_the_whole(write_video):
    source = Source(write_video(FRAMES, pts=[0, 1, 2, 5, 6, 7]))
    whole = source.read(range(8))
    for run in (range(2, 5), range(4, 7), range(7, 8), range(1, 3)):
        assert np.array_equal(source.read(run), whole[run.start : run.stop])


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv", "video.ts", "video.avi"])
@pytest.mark.parametrize(
    "coding", [{"bf": "3", "g": "48", "x264-params": "open-gop=1"}, {"g": "900"}]
)
def test_runs_far_apart_are_those_of_the_whole(write_video, name, coding):
    """Whatever lies before a key frame in the file, and is shown after it, and wherever a container finds its way to."""
    levels = np.random.default_rng(0).integers(0, 256, (700, 3, 1, 1), np.uint8)
    path = write_video(np.tile(levels, (1, 1, 16, 16)), name, coding=coding)
    whole = Source(path).read(range(700))
    source = Source(path)
    for start in (690, 30, 690, 3, 330, 250, 600, 0, 400):
        assert np.array_equal(source.read(range(start, start + 10)), whole[start : start + 10])


@pytest.mark.parametrize("is_folder", [False, True])
def test_other_readers_of_a_source_need_not_read_its_packets(
    write_video, tmp_path, monkeypatch, is_folder
):
    """The finder of scenes, and workers, which may be in another folder."""
    path = write_video(FRAMES)
    if is_folder:
        path = tmp_path / "images"
        write_images(path, FRAMES)
    monkeypatch.chdir(path.parent)
    source = Source(Path(path.name))
    monkeypatch.setattr("encoder.media.source.open_track", None)
    monkeypatch.setattr("encoder.media.source.open_folder", None)
    assert source.thumbnails().read(range(6)).shape[0] == 6
    sent = pickle.loads(pickle.dumps(source.track))
    monkeypatch.chdir("/")
    other = Source(path, size=source.size, track=sent)
    assert np.array_equal(other.read(range(6)), source.read(range(6)))


def test_runs_before_a_damage_can_be_read(write_video):
    path = write_video(np.repeat(FRAMES, 4, 0), key_frames=range(24))
    with av.open(path) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    data[positions[12] : positions[20]] = bytes(positions[20] - positions[12])
    path.write_bytes(data)
    source = Source(path)
    assert source.read(range(10)).shape == (10, 3, 36, 64)
    with pytest.raises(SourceError, match=r"cannot decode|damaged video"):
        source.read(range(10, 24))
