from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from encoder.codec.decoder import ReferenceDecoder
from encoder.codec.errors import SettingsError
from player.cli import main
from player.output import frame_times, pick_writer


def decode(*arguments):
    assert main(["decode", *map(str, arguments)]) == 0


def read(path, pixel_format="rgb24"):
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format=pixel_format) for frame in container.decode(stream)]
        return np.stack(frames), stream.average_rate


def test_images_are_those_of_the_reference_decoder(tiny_clip, tiny_file, tmp_path):
    decode(tiny_file, f"{tmp_path}/images/")
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == [f"{number:05}.png" for number in range(1, 7)]
    for name, expected in zip(names, ReferenceDecoder(tiny_clip).frames(), strict=True):
        (picture,), _ = read(tmp_path / "images" / name)
        assert picture.shape == (19, 26, 3)
        assert np.abs(picture.transpose(2, 0, 1).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", ["out.mp4", "out.y4m"])
def test_videos_have_every_frame_at_the_clips_rate(tiny_file, tmp_path, name):
    decode(tiny_file, tmp_path / name)
    frames, rate = read(tmp_path / name)
    assert frames.shape == (6, 20, 26, 3)  # 4:2:0 needs even sizes
    assert rate == 25


def test_mp4_looks_like_the_lossless_y4m(tiny_file, tmp_path):
    for name in ("out.mp4", "out.y4m"):
        decode(tiny_file, tmp_path / name)
    lossy, lossless = (read(tmp_path / name, "yuv420p")[0].astype(int) for name in ("out.mp4", "out.y4m"))
    assert np.abs(lossy - lossless).mean() < 2


def test_mp4_says_which_colours_it_has(tiny_file, tmp_path):
    decode(tiny_file, tmp_path / "out.mp4")
    with av.open(tmp_path / "out.mp4") as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (5, 1)  # BT.601, limited


def test_double_rate_decodes_times_in_between(sample_clip, tmp_path):
    path = tmp_path / "sample.nerv"
    path.write_bytes(bytes(sample_clip))
    decode(path, tmp_path / "out.y4m", "--fps", 50)
    frames, rate = read(tmp_path / "out.y4m", "yuv420p")
    assert (len(frames), rate) == (264, 50)
    decode(path, tmp_path / "single.y4m")
    assert np.array_equal(frames[::2], read(tmp_path / "single.y4m", "yuv420p")[0])
    between = frames[101].astype(int)
    assert np.abs(between - frames[100]).mean() > 0.2
    assert np.abs(between - frames[102]).mean() > 0.2


def test_slower_rate_leaves_frames_out(tiny_clip):
    assert frame_times(tiny_clip.header, Fraction(25, 2)).tolist() == [0, 2, 4]


@pytest.mark.parametrize("rate", [0, -1, 1001])
def test_rate_out_of_range(tiny_clip, rate):
    with pytest.raises(SettingsError, match=f"fps must be over 0 and at most 1000, got {rate}"):
        frame_times(tiny_clip.header, Fraction(rate))


def test_rate_that_makes_too_many_frames(tiny_clip):
    header = replace(tiny_clip.header, rate=Fraction(1, 10**8))
    with pytest.raises(SettingsError, match="make 600000000000 frames of this clip"):
        frame_times(header, Fraction(1000))


def test_clip_without_times_in_between(tiny_clip):
    header = replace(tiny_clip.header, continuous=False)
    with pytest.raises(SettingsError, match="no pictures between its frames"):
        frame_times(header, Fraction(50))


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(SettingsError, match="is not empty"):
        pick_writer(str(tmp_path))


def test_unknown_output():
    with pytest.raises(SettingsError, match=r"OUT\.mp4, OUT\.y4m or FOLDER/, got out\.avi"):
        pick_writer("out.avi")


@pytest.mark.parametrize("name", ["out.mp4", "out.y4m", "out/"])
def test_failure_leaves_nothing_behind(tiny_clip, tmp_path, name):
    writer = pick_writer(f"{tmp_path}/{name}")
    with pytest.raises(ZeroDivisionError), writer.open(Path(tmp_path / name), tiny_clip.header, Fraction(25)):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
