"""Pictures on their way into video encoders, and out of decoders, in sizes of every kind."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from playing import planes_of

from encoder.media.metrics import psnr_db
from player.playback.thumbnail import jpeg
from player.rtc.i420 import i420_frame
from player.rtc.video_encoder import VideoEncoder

COMMON = [
    (160, 90),
    (480, 270),
    (372, 154),
    (330, 174),
    (340, 170),
    (854, 480),
    (1280, 720),
    (1920, 1080),
]
SMALL = [(64, height) for height in range(2, 68, 2)] + [(width, 34) for width in range(2, 68, 2)]
DECODERS = {"H264": "h264", "VP8": "vp8"}


def split(picture):
    """Return the three planes of an I420 picture."""
    height, width = picture.shape[0] * 2 // 3, picture.shape[1]
    luma, chroma = np.split(picture.reshape(-1), [height * width])
    return [luma.reshape(height, width), *chroma.reshape(2, height // 2, width // 2)]


def gradient(width, height):
    """Return an I420 picture whose planes are unlike each other and unlike themselves upside down."""
    rows, columns = np.mgrid[:height, :width]
    luma = 50 + 90 * columns // width + 60 * rows // height
    blue, red = 60 + 80 * rows[::2, ::2] // height, 200 - 90 * columns[::2, ::2] // width
    flat = np.concatenate([plane.reshape(-1) for plane in (luma, blue, red)])
    return flat.astype(np.uint8).reshape(height * 3 // 2, width)


@pytest.mark.parametrize(("width", "height"), SMALL + COMMON)
def test_encoders_are_given_each_plane_as_it_is(width, height):
    picture = np.random.default_rng(0).integers(0, 256, (height * 3 // 2, width), np.uint8)
    frame = i420_frame(picture)
    assert (frame.width, frame.height, frame.format.name) == (width, height, "yuv420p")
    for found, expected in zip(planes_of(frame), split(picture), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("codec", ["H264", "VP8"])
@pytest.mark.parametrize(("width", "height"), [*SMALL[:33], (2, 34), (6, 34), *COMMON[:-2]])
def test_what_is_decoded_is_what_was_encoded(codec, width, height):
    picture = gradient(width, height)
    encoder, decoder = (
        VideoEncoder(codec, width, height, Fraction(25)),
        av.CodecContext.create(DECODERS[codec], "r"),
    )
    frames = []
    for index in range(3):
        for packet in encoder.encode(picture, 3600 * index, keyframe=index == 0):
            frames += decoder.decode(packet)
    frames += decoder.decode(None)
    assert (frames[-1].width, frames[-1].height) == (width, height)
    assert min(map(psnr_db, planes_of(frames[-1]), split(picture))) > 35


def test_picture_of_another_size_is_refused():
    encoder = VideoEncoder("H264", 64, 32, Fraction(25))
    with pytest.raises(ValueError, match="picture of 64x34, the encoder is for 64x32"):
        encoder.encode(gradient(64, 34), 0)


@pytest.mark.parametrize(("width", "height"), [(64, 2), (2, 64), (160, 90), (640, 362)])
def test_thumbnails_have_the_colours(width, height):
    with av.open(io.BytesIO(jpeg(gradient(width, height)))) as container:
        (frame,) = container.decode(video=0)
    expected = (
        i420_frame(gradient(width, height))
        .reformat(frame.width, frame.height, "rgb24")
        .to_ndarray()
    )
    assert psnr_db(frame.to_ndarray(format="rgb24"), expected) > 28
