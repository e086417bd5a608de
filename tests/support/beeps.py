"""Videos with flashes and beeps at each whole second, and the times of beeps in samples."""

from collections.abc import Sequence
from fractions import Fraction
from statistics import median

import av
import numpy as np

from encoder.codec.sound import RATE

SECONDS = 3
FIT = ["--preset", "hnerv", "--bits", "8", "--size", "XS", "--epochs", "60"]
"""Options of a fit that keeps the flashes: a network whose latents are of one frame each. Others may lose them."""
MAX_SKEW_MS = 40


def write_beeps(
    path, *, rate=48000, layout="stereo", codec="pcm_s16le", start=0.0, holes=(), video_at=0.0,
    language=None, options=None,
):  # fmt: skip
    """Write pictures that flash at each whole second, with a beep of 50 ms at the same time.

    `holes` are stretches without packets, in seconds.
    """
    with av.open(path, "w") as container:
        video = container.add_stream("mpeg4", 25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = container.add_stream(codec, rate, layout=layout, options=options or {})
        if language:
            audio.metadata["language"] = language
        for index in range(SECONDS * 25):
            picture = np.full((32, 32, 3), 255 if index % 25 == 0 else 0, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index + round(25 * video_at)
            frame.time_base = Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        size = audio.codec_context.frame_size or 1024
        for first in range(round(start * rate), SECONDS * rate, size):
            times = np.arange(first, min(first + size, SECONDS * rate)) / rate
            if any(hole[0] <= times[0] < hole[1] for hole in holes):
                continue
            beep = np.sin(2 * np.pi * 1000 * times) * (times % 1 < 0.05) * 20000
            samples = np.repeat(beep.astype(np.int16)[:, None], audio.layout.nb_channels, 1)
            frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
            frame.sample_rate = rate
            frame.pts = first + round(video_at * rate)
            frame.time_base = Fraction(1, rate)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


def beeps(samples):
    """Return the times in seconds at which the sound begins after silence."""
    loud = np.flatnonzero(np.abs(samples).max(1) > 0.1)
    begins = loud[np.diff(loud, prepend=-RATE) > RATE // 4]
    return [float(place / RATE) for place in begins]


def skews(heard: Sequence[float], seen: Sequence[float]) -> list[int]:
    """Return how late each beep is after the flash that is nearest to it, in milliseconds."""
    return [round(min((beep - flash for flash in seen), key=abs)) for beep in heard]


def is_in_time(skews: Sequence[int]) -> bool:
    """Whether beeps are heard at flashes, all but one of them."""
    outliers = sum(abs(each) > 2 * MAX_SKEW_MS for each in skews)
    return len(skews) >= 4 and abs(median(skews)) < MAX_SKEW_MS and outliers <= 1
