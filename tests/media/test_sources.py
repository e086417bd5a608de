"""Shapes, fields, times and tracks: what becomes of all kinds of files that people have."""

import json
import os
import threading
from fractions import Fraction
from pathlib import Path

import av
import media
import numpy as np
import pytest
from helpers import moving_square, run, write_images
from media import corners, numbered, patches, recording, write, write_jpegs, yuv
from PIL import Image, ImageDraw, ImageFont, ImageOps

from encoder.codec.clip import Clip
from encoder.common.errors import SourceError
from encoder.media.fields import deinterlaced, field_order
from encoder.media.metrics import psnr_db
from encoder.media.reading import Reading
from encoder.media.source import Source, read_video

# ------------------------------------------------------------------ shape


@pytest.mark.parametrize(
    ("stored", "aspect", "shown", "default"),
    [
        ((96, 64), "4/3", (128, 64), (128, 64)),
        ((96, 64), "2/3", (64, 64), (64, 64)),
        ((720, 576), "64/45", (1024, 576), (320, 180)),
        ((720, 576), "16/15", (768, 576), (278, 208)),
        ((720, 480), "8/9", (640, 480), (278, 208)),
        ((1440, 1080), "4/3", (1920, 1080), (320, 180)),
        ((96, 64), "1/1", (96, 64), (96, 64)),
        ((96, 64), "1000/1", (96, 64), (96, 64)),
    ],
)
def test_pixels_become_square(tmp_path, stored, aspect, shown, default):
    path = write(
        tmp_path / "video.mp4", [yuv(patches(*stored))], sample_aspect_ratio=Fraction(aspect)
    )
    assert Source(path, keep_size=True).size == shown
    assert Source(path).size == default
    assert Source(path).read(range(1)).shape == (1, 3, *default[::-1])
    assert Source(path, size=(40, 20)).size == (40, 20)


def test_a_circle_is_one(tmp_path):
    rows, columns = np.mgrid[:72, :96]
    ring = np.where(
        (((columns - 48) * 4 / 3) ** 2 + (rows - 36) ** 2 < 26**2)[..., None], 230, 20
    ).repeat(3, 2)
    path = write(tmp_path / "video.mkv", [yuv(ring)], sample_aspect_ratio=Fraction(4, 3))
    disc = read_video(path).frames[0, 1] > 128
    assert disc.shape == (72, 128)
    assert np.ptp(np.nonzero(disc.any(0))) == pytest.approx(np.ptp(np.nonzero(disc.any(1))), abs=1)


def test_y4m_tells_its_pixels(tmp_path):
    frame = yuv(patches())
    path = tmp_path / "video.y4m"
    path.write_bytes(
        b"YUV4MPEG2 W96 H64 F30:1 Ip A4:3 C420jpeg\n"
        + (b"FRAME\n" + frame.to_ndarray().tobytes()) * 3
    )
    source = Source(path)
    assert (source.size, source.rate, source.count) == ((128, 64), 30, 3)


TURNS = {
    (1, 0, 0, 1): lambda picture: picture,
    (0, 1, -1, 0): lambda picture: np.rot90(picture, -1),
    (-1, 0, 0, -1): lambda picture: np.rot90(picture, 2),
    (0, -1, 1, 0): np.rot90,
    (-1, 0, 0, 1): lambda picture: picture[:, ::-1],
    (1, 0, 0, -1): lambda picture: picture[::-1],
    (0, 1, 1, 0): lambda picture: picture.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda picture: np.rot90(picture, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", TURNS)
def test_phones_turn_and_mirror_pictures(tmp_path, matrix):
    path = write(tmp_path / "video.mp4", [yuv(corners())] * 2, colorspace=1, color_range=1)
    path.write_bytes(media.with_matrix(path.read_bytes(), matrix))
    expected = TURNS[matrix](corners()).transpose(2, 0, 1)
    found = read_video(path).frames[0]
    assert found.shape == expected.shape
    assert psnr_db(found, expected) > 27  # chroma has half the resolution
    assert Source(path, size=(40, 30)).read(range(1)).shape == (1, 3, 30, 40)


def test_turned_pictures_have_their_pixels_turned(tmp_path):
    path = write(tmp_path / "video.mp4", [yuv(corners())], sample_aspect_ratio=Fraction(4, 3))
    path.write_bytes(media.with_matrix(path.read_bytes(), (0, 1, -1, 0)))
    assert Source(path).size == (64, 128)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_orientations(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "images").mkdir()
    image = tmp_path / "images" / f"1{suffix}"
    Image.fromarray(corners(60, 40)).save(image, exif=exif)
    with Image.open(image) as opened:
        expected = np.array(ImageOps.exif_transpose(opened).convert("RGB")).transpose(2, 0, 1)
    found = read_video(tmp_path / "images").frames[0]
    assert found.shape == expected.shape
    assert psnr_db(found, expected) > 27


def test_another_shape_in_mid_stream_gets_bars(tmp_path, caplog):
    parts = [(96, 64), (64, 96), (192, 128)]
    data = b"".join(
        recording(tmp_path, 36_000 * index, size=size) for index, size in enumerate(parts)
    )
    (tmp_path / "video.ts").write_bytes(data)
    source = Source(tmp_path / "video.ts", reading=Reading(background="white"))
    frames = source.read(range(30))
    assert frames.shape == (30, 3, 64, 96)
    bars = (frames[:, :, 32, :8] == 255).all((1, 2))
    assert (
        bars.tolist() == [False] * 10 + [True] * 10 + [False] * 10
    )  # the last has the first one's shape
    assert (
        f"pictures of {tmp_path / 'video.ts'} change from 96x64 to 64x96 at frame 10" in caplog.text
    )
    assert len(caplog.records) == 1


def test_other_pixels_in_mid_stream_get_bars(tmp_path):
    data = recording(tmp_path, 0, size=(96, 72), sample_aspect_ratio=Fraction(1))
    data += recording(tmp_path, 36_000, size=(96, 72), sample_aspect_ratio=Fraction(4, 3))
    (tmp_path / "video.ts").write_bytes(data)
    frames = read_video(tmp_path / "video.ts").frames
    assert frames.shape == (20, 3, 72, 96)
    assert (frames[12:, :, :8] < 3).all()
    assert (frames[12:, :, 20:50].mean((1, 2, 3)) > 5).all()


# ------------------------------------------------------------------ fields


def disc(time, width=384, height=288):
    rows, columns = np.mgrid[:height, :width]
    picture = np.full((height, width, 3), 50, np.uint8)
    picture[(columns - 90 - 12 * time) ** 2 + (rows - 150) ** 2 < 60**2] = (210, 70, 60)
    picture[(((rows + columns) // 5) % 2 == 0) & (rows < 60)] = (190, 200, 120)
    return picture


def woven(time):
    picture = disc(time)
    picture[1::2] = disc(time + 0.5)[1::2]
    return picture


@pytest.mark.parametrize("flag", ["", "tff=1:"])
@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_whole_pictures_stay_whole_whatever_the_file_says(tmp_path, flag, codec):
    options = {"x264-params": f"{flag}bf=0"} if codec == "libx264" else {}
    path = write(
        tmp_path / "video.mkv",
        [yuv(disc(time)) for time in range(6)],
        codec,
        options=options,
        colorspace=1,
    )
    source = Source(path, size=(192, 144))
    expected = write(
        tmp_path / "plain.mkv", [yuv(disc(time)) for time in range(6)], codec, colorspace=1
    )
    assert psnr_db(source.read(range(6)), Source(expected, size=(192, 144)).read(range(6))) > 50


@pytest.mark.parametrize("flag", ["", "tff=1:"])
def test_woven_fields_are_deinterlaced(tmp_path, flag):
    options = {"x264-params": f"{flag}bf=0"}
    path = write(
        tmp_path / "video.mp4",
        [yuv(woven(time)) for time in range(6)],
        options=options,
        colorspace=1,
    )
    plain = write(tmp_path / "plain.mp4", [yuv(disc(time)) for time in range(6)], colorspace=1)
    found, expected = (read_video(each, keep_size=True).frames for each in (path, plain))
    combed = np.stack([woven(time).transpose(2, 0, 1) for time in range(6)])
    assert found.shape == expected.shape
    for index in range(1, 6):
        assert psnr_db(found[index], expected[index]) > psnr_db(combed[index], expected[index]) + 5


@pytest.mark.parametrize("fields", ["tff", "bff"])
def test_the_order_of_fields_is_seen(fields):
    frames = []
    for time in range(5):
        first, second = disc(time), disc(time + 0.5)
        picture = (first if fields == "tff" else second).copy()
        picture[1::2] = (second if fields == "tff" else first)[1::2]
        frames.append(yuv(picture))
    assert field_order(frames) == fields
    out = out_of(frames)
    kept = slice(0, None, 2) if fields == "tff" else slice(1, None, 2)
    for frame, found in zip(frames[1:-1], out[1:-1], strict=True):
        before, after = (
            np.frombuffer(each.planes[0], np.uint8).reshape(288, -1) for each in (frame, found)
        )
        assert np.array_equal(before[kept], after[kept])
        assert not np.array_equal(before, after)


def test_noise_and_cuts_are_no_fields():
    random = np.random.default_rng(0)
    frames = [yuv(random.integers(0, 256, (64, 96, 3), np.uint8)) for _ in range(5)]
    assert out_of(frames) == frames


def out_of(frames):
    return [
        frame
        for frame, _ in deinterlaced(
            ((frame, None) for frame in frames), lambda: field_order(frames)
        )
    ]


def grey(picture):
    return yuv(np.dstack([picture] * 3))


def texture(height, width):
    random = np.random.default_rng(0)
    return np.kron(
        random.integers(16, 235, (height // 12 + 1, width // 12 + 1)), np.ones((12, 12))
    )[:height, :width]


def writing(offset, size):
    """Return lines of text that scroll."""
    image = Image.new("L", (384, 288), 20)
    for line in range(24):
        font = ImageFont.load_default(size)
        ImageDraw.Draw(image).text(
            (10, 2 * line * size - offset), f"{line} the quick brown fox", fill=230, font=font
        )
    return np.array(image)


@pytest.mark.parametrize("speed", [2, 6, 20, 40])
def test_pans_are_deinterlaced(speed):
    wide = texture(288, 900)

    def at(time):
        left = int(20 + speed * time)
        return wide[:, left : left + 384]

    frames = []
    for time in range(6):
        picture = at(time).copy()
        picture[1::2] = at(time + 0.5)[1::2]
        frames.append(grey(picture))
    assert not set(map(id, out_of(frames))) & set(map(id, frames))
    whole = [grey(at(time)) for time in range(6)]
    assert out_of(whole) == whole


@pytest.mark.parametrize("size", [12, 22])
@pytest.mark.parametrize("speed", [1, 2, 3])
def test_rolling_titles_are_no_fields(speed, size):
    frames = [grey(writing(speed * time, size)) for time in range(6)]
    assert out_of(frames) == frames


def test_a_ticker_is_enough():
    image = Image.new("L", (2000, 30), 10)
    ImageDraw.Draw(image).text(
        (5, 2),
        "moving along the bottom of the picture " * 5,
        fill=240,
        font=ImageFont.load_default(20),
    )
    strip, frames = np.array(image), []
    for time in range(6):
        picture = texture(288, 384)
        for field in (0, 1):
            left = int(20 + 6 * (time + field / 2))
            picture[250 + field : 280 : 2] = strip[field::2, left : left + 384]
        frames.append(grey(picture))
    assert not set(map(id, out_of(frames))) & set(map(id, frames))


def test_images_have_no_fields(tmp_path):
    stills = [
        Image.fromarray(picture.transpose(1, 2, 0)).convert("1")
        for picture in moving_square(4, 48, 64)
    ]
    (tmp_path / "images").mkdir()
    for index, still in enumerate(stills):
        still.save(tmp_path / "images" / f"{index}.png")
    expected = np.stack([np.array(still.convert("L")) for still in stills])
    assert np.array_equal(read_video(tmp_path / "images").frames[:, 0], expected)


def test_runs_of_woven_pictures_are_those_of_the_whole(tmp_path):
    frames = [yuv(woven(time % 20)) for time in range(100)]
    path = write(tmp_path / "video.mp4", frames, options={"g": "10", "x264-params": "tff=1:bf=0"})
    whole = Source(path, size=(96, 72)).read(range(100))
    source = Source(path, size=(96, 72))
    for start in (90, 3, 70, 0):
        assert np.array_equal(source.read(range(start, start + 5)), whole[start : start + 5])


# ------------------------------------------------------------------ times


@pytest.mark.parametrize("second", [0, 3600 * 90_000])
def test_recordings_behind_each_other_are_whole(tmp_path, second):
    (tmp_path / "both.ts").write_bytes(recording(tmp_path, 0) + recording(tmp_path, second))
    source = Source(tmp_path / "both.ts")
    assert (source.rate, source.count) == (25, 20)
    levels = source.read(range(20)).mean((1, 2, 3))
    assert np.abs(levels - np.tile(5.0 * np.arange(10), 2)).max() < 4
    assert any(
        note.startswith("times jump by") and note.endswith("s at 0.40 s: joined there")
        for note in source.notes()
    )


def test_a_recording_behind_a_later_one(tmp_path):
    (tmp_path / "both.ts").write_bytes(recording(tmp_path, 3600 * 90_000) + recording(tmp_path, 0))
    assert Source(tmp_path / "both.ts").count == 20


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_far_beyond_the_packets_are_one_line(tmp_path, suffix):
    times = [*range(0, 400, 40), *range(3_600_000, 3_600_400, 40)]
    path = write_jpegs(tmp_path / f"video{suffix}", numbered(20), times)
    done = run(f"encoder fit {path.name} -o out.nerv --epochs 1", tmp_path)
    assert done.returncode == 2
    assert (
        "20 pictures make 90010 frames at 25 per second: 3599.6 s lie between the pictures 9 and 10"
        in done.stderr
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize(("rate", "screen"), [(24, 60), (25, 60), (24, 50)])
def test_no_picture_of_a_screen_recording_is_lost(tmp_path, rate, screen, suffix):
    times = [round(1000 * -(-index * screen // rate) / screen) for index in range(48)]
    source = Source(write_jpegs(tmp_path / f"video{suffix}", numbered(48), times, rate=rate))
    assert (source.rate, source.count) == (rate, 48)
    assert np.abs(source.read(range(48)).mean((1, 2, 3)) - 5 * np.arange(48)).max() < 2


def test_pictures_of_the_same_time_are_all_there(tmp_path):
    path = write_jpegs(tmp_path / "video.mkv", numbered(20), [0, 40, 80, 80, *range(120, 760, 40)])
    source = Source(path)
    assert source.rate == 25
    levels = source.read(range(source.count)).mean((1, 2, 3))
    assert {round(level / 5) for level in levels} == set(range(20))


def test_left_out_and_repeated_pictures_are_told(tmp_path):
    times = [*range(0, 500, 10), *range(500, 40_500, 40)]
    path = write_jpegs(tmp_path / "video.mkv", numbered(1050, step=0), times)
    assert "37 of 1050 pictures are left out: others come at their time" in Source(path).notes()
    path = write_jpegs(tmp_path / "gap.mkv", numbered(6), [0, 40, 80, 200, 240, 280])
    assert "2 frames repeat the picture before them" in Source(path).notes()


def test_one_picture_is_one_frame(tmp_path):
    frame = yuv(patches()).reformat(format="rgb8")
    path = write(tmp_path / "one.gif", [frame], "gif", rate=10)
    source = Source(path)
    assert (source.rate, source.count) == (10, 1)


def test_hidden_frames_of_vp8_are_none(tmp_path):
    options = {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "60k", "arnr-maxframes": "7"}
    frames = [yuv(picture.transpose(1, 2, 0)) for picture in moving_square(60, 64, 96)]
    for suffix in (".webm", ".ivf"):
        source = Source(write(tmp_path / f"video{suffix}", frames, "libvpx", options=options))
        assert (source.rate, source.count, len(source.read(range(60)))) == (25, 60, 60)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("video.ts", "libx264"), ("video.mpg", "mpeg2video"), ("video.vob", "mpeg2video")],
)
@pytest.mark.parametrize("reordered", [2, 0])
def test_broadcasts_keep_every_picture(tmp_path, name, codec, reordered):
    pictures = [yuv(picture.transpose(1, 2, 0)) for picture in moving_square(100, 64, 96)]
    source = Source(
        write(tmp_path / name, pictures, codec, options={"g": "15", "bf": str(reordered)})
    )
    assert (source.rate, source.count, source.timeline.jumps) == (25, 100, ())


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mkv", "libx264"), (".webm", "libvpx"), (".flv", "libx264"), (".ivf", "libvpx")],
)
def test_joined_files_are_read_or_told(tmp_path, suffix, codec):
    options = {"bf": "0"} if codec == "libx264" else {"b": "300k", "lag-in-frames": "0"}
    part = write(
        tmp_path / f"part{suffix}",
        [yuv(picture) for picture in numbered(10)],
        codec,
        options=options,
    ).read_bytes()
    (tmp_path / f"both{suffix}").write_bytes(part + part)
    source = Source(tmp_path / f"both{suffix}")
    levels = [round(level / 5) for level in source.read(range(source.count)).mean((1, 2, 3))]
    if source.count == 20:
        assert levels == [*range(10), *range(10)]
    else:
        assert levels == list(range(10))
        assert any(
            f"of {2 * len(part)} bytes are read: behind them another file begins" in note
            for note in source.notes()
        )


# ------------------------------------------------------------------ tracks


@pytest.fixture
def two_tracks(tmp_path):
    def make(name, *, default):
        tracks = [
            [yuv(picture) for picture in numbered(count, *size)]
            for count, size in ((3, (32, 20)), (12, (128, 72)))
        ]
        return media.write_tracks(tmp_path / name, list(zip(tracks, default, strict=True)))

    return make


@pytest.mark.parametrize(
    ("name", "default", "size"),
    [
        ("video.mkv", (False, True), (128, 72)),
        ("video.mkv", (True, False), (32, 20)),
        ("video.mkv", (True, True), (128, 72)),
        ("video.mp4", (False, True), (128, 72)),
    ],
)
def test_the_default_track_counts_and_of_several_the_largest(two_tracks, name, default, size):
    path = two_tracks(name, default=default)
    assert Source(path).size == size
    assert Source(path, reading=Reading(track=0)).size == (32, 20)
    assert Source(path, reading=Reading(track=1)).count == 12
    with pytest.raises(
        SourceError, match=r"no video track 2 in .*, there are: 0: h264 of 32x20; 1: h264 of 128x72"
    ):
        Source(path, reading=Reading(track=2))


def test_a_track_is_named_to_every_command(two_tracks, tmp_path):
    path = two_tracks("video.mkv", default=(True, False))
    assert (
        run(
            f"encoder fit {path.name} -o out.nerv --epochs 1 --track 1 --resize 32x18", tmp_path
        ).returncode
        == 0
    )
    header = Clip.read(tmp_path / "out.nerv").header
    assert (header.frames, "--track 1" in header.settings) == (12, True)
    assert run(f"encoder evaluate out.nerv {path.name} --track 1 --json", tmp_path).returncode == 0
    wrong = run(f"encoder evaluate out.nerv {path.name} --json", tmp_path)
    assert (wrong.returncode, wrong.stderr) == (2, "error: the clip has 12 frames, the source 3\n")
    assert (
        run(
            f"export verify out.nerv {path.name} --track 1 --engine onnxruntime-cpu", tmp_path
        ).returncode
        == 0
    )


@pytest.mark.parametrize("name", ["video.mkv", "video.mov", "video.nut"])
def test_a_single_picture_is_not_the_film(tmp_path, name):
    still, film = [yuv(patches(256, 256))], [yuv(picture) for picture in numbered(10)]
    path = media.write_tracks(tmp_path / name, [(still, True), (film, False)])
    assert (Source(path).size, Source(path).count) == ((32, 32), 10)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".m4a", "aac"), (".flac", "flac"), (".wav", "pcm_s16le"), (".mp3", "libmp3lame")],
)
def test_sound_is_no_video(tmp_path, suffix, codec):
    path = media.write_sound(tmp_path / f"sound{suffix}", codec)
    with pytest.raises(SourceError, match=r"not a video: .*sound"):
        Source(path)


def test_a_cover_is_no_video(tmp_path):
    song = media.write_sound(tmp_path / "song.m4a")
    song.write_bytes(media.with_cover(song.read_bytes(), media.jpeg(patches())))
    done = run("encoder fit song.m4a", tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: not a video: song.m4a, whose only picture is a cover\n",
    )
    film = write(tmp_path / "film.mp4", [yuv(picture) for picture in numbered(10)])
    film.write_bytes(media.with_cover(film.read_bytes(), media.jpeg(patches(200, 200))))
    assert (Source(film).size, Source(film).count) == ((32, 32), 10)


# ------------------------------------------------------------------ folders


def test_what_else_lies_in_a_folder_is_no_frame(tmp_path, caplog):
    folder = tmp_path / "images"
    frames = moving_square(4, 48, 64)
    write_images(folder, frames, name="img{}.png")
    for index in range(4):
        (folder / f"._img{index}.png").write_bytes(bytes.fromhex("0005160700020000") + bytes(500))
    (folder / ".DS_Store").write_bytes(bytes(10))
    (folder / "img9.png").mkdir()
    (folder / "img8.png").symlink_to("nowhere.png")
    assert np.array_equal(read_video(folder).frames, frames)
    assert "img8.png leads nowhere" in caplog.text


def test_names_of_the_same_number_have_an_order(tmp_path):
    write_images(tmp_path / "images", moving_square(4, 48, 64), name="{}.png")
    for old, new in (("0", "2"), ("1", "02"), ("2", "1"), ("3", "01")):
        (tmp_path / "images" / f"{old}.png").rename(tmp_path / "images" / f"x{new}.png")
    source = Source(tmp_path / "images")
    expected = moving_square(4, 48, 64)[[3, 2, 1, 0]]
    assert np.array_equal(source.read(range(4)), expected)


def test_a_folder_of_folders_says_so(tmp_path):
    (tmp_path / "clip" / "480p").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"no images in folder .*, but folders: 480p"):
        Source(tmp_path / "clip")


@pytest.mark.parametrize(
    "suffix", [".ppm", ".gif", ".tga", ".bmp", ".TIF", ".jp2", ".avif", ".webp"]
)
def test_kinds_of_images(tmp_path, suffix):
    (tmp_path / "images").mkdir()
    for index in range(3):
        how = {"lossless": True} if suffix == ".webp" else {}
        Image.fromarray(patches(64, 48)).save(tmp_path / "images" / f"{index}{suffix}", **how)
    frames = read_video(tmp_path / "images").frames
    assert frames.shape == (3, 3, 48, 64)
    assert np.abs(media.flat(frames[0]) - media.PALETTE).max() < (12 if suffix == ".avif" else 3)


@pytest.mark.parametrize("content", [b"", b"half"])
def test_a_broken_image_is_named(tmp_path, content):
    write_images(tmp_path / "images", moving_square(3, 48, 64), name="{}.png")
    image = tmp_path / "images" / "1.png"
    image.write_bytes(image.read_bytes()[: len(image.read_bytes()) // 2] if content else b"")
    with pytest.raises(SourceError, match=r"images/1\.png"):
        read_video(tmp_path / "images")


# ------------------------------------------------------------------ pipes, and what is told


def y4m(frames):
    planes = b"".join(
        b"FRAME\n" + yuv(picture, matrix=5).to_ndarray().tobytes() for picture in frames
    )
    return b"YUV4MPEG2 W32 H32 F25:1 Ip A1:1 C420jpeg\n" + planes


def test_a_pipe_is_fitted_as_a_file_is(tmp_path):
    (tmp_path / "file.y4m").write_bytes(y4m(numbered(4)))
    os.mkfifo(tmp_path / "pipe.y4m")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe.y4m").write_bytes(y4m(numbered(4))))
    writer.start()
    assert run("encoder fit pipe.y4m -o pipe.nerv --epochs 2", tmp_path).returncode == 0
    writer.join()
    assert run("encoder fit file.y4m -o file.nerv --epochs 2", tmp_path).returncode == 0
    assert (tmp_path / "pipe.nerv").read_bytes() == (tmp_path / "file.nerv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "file.nerv",
        "file.y4m",
        "pipe.nerv",
        "pipe.y4m",
    ]
    assert (tmp_path / "pipe.y4m").is_fifo()


def test_standard_input_is_fitted(tmp_path, monkeypatch):
    (tmp_path / "in.y4m").write_bytes(y4m(numbered(4)))
    with (tmp_path / "in.y4m").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert run("encoder fit - -o out.nerv --epochs 1", tmp_path).returncode == 0
    assert Clip.read(tmp_path / "out.nerv").header.frames == 4


@pytest.mark.parametrize(
    "command",
    ["encoder fit - -o out.nerv --epochs 1", "encoder info -", "encoder evaluate tiny.nerv -"],
)
def test_closed_standard_input(tiny_file, monkeypatch, command):
    monkeypatch.setattr("sys.stdin", None)
    done = run(command, tiny_file.parent)
    assert (done.returncode, done.stderr) == (2, "error: standard input is closed\n")


@pytest.mark.parametrize(
    "command",
    [
        "encoder evaluate tiny.nerv {} --json",
        "export verify tiny.nerv {} --engine onnxruntime-cpu --json",
    ],
)
def test_other_commands_read_pipes(tiny_file, command):
    folder = tiny_file.parent
    (folder / "file.y4m").write_bytes(y4m(numbered(6)))
    os.mkfifo(folder / "pipe.y4m")
    writer = threading.Thread(
        target=lambda: (folder / "pipe.y4m").write_bytes((folder / "file.y4m").read_bytes())
    )
    writer.start()
    found = run(command.format("pipe.y4m"), folder)
    writer.join()
    assert (found.returncode, found.stdout) == (0, run(command.format("file.y4m"), folder).stdout)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("encoder fit - --epochs 1", "name the clip that is made of standard input: -o CLIP"),
        ("encoder fit - -o out.nerv --epochs 1", "nothing came through standard input"),
    ],
)
def test_what_is_wrong_with_standard_input(tmp_path, monkeypatch, command, message):
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        done = run(command, tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_fit_says_what_it_assumed(tmp_path):
    write(
        tmp_path / "video.mp4", [yuv(patches(), matrix=5)] * 2, sample_aspect_ratio=Fraction(4, 3)
    )
    done = run("encoder fit video.mp4 --epochs 1", tmp_path)
    assert "colours: BT.601 (assumed: the file does not say)" in done.stderr
    assert "pixels are not square: 96x64 is shown as 128x64" in done.stderr
    told = run("encoder info video.nerv --json", tmp_path)
    assert json.loads(told.stdout)["settings"].endswith("(BT.601 assumed)")


def test_info_says_how_a_video_would_be_read(tmp_path):
    path = write(
        tmp_path / "video.mp4",
        [yuv(corners())] * 3,
        sample_aspect_ratio=Fraction(4, 3),
        colorspace=1,
    )
    path.write_bytes(media.with_matrix(path.read_bytes(), (0, 1, 1, 0)))
    facts = json.loads(run("encoder info video.mp4 --json", tmp_path).stdout)
    assert facts == {
        "reads": "h264 of 96x64, track 0 of 1",
        "width": 64,
        "height": 128,
        "stored": "96x64",
        "pixel_aspect": "4/3",
        "turned": "transposed",
        "frames": 3,
        "fps": 25.0,
        "pictures": 3,
        "left_out": 0,
        "repeated": 0,
        "jumps": "",
        "colours": "BT.709",
        "transparent": False,
    }
    assert (
        run("encoder info nowhere.mp4", tmp_path).stderr
        == "error: no such file or folder: nowhere.mp4\n"
    )


@pytest.mark.parametrize(
    ("name", "size", "rate", "count"),
    [
        ("screen.mkv", (48, 32), 24, 8),
        pytest.param("dvd.mkv", (64, 32), 25, 6, marks=pytest.mark.soak),
        pytest.param("phone.mp4", (32, 48), 25, 6, marks=pytest.mark.soak),
    ],
)
def test_what_is_fitted_has_the_shape_the_rate_and_the_frames(tmp_path, name, size, rate, count):
    """The whole way of some of the above: into a clip, and out of it."""
    if name == "screen.mkv":
        times = [round(1000 * -(-index * 60 // 24) / 60) for index in range(8)]
        write_jpegs(tmp_path / name, numbered(8, 48, 32, 25), times, rate=24)
    else:
        aspect = Fraction(4, 3) if name == "dvd.mkv" else Fraction(1)
        path = write(
            tmp_path / name,
            [yuv(picture) for picture in numbered(6, 48, 32, 40)],
            sample_aspect_ratio=aspect,
            colorspace=1,
        )
        if name == "phone.mp4":
            path.write_bytes(media.with_matrix(path.read_bytes(), (0, 1, -1, 0)))
    assert run(f"encoder fit {name} -o out.nerv --epochs 2", tmp_path).returncode == 0
    header = Clip.read(tmp_path / "out.nerv").header
    assert ((header.width, header.height), header.rate, header.frames) == (size, rate, count)
    assert run("player decode out.nerv out.mkv", tmp_path).returncode == 0
    with av.open(tmp_path / "out.mkv") as container:
        frames = list(container.decode(video=0))
        assert (len(frames), (frames[0].width, frames[0].height)) == (count, size)
        assert container.streams.video[0].average_rate == rate
