"""Selection of the frames and times that an output shows."""

import re
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from encoder.codec.container import MAX_FRAMES, MAX_RATE, Header
from encoder.common.errors import SettingsError


def frame_range(text: str | None, frames: int) -> range:
    """Return the frames that a text like 10:20 names: 10 to 19.

    Raises SettingsError for another text, and for frames that the clip does not have.
    """
    match = re.fullmatch(r"(\d{0,9}):(\d{0,9})", text or ":")
    found = range(int(match[1] or 0), int(match[2] or frames)) if match else range(0)
    if not (found and found.stop <= frames):
        raise SettingsError(f"frames are a range like 10:20 within 0:{frames}, got {text!r}")
    return found


def frame_times(
    header: Header, rate: Fraction | None, frames: range | None = None
) -> NDArray[np.float64]:
    """Return the times (N,) to decode, in frames since the start, for a frame rate.

    None stands for the clip's own rate. Raises SettingsError for a rate that is out of range,
    makes too many frames, or needs pictures in between that the clip does not have.
    """
    frames = frames or range(header.frames)
    if rate is None or rate == header.rate:
        return np.arange(frames.start, frames.stop, dtype=np.float64)
    if not 0 < rate <= MAX_RATE:
        raise SettingsError(f"fps must be over 0 and at most {MAX_RATE}, got {float(rate):g}")
    if not header.continuous:
        raise SettingsError("this clip has no pictures between its frames: leave --fps out")
    step = header.rate / rate
    count = max(round(len(frames) / step), 1)
    if count > MAX_FRAMES:
        raise SettingsError(
            f"fps of {float(rate):g} make {count} frames of this clip, over {MAX_FRAMES}"
        )
    return frames.start + float(step) * np.arange(count, dtype=np.float64)
