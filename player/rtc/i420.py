"""Conversion of I420 pictures into frames for PyAV."""

from typing import cast

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from export.engines.base import Frames


def i420_frame(picture: Frames) -> VideoFrame:
    """Map an I420 picture (H * 3 / 2, W) of even sizes to a frame of BT.601 in limited range.

    The planes are copied one by one. PyAV's `from_numpy_buffer` misplaces the chroma planes if
    H mod 4 is 2.
    """
    height = picture.shape[0] * 2 // 3
    width = picture.shape[1]
    frame = av.VideoFrame(width, height, "yuv420p")
    start = 0
    samples = np.ascontiguousarray(picture).reshape(-1)  # (H * 3 / 2 * W)
    for plane in frame.planes:
        end = start + plane.width * plane.height
        rows = np.frombuffer(cast("bytearray", plane), np.uint8).reshape(
            plane.height, plane.line_size
        )
        rows[:, : plane.width] = samples[start:end].reshape(plane.height, plane.width)
        start = end
    assert start == picture.size  # or the sizes are odd
    frame.colorspace = Colorspace.ITU601
    frame.color_range = ColorRange.MPEG
    return frame
