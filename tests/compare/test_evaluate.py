from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from helpers import SAMPLE

from encoder.cli.options import SAMPLE as VIDEO
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.common.errors import SettingsError
from encoder.compare.evaluation import (
    FrameQuality,
    evaluation,
    frame_quality,
    mean_quality,
    qualities,
)
from encoder.media.metrics import MAX_PSNR_DB, psnr_db
from encoder.media.source import read_video
from encoder.media.video import Video


def test_psnr_of_an_error_of_one():
    picture = np.full((3, 4, 5), 100, np.uint8)
    assert psnr_db(picture, picture + 1) == pytest.approx(48.1308, abs=1e-4)


def test_psnr_without_error_is_finite():
    picture = np.zeros((3, 4, 5), np.uint8)
    assert psnr_db(picture, picture) == MAX_PSNR_DB


def test_yuv_counts_luma_six_times():
    """Red alone is in all three planes: luma, and both chroma planes, whose ranges are those of luma."""
    original = np.full((3, 4, 5), 100, np.uint8)
    decoded = original.copy()
    decoded[0] += 10
    errors = 0.299 * 10, (0 - 0.299 * 10) / (2 * (1 - 0.114)), (10 - 0.299 * 10) / (2 * (1 - 0.299))
    luma, blue, red = (20 * np.log10(255 / abs(error)) for error in errors)
    assert frame_quality(decoded, original).psnr_yuv_db == pytest.approx(
        (6 * luma + blue + red) / 8
    )


def test_mean_is_over_the_frames_that_have_a_figure():
    frames = [
        FrameQuality(psnr_db=30, psnr_yuv_db=31, ms_ssim=None, psnr_masked_db=value)
        for value in (20, None, 30)
    ]
    assert mean_quality(frames) == FrameQuality(
        psnr_db=30, psnr_yuv_db=31, ms_ssim=None, psnr_masked_db=25
    )


def test_evaluation_counts_every_byte_and_frame(tiny_clip, tiny_file):
    source = Video(np.stack(list(ReferenceDecoder(tiny_clip).frames())), Fraction(25))
    source.frames[0] += 1
    result = evaluation(tiny_file.stat().st_size, tiny_clip, list(qualities(tiny_clip, source)))
    assert result.psnr_db == pytest.approx((48.1308 + 5 * MAX_PSNR_DB) / 6, abs=1e-4)
    assert result.file_bytes == tiny_file.stat().st_size
    assert result.bits_per_pixel == 8 * result.file_bytes / (6 * 26 * 19)
    assert (result.frames, result.width, result.height, result.fps) == (6, 26, 19, 25.0)
    assert result.ms_ssim is None  # too small for four halvings


def test_ms_ssim_of_the_sample_against_itself_is_one(sample_clip):
    frame = ReferenceDecoder(sample_clip).frame(0)
    clip = replace(sample_clip, header=replace(sample_clip.header, frames=1))
    quality = next(qualities(clip, Video(frame[None], Fraction(25))))
    assert quality.ms_ssim == pytest.approx(1.0, abs=1e-5)


def test_bundled_clip_keeps_its_promise(sample_clip):
    """31.4 dB in 55 kB, on a sample of the frames."""
    source = read_video(VIDEO)
    decoder = ReferenceDecoder(sample_clip)
    quality = [psnr_db(decoder.frame(time), source.frames[time]) for time in range(0, 132, 10)]
    assert np.mean(quality) > 31.2
    assert SAMPLE.stat().st_size < 56_000


def test_source_of_another_length(tiny_clip):
    with pytest.raises(SettingsError, match="the clip has 6 frames, the source 2"):
        next(qualities(tiny_clip, Video(np.zeros((2, 3, 19, 26), np.uint8), Fraction(25))))
