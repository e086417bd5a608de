"""A time stamp drawn into pictures, to measure their latency.

It is a row of BLOCKS squares along the top edge, white for one and black for zero. They are the
lowest 24 bits of the Unix time in milliseconds, the highest bit first, and a checksum of 8 bits.
`player/server/web/stamp.js` reads it.
"""

import numpy as np
from numpy.typing import NDArray

from export.engines.base import Frames

BLOCKS = 32
MAX_SIDE = 16
"""Largest side of a square, in pixels."""
MIN_SIDE = 2
"""Smallest side of a square, in pixels; smaller pictures get no stamp."""
BLACK = 16
"""Luma of a zero, in limited range."""
WHITE = 235
"""Luma of a one, in limited range."""
GREY = 128
"""Chroma of both."""
SALT = 0x5A
"""Start of the checksum, which makes a black picture no valid stamp."""


def stamped(picture: Frames, unix_seconds: float) -> Frames:
    """Return a copy of an I420 picture (H * 3 / 2, W) with a time drawn into it, if it fits."""
    height = picture.shape[0] * 2 // 3
    width = picture.shape[1]
    side = min(width // BLOCKS // 2 * 2, MAX_SIDE)
    copy = picture.copy()
    if side < MIN_SIDE or height < side:
        return copy
    bits = np.unpackbits(np.frombuffer(_code(int(unix_seconds * 1000)), np.uint8))
    row = np.repeat(np.where(bits == 1, WHITE, BLACK), side).astype(np.uint8)
    copy[:side, : row.size] = row
    for plane in _colours(copy, height, width):
        plane[: side // 2, : row.size // 2] = GREY
    return copy


def _code(milliseconds: int) -> bytes:
    time = (milliseconds % (1 << 24)).to_bytes(3, "big")
    return bytes([*time, (sum(time) + SALT) % 256])


def _colours(
    picture: Frames, height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return views of the two chroma planes (H / 2, W / 2) of an I420 picture."""
    flat = picture.reshape(-1)
    size = height * width
    planes = flat[size:].reshape(2, height // 2, width // 2)
    return planes[0], planes[1]
