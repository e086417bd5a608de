"""Encode pictures for WebRTC: H.264, which nearly every browser takes, and VP8 for the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias, cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

Packet: TypeAlias = "av.Packet[av.VideoStream]"
CodecName = Literal["H264", "VP8"]
CLOCK_RATE = 90_000
"""Ticks per second of a presentation timestamp, RTP's for video."""
GROUP_FRAMES = 3000
"""Frames from one key frame to the next while no viewer asks for one."""
BITS_PER_PIXEL = 0.2
MIN_BITRATE, MAX_BITRATE = 1_000_000, 12_000_000
"""In bits per second."""
BUFFER_SECONDS = Fraction(1, 4)
"""A key frame may take this much of the bitrate at once: larger ones overflow receivers' buffers."""


@dataclass(frozen=True)
class _Codec:
    encoder: str
    options: Mapping[str, str]
    profile: str | None = None


CODECS: Mapping[CodecName, _Codec] = {
    "H264": _Codec("libx264", {"preset": "superfast", "tune": "zerolatency"}, "Baseline"),
    "VP8": _Codec("libvpx", {"deadline": "realtime", "cpu-used": "12", "noise-sensitivity": "0", "lag-in-frames": "0"}),
}


class VideoEncoder:
    """An encoder that delays nothing; used by one thread."""

    def __init__(self, codec: CodecName, width: int, height: int, rate: Fraction) -> None:
        spec = CODECS[codec]
        bitrate = int(min(max(BITS_PER_PIXEL * width * height * rate, MIN_BITRATE), MAX_BITRATE))
        context = cast("VideoCodecContext", av.CodecContext.create(spec.encoder, "w"))
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base, context.framerate = Fraction(1, CLOCK_RATE), rate
        context.bit_rate, context.gop_size, context.thread_count = bitrate, GROUP_FRAMES, 1
        context.colorspace, context.color_range = Colorspace.ITU601, ColorRange.MPEG
        if spec.profile is not None:
            context.profile = spec.profile
        buffer = int(bitrate * BUFFER_SECONDS)
        context.options = {**spec.options, "maxrate": str(bitrate), "bufsize": str(buffer)}
        self._context = context

    def encode(self, picture: NDArray[np.uint8], pts: int, *, keyframe: bool = False) -> list[Packet]:
        """Return the packets of an I420 picture (H * 3 / 2, W) that is shown at a time in ticks."""
        frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
        frame.pts, frame.time_base = pts, Fraction(1, CLOCK_RATE)
        frame.colorspace, frame.color_range = Colorspace.ITU601, ColorRange.MPEG
        frame.pict_type = PictureType.I if keyframe else PictureType.NONE
        packets = self._context.encode(frame)
        for packet in packets:
            packet.time_base = Fraction(1, CLOCK_RATE)
        return packets
