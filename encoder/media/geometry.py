"""Geometry of displayed pictures: upright, with square pixels, and fitted into other frames."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import sqrt

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from encoder.codec.container import MAX_SIDE
from encoder.media.frame_data import display_matrix
from encoder.media.size import Size

DEFAULT_PIXELS = 320 * 180
"""Largest default size of a frame in pixels. Two CPU cores fit such frames in minutes."""
MAX_PIXEL_ASPECT = 8
"""Largest credible ratio of a pixel's sides. Other pixels count as square, since no format has
them."""
SAME_SHAPE = 0.01
"""Largest relative difference of two aspect ratios that count as the same. Sizes are whole numbers
of pixels."""


@dataclass(frozen=True)
class Orientation:
    """Transform from stored to displayed pixels: transpose first, then mirror."""

    transposed: bool = False
    mirrored: bool = False
    """Whether left and right are exchanged."""
    flipped: bool = False
    """Whether top and bottom are exchanged."""

    def __str__(self) -> str:
        """Return a readable list of the steps."""
        return (
            " and ".join(
                name for name in ("transposed", "mirrored", "flipped") if getattr(self, name)
            )
            or "no"
        )

    def size(self, size: Size) -> Size:
        """Convert a stored size to the upright one, or an upright size to the stored one."""
        return (size[1], size[0]) if self.transposed else size

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return stored pixels (H, W, C) turned upright."""
        if self.transposed:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


ORIENTATIONS = tuple(Orientation(*each) for each in product((False, True), repeat=3))


def orientation(frame: VideoFrame) -> Orientation:
    """Return the orientation, out of eight, that is closest to a frame's display matrix.

    The matrix means x' = a x + c y and y' = b x + d y (ISO/IEC 14496-12, 6.2.2). FFmpeg also
    provides EXIF orientations as display matrices.
    """
    matrix = display_matrix(frame)
    if matrix is None:
        return Orientation()
    a, b, _, c, d = matrix[:5]

    def likeness(way: Orientation) -> float:
        across, down = (c, b) if way.transposed else (a, d)
        return (-across if way.mirrored else across) + (-down if way.flipped else down)

    return max(ORIENTATIONS, key=likeness)


def display_size(stored: Size, pixel_aspect: Fraction | None, way: Orientation) -> Size:
    """Return the upright size of a picture with square pixels and its stored height.

    This is FFmpeg's `scale=iw*sar:ih`.
    """
    width, height = stored
    if pixel_aspect and 1 / Fraction(MAX_PIXEL_ASPECT) <= pixel_aspect <= MAX_PIXEL_ASPECT:
        width = min(max(round(width * pixel_aspect), 1), MAX_SIDE)
    return way.size((width, height))


def default_size(size: Size, *, keep_size: bool) -> Size:
    """Return the default size of frames for pictures of a displayed size."""
    width, height = size
    if keep_size or width * height <= DEFAULT_PIXELS:
        return size
    scale = sqrt(DEFAULT_PIXELS / (width * height)) / 2
    return max(2, 2 * round(width * scale)), max(2, 2 * round(height * scale))


def same_shape(a: Size, b: Size) -> bool:
    """Tell whether two sizes have the same aspect ratio, apart from rounding to whole pixels."""
    difference = abs(a[0] * b[1] - b[0] * a[1])
    return difference <= max(SAME_SHAPE * a[0] * b[1], *a, *b)


def letterboxed(size: Size, frame: Size) -> tuple[slice, slice]:
    """Return the centred rows and columns of a frame that a picture of another shape fills."""
    scale = min(frame[0] / size[0], frame[1] / size[1])
    width, height = (
        min(max(round(side * scale), 1), room) for side, room in zip(size, frame, strict=True)
    )
    left = (frame[0] - width) // 2
    top = (frame[1] - height) // 2
    return slice(top, top + height), slice(left, left + width)
