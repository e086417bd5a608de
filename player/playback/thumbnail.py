"""Thumbnails of clips."""

from fractions import Fraction

import av
from av.video.reformatter import ColorRange

from export.engines.base import Frames
from player.rtc.i420 import i420_frame

MAX_WIDTH = 320
"""Largest width of a thumbnail, in pixels."""


def jpeg(picture: Frames) -> bytes:
    """Return an I420 picture (H * 3 / 2, W) as a JPEG that is at most MAX_WIDTH wide."""
    frame = i420_frame(picture)
    width = min(frame.width, MAX_WIDTH)
    height = max(round(frame.height * width / frame.width), 1)
    small = frame.reformat(
        width, height, "yuvj420p", src_color_range=ColorRange.MPEG, dst_color_range=ColorRange.JPEG
    )
    context = av.CodecContext.create("mjpeg", "w")
    context.width = width
    context.height = height
    context.pix_fmt = "yuvj420p"
    context.time_base = Fraction(1)
    context.color_range = ColorRange.JPEG
    context.options = {"qmin": "3", "qmax": "5"}
    return b"".join(bytes(packet) for packet in (*context.encode(small), *context.encode(None)))
