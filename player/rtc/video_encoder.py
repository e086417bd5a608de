"""Encode pictures for WebRTC: H.264, which nearly every browser takes, and VP8 for the rest."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Literal, TypeAlias, cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from player.rtc.i420 import i420_frame

Packet: TypeAlias = "av.Packet[av.VideoStream]"
CodecName = Literal["H264", "VP8"]
CLOCK_RATE = 90_000
"""Ticks per second of a presentation timestamp, RTP's for video."""
GROUP_FRAMES = 3000
"""Frames from one key frame to the next while no viewer asks for one."""
BITRATE = 1_000_000
BITRATE_PIXELS = 640 * 360 * 30
BITRATE_POWER = 0.75
"""Bits per second for so many pixels per second; for others as their number to this power, since larger pictures have more
that is alike."""
MIN_BITRATE = 600_000
MAX_BITRATE = 12_000_000
"""Bits per second, where none are asked for."""
BUFFER_SECONDS = Fraction(1, 4)
"""A key frame may take this much of the bitrate at once: larger ones overflow receivers' buffers."""
TRIAL_SIDE = 256
"""Width and height of the picture by which an encoder is tried."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Way:
    """An encoder of FFmpeg's and how it delays nothing."""

    encoder: str
    options: Mapping[str, str]
    profile: str | None = None
    needs_trial: bool = False
    """Whether it is there by name also where it cannot run."""


CODECS: Mapping[CodecName, tuple[_Way, ...]] = {
    "H264": (
        _Way(
            "h264_nvenc",
            {
                "preset": "p1",
                "tune": "ull",
                "zerolatency": "1",
                "delay": "0",
                "rc": "cbr",
                "forced-idr": "1",
            },
            "Baseline",
            needs_trial=True,
        ),
        _Way("libx264", {"preset": "superfast", "tune": "zerolatency", "aq-mode": "0"}, "Baseline"),
    ),
    "VP8": (
        _Way(
            "libvpx",
            {
                "deadline": "realtime",
                "cpu-used": "12",
                "noise-sensitivity": "0",
                "lag-in-frames": "0",
            },
        ),
    ),
}
"""Codecs, the preferred first, each with its encoders, the fastest first."""


class VideoEncoder:
    """An encoder that delays nothing; used by one thread."""

    def __init__(
        self,
        codec: CodecName,
        width: int,
        height: int,
        rate: Fraction,
        *,
        bitrate: int | None = None,
    ) -> None:
        """Take the bits per second that are asked for, or else some that fit the picture."""
        self._ways = list(CODECS[codec][CODECS[codec].index(_way(codec)) :])
        bits = bitrate or pick_bitrate(width, height, rate)
        self._open = lambda: _open(self._ways.pop(0), width, height, rate, bits)
        self._context = self._open()

    def encode(
        self, picture: NDArray[np.uint8], pts: int, *, keyframe: bool = False
    ) -> list[Packet]:
        """Return the packets of an I420 picture (H * 3 / 2, W) that is shown at a time in ticks.

        An encoder that fails, as hardware does with too many sessions, gives way to the next one.
        """
        while True:
            try:
                return _encode(self._context, picture, pts, keyframe=keyframe)
            except FFmpegError as error:
                if not self._ways:
                    raise
                logger.warning(
                    "%s failed, trying another encoder: %s", self._context.codec.name, error
                )
            self._context = self._open()
            keyframe = True


def pick_bitrate(width: int, height: int, rate: Fraction) -> int:
    """Return bits per second at which a clip loses little more than it has lost."""
    bitrate = BITRATE * float(width * height * rate / BITRATE_PIXELS) ** BITRATE_POWER
    return round(min(max(bitrate, MIN_BITRATE), MAX_BITRATE))


def _open(way: _Way, width: int, height: int, rate: Fraction, bitrate: int) -> VideoCodecContext:
    context = cast("VideoCodecContext", av.CodecContext.create(way.encoder, "w"))
    context.width = width
    context.height = height
    context.pix_fmt = "yuv420p"
    context.time_base = Fraction(1, CLOCK_RATE)
    context.framerate = rate
    context.bit_rate = bitrate
    context.gop_size = GROUP_FRAMES
    context.thread_count = 1
    context.colorspace = Colorspace.ITU601
    context.color_range = ColorRange.MPEG
    if way.profile is not None:
        context.profile = way.profile
    buffer = int(bitrate * BUFFER_SECONDS)
    context.options = {**way.options, "maxrate": str(bitrate), "bufsize": str(buffer)}
    return context


def _encode(
    context: VideoCodecContext, picture: NDArray[np.uint8], pts: int, *, keyframe: bool
) -> list[Packet]:
    frame = i420_frame(picture)
    if (frame.width, frame.height) != (context.width, context.height):
        raise ValueError(
            f"picture of {frame.width}x{frame.height}, the encoder is for {context.width}x{context.height}"
        )
    frame.pts = pts
    frame.time_base = Fraction(1, CLOCK_RATE)
    frame.pict_type = PictureType.I if keyframe else PictureType.NONE
    packets = context.encode(frame)
    for packet in packets:
        packet.time_base = Fraction(1, CLOCK_RATE)
    return packets


@cache
def _way(codec: CodecName) -> _Way:
    """Return the first encoder of a codec that works here."""
    return next(way for way in CODECS[codec] if not way.needs_trial or _works(way))


def _works(way: _Way) -> bool:
    """Encode a picture: FFmpeg has NVIDIA's encoder by name everywhere, some of NVIDIA's GPUs have none."""
    picture = np.full((TRIAL_SIDE * 3 // 2, TRIAL_SIDE), 128, np.uint8)
    try:
        packets = _encode(
            _open(way, TRIAL_SIDE, TRIAL_SIDE, Fraction(30), MIN_BITRATE), picture, 0, keyframe=True
        )
    except (FFmpegError, ValueError) as error:
        logger.debug("%s does not run here: %s", way.encoder, error)
        return False
    return bool(packets) and packets[0].is_keyframe
