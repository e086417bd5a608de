from fractions import Fraction

import numpy as np
import pytest

from encoder.common.errors import SettingsError
from encoder.config import bitrate, bits_per_pixel, file_size
from encoder.media.video import Video

VIDEO = Video(np.zeros((50, 3, 20, 40), np.uint8), Fraction(25))
"""Two seconds."""


@pytest.mark.parametrize(
    ("text", "size"), [("200kB", 200_000), ("1.5MB", 1_500_000), ("1234", 1234), ("20k", 20_000)]
)
def test_file_size(text, size):
    assert file_size(text)(VIDEO) == size


@pytest.mark.parametrize(("text", "size"), [("500k", 125_000), ("1M", 250_000), ("800", 200)])
def test_bitrate(text, size):
    assert bitrate(text)(VIDEO) == size


def test_bits_per_pixel():
    assert bits_per_pixel(0.1)(VIDEO) == 0.1 * 50 * 20 * 40 / 8


@pytest.mark.parametrize("text", ["", "0", "-3", "big", "2 kB", "1e6", "3KB", "0.0k"])
def test_no_size(text):
    for parse in (file_size, bitrate):
        with pytest.raises(SettingsError, match="like"):
            parse(text)


@pytest.mark.parametrize("bits", [0.0, -1.0, float("nan"), float("inf")])
def test_no_bits_per_pixel(bits):
    with pytest.raises(SettingsError, match="bits per pixel must be over 0"):
        bits_per_pixel(bits)
