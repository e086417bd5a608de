"""Sizes of a file as people give them: in bytes, bits per second or bits per pixel."""

import re
from collections.abc import Callable

from encoder.codec.errors import SettingsError
from encoder.media.video import Frames

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
BITS_PER_BYTE = 8
MAX_BITS_PER_PIXEL = 1000

Target = Callable[[Frames], int]
"""Returns the size in bytes that the file of a video shall have."""


def file_size(text: str) -> Target:
    """Return the target that a text like 200kB names; raises SettingsError."""
    size = _number(text, "B", "a file size is a number of bytes like 200kB")
    return lambda video: round(size)  # noqa: ARG005


def bitrate(text: str) -> Target:
    """Return the target that a number of bits per second like 500k names; raises SettingsError."""
    bits = _number(text, "", "a bitrate is a number of bits per second like 500k")
    return lambda video: round(bits * video.count / video.rate / BITS_PER_BYTE)


def bits_per_pixel(bits: float) -> Target:
    """Return the target of a number of bits per pixel; raises SettingsError."""
    if not 0 < bits <= MAX_BITS_PER_PIXEL:
        raise SettingsError(f"bits per pixel must be over 0 and at most {MAX_BITS_PER_PIXEL}, got {bits:g}")
    return lambda video: round(bits * video.count * video.size[0] * video.size[1] / BITS_PER_BYTE)


def _number(text: str, suffix: str, rule: str) -> float:
    match = re.fullmatch(rf"(\d{{1,15}}(?:\.\d+)?)([kMG]?)({suffix})?", text)
    value = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not value:
        raise SettingsError(f"{rule}, got {text!r}")
    return value
