from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from helpers import moving_square

from encoder.common.errors import SettingsError
from encoder.compare.anchors import CODECS, decode, encode, find_codec
from encoder.compare.bd_rate import bd_rate
from encoder.media.metrics import psnr_db
from encoder.media.video import Video


@pytest.mark.parametrize("size", [(64, 96), (65, 97)])
@pytest.mark.parametrize("name", CODECS)
def test_decoded_frames_are_near_the_source(name, size):
    video = Video(moving_square(8, *size), Fraction(25))
    codec = CODECS[name]
    sizes, qualities = [], []
    for factor in codec.rates(2):
        data = encode(video, codec, factor)
        frames = list(decode(data, codec, height=size[0], width=size[1]))
        assert len(frames) == 8
        sizes.append(len(data))
        qualities.append(
            np.mean([psnr_db(a, b) for a, b in zip(frames, video.frames, strict=True)])
        )
    assert sizes[0] > sizes[1]
    assert qualities[0] > max(qualities[1], 27)


def test_files_hold_no_notes_of_their_encoder():
    video = Video(moving_square(4, 64, 96), Fraction(25))
    for name in ("x264", "x265"):
        data = encode(video, CODECS[name], 30)
        assert b"http" not in data
        assert name.encode() not in data


@pytest.mark.parametrize("codec", [replace(CODECS["x264"], library="libnothing"), CODECS["svtav1"]])
def test_codec_that_is_not_there_or_refuses_the_video(codec):
    video = Video(moving_square(2, 2, 2), Fraction(25))
    with pytest.raises(SettingsError, match=f"{codec.title} cannot encode this video here"):
        encode(video, codec, 30)


def test_rates_reach_from_end_to_end():
    assert CODECS["x264"].rates(5) == [21, 24, 27, 30, 33]
    assert CODECS["svtav1"].rates(2) == [32, 60]


def test_unknown_codec_lists_the_known_ones():
    with pytest.raises(SettingsError, match="unknown codec 'vp9', known are: x264, x265, svtav1"):
        find_codec("vp9")


CURVE = [(1000.0, 30.0), (2000.0, 33.0), (4000.0, 36.0), (8000.0, 38.0)]


def test_bd_rate_of_half_the_bytes():
    half = [(rate / 2, quality) for rate, quality in CURVE]
    assert bd_rate(CURVE, half) == pytest.approx(-50)
    assert bd_rate(half, CURVE[::-1]) == pytest.approx(100)


@pytest.mark.parametrize("worse", [(9000.0, 29.0), (3000.0, 32.0), (4000.0, 36.0)])
def test_bd_rate_leaves_out_what_a_smaller_file_is_as_good_as(worse):
    assert bd_rate([*CURVE, worse], CURVE) == pytest.approx(0)


def test_bd_rate_needs_a_common_range_and_points():
    for higher, is_compared in ((20, False), (7, False), (4, True)):
        far = [(rate, quality + higher) for rate, quality in CURVE]
        assert np.isnan(bd_rate(CURVE, far)) != is_compared
    assert np.isnan(bd_rate(CURVE, CURVE[:2]))
