import os
import subprocess
import sys
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from av.logging import DEBUG, Capture, get_level, set_level

from encoder.codec.clip import Clip
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.common.errors import SettingsError
from encoder.media.metrics import psnr_db
from encoder.media.source import Source
from player.cli.main import main
from player.playback.frame_selection import frame_range, frame_times
from player.playback.frame_writers import pick_writer, shape_of


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


@pytest.mark.parametrize("name", ["out.mp4", "out.y4m", "out.mkv", "out.webm", "OUT.MP4"])
def test_videos_have_every_frame_at_the_clips_rate(tiny_file, tmp_path, name):
    decode(tiny_file, tmp_path / name)
    frames, rate = read(tmp_path / name)
    assert frames.shape == (6, 20, 26, 3)  # 4:2:0 needs even sizes
    assert rate == 25


def test_mp4_looks_like_the_lossless_y4m(tiny_file, tmp_path):
    for name in ("out.mp4", "out.y4m"):
        decode(tiny_file, tmp_path / name)
    lossy, lossless = (
        read(tmp_path / name, "yuv420p")[0].astype(int) for name in ("out.mp4", "out.y4m")
    )
    assert np.abs(lossy - lossless).mean() < 2


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.webm"])
def test_videos_say_which_colours_they_have(tiny_file, tmp_path, name):
    decode(tiny_file, tmp_path / name)
    with av.open(tmp_path / name) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        assert (frame.colorspace, frame.color_range) == (5, 1)  # BT.601, limited
        assert stream.sample_aspect_ratio == 1
        if name != "out.webm":  # VP9 has the matrix alone, and Matroska keeps the rest
            assert (frame.color_primaries, frame.color_trc) == (1, 1)
            assert chroma_location(tmp_path / name) == 1  # centred


def chroma_location(path):
    """Return what the parameter set of an H.264 video says of the place of chroma samples (ITU-T H.264, E.2.1)."""
    level = get_level()
    set_level(DEBUG)
    with av.open(path) as container, Capture() as logs:
        BitStreamFilterContext("trace_headers", container.streams.video[0])
    set_level(level)
    return next(
        int(line.split("=")[-1])
        for _, _, line in logs
        if "chroma_sample_loc_type_top_field" in line
    )


def test_part_of_a_clip(sample_clip, tmp_path):
    path = tmp_path / "sample.nerv"
    path.write_bytes(bytes(sample_clip))
    decode(path, tmp_path / "all.y4m", "--frames", ":14")
    decode(path, tmp_path / "part.y4m", "--frames", "10:14")
    frames, part = (read(tmp_path / name, "yuv420p")[0] for name in ("all.y4m", "part.y4m"))
    assert np.array_equal(part, frames[10:])
    decode(path, tmp_path / "slow.y4m", "--frames", "10:14", "--fps", 50)
    assert np.array_equal(read(tmp_path / "slow.y4m", "yuv420p")[0][::2], part)


@pytest.mark.parametrize("text", ["5:5", "5", "a:b", "0:7", "-1:3", "5:2", "::"])
def test_what_is_no_part(text):
    with pytest.raises(SettingsError, match="frames are a range like 10:20 within 0:6"):
        frame_range(text, 6)


def test_another_size_is_shown_in_the_clips_shape(sample_clip, tmp_path):
    path = tmp_path / "sample.nerv"
    path.write_bytes(bytes(sample_clip))
    decode(path, tmp_path / "out.mkv", "--resize", "720x576", "--frames", ":2")
    decode(path, tmp_path / "plain.mkv", "--frames", ":2")
    frames, _ = read(tmp_path / "out.mkv")
    assert frames.shape == (2, 576, 720, 3)
    with av.open(tmp_path / "out.mkv") as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(64, 45)
    small = Source(tmp_path / "out.mkv", size=(320, 180)).read(range(2))
    assert psnr_db(small, Source(tmp_path / "plain.mkv").read(range(2))) > 35


def test_images_of_another_size_may_be_odd(tiny_file, tmp_path):
    decode(tiny_file, f"{tmp_path}/images/", "--resize", "13x11")
    assert read(tmp_path / "images" / "00001.png")[0].shape == (1, 11, 13, 3)
    with pytest.raises(SettingsError, match="videos of 4:2:0 have even sizes, got 13x11"):
        shape_of(Clip.read(tiny_file).header, Fraction(25), (13, 11), even=True)


def test_pipe_is_written_into(tiny_file, tmp_path):
    os.mkfifo(tmp_path / "pipe.y4m")
    found = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe.y4m").read_bytes()))
    reader.start()
    decode(tiny_file, tmp_path / "pipe.y4m")
    reader.join()
    decode(tiny_file, tmp_path / "file.y4m")
    assert found == [(tmp_path / "file.y4m").read_bytes()]
    assert (tmp_path / "pipe.y4m").is_fifo()
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(SettingsError, match=r"a pipe takes only Y4M: name it OUT\.y4m"):
        pick_writer(str(tmp_path / "pipe.mp4"))


def test_standard_output_takes_y4m(tiny_file, tmp_path):
    exact = ["--engine", "onnxruntime-cpu"]  # OpenVINO may compute in bf16 in the other process
    command = [sys.executable, "-m", "player", "decode", str(tiny_file), "-", *exact]
    done = subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parents[2])
    decode(tiny_file, tmp_path / "file.y4m", *exact)
    assert done.stdout == (tmp_path / "file.y4m").read_bytes()


@pytest.mark.parametrize("output", ["-", "/dev/full"])
def test_full_output_is_one_line(tiny_file, output):
    command = [sys.executable, "-m", "player", "decode", str(tiny_file), output]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
    lines = [line for line in done.stderr.splitlines() if "%" not in line]
    assert (done.returncode, lines) == (2, [f"error: No space left on device: {output}"])


def test_closed_output_is_one_line(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(SettingsError, match="standard output is closed"):
        pick_writer("-")


def test_y4m_in_high_definition_says_what_it_cannot_tell(tmp_path, caplog, tiny_clip):
    caplog.set_level("INFO")
    shape = shape_of(tiny_clip.header, Fraction(25), (1280, 720), even=True)
    with pick_writer("out.y4m").open(tmp_path / "out.y4m", shape):
        pass
    assert "Y4M cannot tell that its colours are BT.601" in caplog.text


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
    with pytest.raises(
        SettingsError, match=r"OUT\.mp4, OUT\.mkv, OUT\.webm, OUT\.y4m, FOLDER/ or -, got out\.avi"
    ):
        pick_writer("out.avi")


@pytest.mark.parametrize("name", ["out.mp4", "out.y4m", "out.mkv", "out.webm", "out/"])
def test_failure_leaves_nothing_behind(tiny_clip, tmp_path, name):
    writer = pick_writer(f"{tmp_path}/{name}")
    shape = shape_of(tiny_clip.header, Fraction(25), None, even=writer.pixels == "i420")
    with pytest.raises(ZeroDivisionError), writer.open(Path(tmp_path / name), shape):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
