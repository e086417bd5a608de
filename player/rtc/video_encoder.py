"""Video encoders for WebRTC: H.264, which nearly every browser decodes, and VP8 for the others."""

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
"""Ticks per second of RTP timestamps of video (RFC 6184, section 8.2.1; RFC 7741, section 6.2)."""
GOP_FRAMES = 3000
"""Frames from one key frame to the next while no viewer asks for one."""
REFERENCE_BITRATE = 1_000_000
"""Bits per second at REFERENCE_PIXEL_RATE."""
REFERENCE_PIXEL_RATE = 640 * 360 * 30
"""Pixels per second."""
BITRATE_EXPONENT = 0.75
"""Exponent of the bitrate's growth with the pixel rate: larger pictures are more redundant."""
LEAST_AUTO_BITRATE = 600_000
"""Least bits per second, where no bitrate is given."""
MOST_AUTO_BITRATE = 12_000_000
"""Most bits per second, where no bitrate is given."""
VBV_SECONDS = Fraction(1, 4)
"""Size of the VBV, and so of a key frame: larger ones overflow the buffers of receivers."""
TRIAL_SIDE = 256
"""Width and height of the picture for a trial encode."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FfmpegEncoder:
    """An encoder of FFmpeg, with the options that make it encode without delay."""

    name: str
    options: Mapping[str, str]
    profile: str | None = None
    needs_trial: bool = False
    """Whether FFmpeg lists it even where it cannot run."""


CODECS: Mapping[CodecName, tuple[FfmpegEncoder, ...]] = {
    "H264": (
        FfmpegEncoder(
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
        FfmpegEncoder(
            "libx264",
            {"preset": "superfast", "tune": "zerolatency", "aq-mode": "0"},
            "Baseline",
        ),
    ),
    "VP8": (
        FfmpegEncoder(
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
"""Codecs, the preferred one first, each with its encoders, the fastest one first."""


class VideoEncoder:
    """A video encoder without delay, for use by one thread."""

    def __init__(
        self,
        codec: CodecName,
        width: int,
        height: int,
        frame_rate: Fraction,
        *,
        bitrate: int | None = None,
    ) -> None:
        """Encode at a bitrate in bits per second, or at one that fits the picture."""
        encoders = CODECS[codec]
        self._untried = list(encoders[encoders.index(first_working(codec)) :])
        bits = bitrate or pick_bitrate(width, height, frame_rate)
        self._open_next = lambda: _open(self._untried.pop(0), width, height, frame_rate, bits)
        self._context = self._open_next()

    def encode(
        self, picture: NDArray[np.uint8], pts: int, *, keyframe: bool = False
    ) -> list[Packet]:
        """Return the packets of an I420 picture (H * 3 / 2, W), shown at a time in ticks.

        If the encoder fails, as hardware does with too many sessions, the next one takes over.
        Raises FFmpegError if there is none.
        """
        while True:
            try:
                return _encode(self._context, picture, pts, keyframe=keyframe)
            except FFmpegError as error:
                if not self._untried:
                    raise
                logger.warning(
                    "%s failed, trying another encoder: %s", self._context.codec.name, error
                )
            self._context = self._open_next()
            keyframe = True


def pick_bitrate(width: int, height: int, frame_rate: Fraction) -> int:
    """Return bits per second at which the encode adds little to a clip's loss."""
    relative = float(width * height * frame_rate / REFERENCE_PIXEL_RATE)
    bitrate = REFERENCE_BITRATE * (relative**BITRATE_EXPONENT)
    return round(min(max(bitrate, LEAST_AUTO_BITRATE), MOST_AUTO_BITRATE))


def _open(
    encoder: FfmpegEncoder, width: int, height: int, frame_rate: Fraction, bitrate: int
) -> VideoCodecContext:
    context = cast("VideoCodecContext", av.CodecContext.create(encoder.name, "w"))
    context.width = width
    context.height = height
    context.pix_fmt = "yuv420p"
    context.time_base = Fraction(1, CLOCK_RATE)
    context.framerate = frame_rate
    context.bit_rate = bitrate
    context.gop_size = GOP_FRAMES
    context.thread_count = 1
    context.colorspace = Colorspace.ITU601
    context.color_range = ColorRange.MPEG
    if encoder.profile is not None:
        context.profile = encoder.profile
    vbv_bits = int(bitrate * VBV_SECONDS)
    context.options = {**encoder.options, "maxrate": str(bitrate), "bufsize": str(vbv_bits)}
    return context


def _encode(
    context: VideoCodecContext, picture: NDArray[np.uint8], pts: int, *, keyframe: bool
) -> list[Packet]:
    frame = i420_frame(picture)
    if (frame.width, frame.height) != (context.width, context.height):
        raise ValueError(
            f"picture of {frame.width}x{frame.height}, "
            f"the encoder is for {context.width}x{context.height}"
        )
    frame.pts = pts
    frame.time_base = Fraction(1, CLOCK_RATE)
    frame.pict_type = PictureType.I if keyframe else PictureType.NONE
    packets = context.encode(frame)
    for packet in packets:
        packet.time_base = Fraction(1, CLOCK_RATE)
    return packets


@cache
def first_working(codec: CodecName) -> FfmpegEncoder:
    """Return the first encoder of a codec that works on this machine."""
    return next(each for each in CODECS[codec] if not each.needs_trial or works(each))


def works(encoder: FfmpegEncoder) -> bool:
    """Return whether an encoder encodes a picture.

    FFmpeg lists NVENC everywhere, and some of NVIDIA's GPUs lack it.
    """
    picture = np.full((TRIAL_SIDE * 3 // 2, TRIAL_SIDE), 128, np.uint8)
    try:
        context = _open(encoder, TRIAL_SIDE, TRIAL_SIDE, Fraction(30), LEAST_AUTO_BITRATE)
        packets = _encode(context, picture, 0, keyframe=True)
    except (FFmpegError, ValueError) as error:
        logger.debug("%s does not run here: %s", encoder.name, error)
        return False
    return bool(packets) and packets[0].is_keyframe
