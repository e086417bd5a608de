"""When a fit ends."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from encoder.codec.segment import HUFFMAN_BOUND, CoderName
from encoder.common.errors import SettingsError
from encoder.media.video import Frames


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When a fit ends: after a time or a number of epochs, whichever is given."""

    seconds: float | None = None
    """Wall-clock seconds."""
    epochs: int | None = None
    """Passes over the frames; with a seed, the result is reproducible."""

    def __post_init__(self) -> None:
        """Raise SettingsError unless just one limit is given, and is positive."""
        if (self.seconds is None) == (self.epochs is None):
            raise SettingsError("give either a budget or a number of epochs")
        if self.seconds is not None and not (isfinite(self.seconds) and self.seconds > 0):
            raise SettingsError(f"the budget must be over 0 seconds, got {self.seconds:g}")
        if self.epochs is not None and self.epochs < 1:
            raise SettingsError(f"the number of epochs must be at least 1, got {self.epochs}")


BITS = range(2, 13)
"""Bits that a weight may have which was not fitted for a rate."""


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How small, and by which means."""

    rate_weight: float | None = None
    """Weight of a bit per pixel against the distortion; None takes the preset's."""
    file_bytes: int | None = None
    """Size that the file shall have; None lets the weight decide."""
    bits: int | None = None
    """Bits of a weight, quantised after the fit; None fits for a rate, if the preset has one."""
    prune: float = 0.0
    """Share of the layers' weights that are set to zero, the smallest, before the last part of the fit."""
    coder: CoderName = "range"

    def __post_init__(self) -> None:
        """Raise SettingsError for what is out of range, or does not go together."""
        if self.rate_weight is not None and not 0 < self.rate_weight < float("inf"):
            raise SettingsError(f"the rate must be over 0, got {self.rate_weight:g}")
        if self.file_bytes is not None and self.file_bytes < 1:
            raise SettingsError(f"the file's size must be over 0, got {self.file_bytes}")
        if self.bits is not None and self.bits not in BITS:
            raise SettingsError(f"bits must be in {BITS[0]}..{BITS[-1]}, got {self.bits}")
        if not 0 <= self.prune < 1:
            raise SettingsError(f"the share to prune must be in 0..1, got {self.prune:g}")
        if self.bits is not None and (self.rate_weight is not None or self.file_bytes is not None):
            raise SettingsError("give either bits or a rate, not both")
        if self.coder == "huffman" and (
            self.bits is None or 2 ** (self.bits - 1) - 1 > HUFFMAN_BOUND
        ):
            raise SettingsError("the huffman coder takes at most 8 bits: give --bits as well")
        if self.prune and self.bits is None:
            raise SettingsError(
                "pruning needs --bits: fitted for a rate, weights that are of no use become zero by themselves"
            )


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
        raise SettingsError(
            f"bits per pixel must be over 0 and at most {MAX_BITS_PER_PIXEL}, got {bits:g}"
        )
    return lambda video: round(bits * video.count * video.size[0] * video.size[1] / BITS_PER_BYTE)


def _number(text: str, suffix: str, rule: str) -> float:
    match = re.fullmatch(rf"(\d{{1,15}}(?:\.\d+)?)([kMG]?)({suffix})?", text)
    value = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not value:
        raise SettingsError(f"{rule}, got {text!r}")
    return value
