"""Colours, from what a file says of them to pixels."""

from fractions import Fraction

import av
import numpy as np
import pytest
from helpers import write_images
from media import PALETTE, flat, jpeg, patches, write, yuv
from PIL import Image

from encoder.common.errors import SourceError
from encoder.media import hdr
from encoder.media.reading import DEFAULT_READING, Reading
from encoder.media.source import Source, read_video

EXPECTED = PALETTE.astype(np.float64)
TAGS = {"color_primaries": 1, "color_trc": 1}


def error(path, reading=DEFAULT_READING):
    """Return the largest error of the colours of patches in a video."""
    frame = read_video(path, keep_size=True, reading=reading).frames[0]
    return np.abs(flat(frame) - EXPECTED).max()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 4, 5, 6, 7])
def test_matrices_and_ranges(tmp_path, matrix, full):
    frame = yuv(patches(), matrix=matrix, full=full)
    assert (
        error(
            write(
                tmp_path / "video.mp4",
                [frame] * 2,
                colorspace=matrix,
                color_range=2 if full else 1,
                **TAGS,
            )
        )
        <= 3
    )


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("halved", [(1, 1), (2, 1), (2, 2)])
def test_planes_and_depths(tmp_path, halved, bits):
    frame = yuv(patches(), halved=halved, bits=bits)
    assert error(write(tmp_path / "video.mkv", [frame] * 2, "ffv1", colorspace=1)) <= 3


@pytest.mark.parametrize(
    ("size", "matrix", "name"),
    [
        ((96, 64), 5, "BT.601"),
        ((1278, 718), 5, "BT.601"),
        ((1280, 720), 1, "BT.709"),
        ((1280, 544), 1, "BT.709"),
        ((480, 854), 1, "BT.709"),
    ],
)
def test_untagged_colours_are_those_of_their_size(tmp_path, size, matrix, name):
    path = write(tmp_path / "video.mp4", [yuv(patches(*size), matrix=matrix)])
    assert error(path) <= 3
    source = Source(path)
    assert str(source.colours) == f"{name} (assumed: the file does not say)"
    assert source.assumption == f" ({name} assumed)"


def test_a_matrix_that_is_named_holds(tmp_path):
    path = write(tmp_path / "video.mp4", [yuv(patches(1280, 720), matrix=5)])
    assert error(path) > 10
    assert error(path, Reading(matrix="bt601")) <= 3


def test_an_unknown_matrix_is_named(tmp_path):
    path = write(tmp_path / "video.mp4", [yuv(patches())], colorspace=8)
    with pytest.raises(
        SourceError,
        match=r"colours of the matrix 8 .* cannot be read: name another one with --matrix",
    ):
        Source(path)
    assert read_video(path, reading=Reading(matrix="bt709")).frames.shape == (1, 3, 64, 96)


def test_pictures_of_cameras_are_full_range_bt601(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(jpeg(patches(960, 720)))
    assert error(tmp_path / "images") <= 4


# ------------------------------------------------------------------ high dynamic range and wide gamuts

WIDE = np.linalg.inv(
    np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
)
"""From BT.709's primaries to BT.2020's (BT.2087, annex 2)."""


def display_light(picture, *, wide=True):
    """Return the light of an SDR picture upon a display of the reference white, in cd/m2."""
    light = hdr.WHITE * np.power(picture / 255, 2.4)
    return light @ WIDE.T if wide else light


def pq(light):
    power = (light / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg(light):
    share = np.maximum(light / 1000, 1e-9)
    scene = share * (share @ [0.2627, 0.678, 0.0593])[..., None] ** (1 / 1.2 - 1)
    return np.where(
        scene <= 1 / 12,
        np.sqrt(3 * scene),
        0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073,
    )


def sdr(light):
    return np.power(np.clip(light / hdr.WHITE, 0, None), 1 / 2.4)


@pytest.mark.parametrize(
    ("curve", "transfer", "name"),
    [(pq, 16, "PQ"), (hlg, 18, "HLG"), (sdr, 14, "SDR"), (sdr, 1, "SDR")],
)
def test_wide_pictures_come_out_as_the_sdr_ones_they_were_made_of(tmp_path, curve, transfer, name):
    frame = yuv(255 * curve(display_light(patches())), matrix=9, bits=10)
    told = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": transfer}
    path = write(tmp_path / "video.mkv", [frame] * 3, "libx265", **told)
    assert error(path) <= 4
    assert str(Source(path).colours) == f"BT.2020, {name} BT.2020 mapped to BT.709 SDR (BT.2390)"


def test_display_p3_is_converted(tmp_path):
    to_p3 = np.linalg.inv(
        [[1.2249, -0.2249, 0.0], [-0.0421, 1.0421, 0.0], [-0.0196, -0.0786, 1.0983]]
    )
    frame = yuv(255 * sdr(display_light(patches(), wide=False) @ to_p3.T), bits=10)
    told = {"colorspace": 1, "color_range": 1, "color_primaries": 12, "color_trc": 13}
    assert error(write(tmp_path / "video.mkv", [frame] * 2, "libx265", **told)) <= 3


@pytest.mark.parametrize(("curve", "transfer"), [(pq, 16), (hlg, 18)])
def test_highlights_are_rolled_off_and_keep_their_order(tmp_path, curve, transfer):
    light = np.repeat(np.geomspace(1, 1000, 12), 8)[None, :, None].repeat(64, 0).repeat(3, 2)
    frame = yuv(255 * curve(light), matrix=9, bits=10)
    told = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": transfer}
    frames = read_video(write(tmp_path / "video.mkv", [frame] * 2, "libx265", **told)).frames
    steps = frames[0, 0, 32, 4::8].astype(int)
    assert (np.diff(steps) > 0).all()
    assert steps[-1] >= 253
    dark = 255 * (light[0, 4:40:8, 0] / hdr.WHITE) ** (1 / 2.4)
    assert np.abs(steps[: len(dark)] - dark).max() <= 2  # what is no highlight stays as it is


def test_the_brightest_picture_counts_wherever_it_is(tmp_path):
    def grey(light):
        return yuv(255 * pq(np.full((64, 96, 3), light)), matrix=9, bits=10)

    told = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": 16}
    path = write(tmp_path / "video.mkv", [grey(150.0)] * 20 + [grey(900.0)] * 5, "libx265", **told)
    source = Source(path)
    first, last = source.read(range(1)), source.read(range(24, 25))
    assert last.min() >= 253
    assert first.mean() < 255 * (150 / hdr.WHITE) ** (1 / 2.4) - 3
    assert np.array_equal(Source(path).read(range(24, 25)), last)


def test_primaries_map_white_to_white():
    for primaries in hdr.PRIMARIES:
        white = hdr.to_sdr(np.full((1, 1, 3), hdr.WHITE), primaries, hdr.WHITE)
        assert white.tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(("curve", "transfer"), [(pq, 16), (hlg, 18)])
def test_what_is_hdr_and_says_no_more_is_bt2020(tmp_path, curve, transfer):
    frame = yuv(255 * curve(display_light(patches())), matrix=9, bits=10)
    path = write(tmp_path / "video.mkv", [frame] * 3, "libx265", color_range=1, color_trc=transfer)
    assert error(path) <= 4
    assert Source(path).assumption == " (BT.2020 assumed)"
    assert Source(path, reading=Reading(matrix="bt2020")).assumption == ""
    assert Source(path, reading=Reading(matrix="bt709")).assumption == " (BT.709 assumed)"


@pytest.mark.parametrize("name", ["raw.hevc", "joined.ts", "sdr_first.ts"])
def test_the_brightest_picture_counts_where_there_is_no_seeking(tmp_path, name):
    def grey(light):
        return yuv(255 * pq(np.full((64, 96, 3), light)), matrix=9, bits=10)

    told = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": 16}
    params = {"x265-params": "lossless=1:log-level=none:repeat-headers=1:bframes=0"}

    def part(frames, **said):
        how = (
            {}
            if name == "raw.hevc"
            else {"unit": Fraction(1, 90000), "times": [3600 * index for index in range(10)]}
        )
        return write(
            tmp_path / f"part{name[-5:]}", frames, "libx265", options=params, **how, **said
        ).read_bytes()

    first = (
        {**told, "color_trc": 1, "color_primaries": 1, "colorspace": 1}
        if name == "sdr_first.ts"
        else told
    )
    (tmp_path / name).write_bytes(
        part([grey(100.0)] * 10, **first) + part([*[grey(800.0)] * 9, grey(300.0)], **told)
    )
    frames = read_video(tmp_path / name).frames
    assert len(frames) == 20
    assert frames[18].min() >= 250
    assert 235 < frames[19].max() < 250  # a lower peak would clip it


def test_yuv_that_is_told_to_be_rgb_counts_as_untagged(tmp_path):
    path = write(tmp_path / "video.mkv", [yuv(patches(), matrix=5)] * 2, "ffv1", colorspace=0)
    assert error(path) <= 3


def test_transparent_avif_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    alpha = np.full((64, 96), 128, np.uint8)
    Image.fromarray(np.dstack([patches(), alpha])).save(tmp_path / "images" / "1.avif")
    with pytest.raises(SourceError, match="transparent AVIF cannot be read"):
        Source(tmp_path / "images")


def test_roll_off_has_the_values_of_the_standard():
    """BT.2390's curve for 1000 cd/m2 on 203: below the knee nothing changes, the peak becomes white."""
    found = hdr.roll_off(np.array([10, 90, 1000], np.float32), 1000.0)
    assert np.allclose(found, [10, 90, hdr.WHITE], rtol=2e-3)


# ------------------------------------------------------------------ alpha


@pytest.mark.parametrize(("background", "behind"), [("black", 0), ("white", 255)])
@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_transparent_images_are_put_upon_the_background(tmp_path, kind, background, behind):
    picture = patches(64, 48)
    alpha = np.repeat(np.repeat(np.array([[0, 64, 128, 255]], np.uint8), 16, 1), 48, 0)
    if kind == "P":
        image = Image.fromarray(picture).convert("P", palette=Image.Palette.ADAPTIVE, colors=32)
        picture = np.array(image.convert("RGB"))
        index = image.getpixel((3, 3))
        alpha = np.where(np.array(image) == index, 0, 255).astype(np.uint8)
        how = {"transparency": index}
    else:
        grey = np.array(Image.fromarray(picture).convert("L"))
        image = Image.fromarray(np.dstack([grey if kind == "LA" else picture, alpha]))
        picture, how = (np.dstack([grey] * 3) if kind == "LA" else picture), {}
    (tmp_path / "images").mkdir()
    image.save(tmp_path / "images" / "1.png", **how)
    source = Source(tmp_path / "images", reading=Reading(background=background))
    share = alpha[..., None] / 255
    expected = picture * share + behind * (1 - share)
    assert np.abs(source.read(range(1))[0].transpose(1, 2, 0) - expected).max() <= 1
    assert f"transparent pictures are put upon {background} (--background)" in source.notes()


def test_hidden_colours_do_not_spread(tmp_path):
    """What is wholly transparent counts for nothing when the picture is made smaller."""
    picture = np.zeros((480, 640, 4), np.uint8)
    picture[..., 0] = 255
    picture[:, 320:] = (0, 0, 255, 255)
    (tmp_path / "images").mkdir()
    Image.fromarray(picture).save(tmp_path / "images" / "1.png")
    assert read_video(tmp_path / "images").frames[0, 0].max() <= 1


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparent_webm(tmp_path, codec):
    rgba = np.dstack([patches(), np.full((64, 96), 128, np.uint8)])
    frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="yuva420p")
    options = {"crf": "4", "b": "2M", "auto-alt-ref": "0"}
    path = write(tmp_path / "video.webm", [frame] * 3, codec, options=options)
    assert np.abs(flat(read_video(path).frames[0]) - EXPECTED / 2).max() < 6
    # As other programs spell it.
    path.write_bytes(path.read_bytes().replace(b"alpha_mode", b"ALPHA_MODE"))
    assert np.abs(flat(read_video(path).frames[0]) - EXPECTED / 2).max() < 6


def test_animated_webp_is_named(tmp_path):
    stills = [Image.fromarray(np.roll(patches(), shift, 1)) for shift in range(3)]
    stills[0].save(tmp_path / "picture.webp", save_all=True, append_images=stills[1:])
    with pytest.raises(SourceError, match="animated WebP cannot be read"):
        Source(tmp_path / "picture.webp")


def test_images_are_read_as_they_are(tmp_path):
    write_images(tmp_path / "images", [patches().transpose(2, 0, 1)] * 2)
    assert error(tmp_path / "images") == 0
