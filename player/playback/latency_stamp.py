"""A time stamp drawn into pictures, to measure how long they take to whoever sees them.

A row of BLOCKS squares along the top edge, white for one and black for zero: 24 bits of the Unix time in milliseconds, the
highest first, and a checksum of 8 bits. `web/stamp.js` reads it.
"""

import numpy as np
from numpy.typing import NDArray

from export.engines.base import Frames

BLOCKS = 32
MAX_SIDE = 16
MIN_SIDE = 2
BLACK = 16
WHITE = 235
GREY = 128
"""Of limited range."""
SALT = 0x5A
"""A black picture is no stamp."""


def stamped(picture: Frames, unix_seconds: float) -> Frames:
    """Return a copy of an I420 picture (H * 3 / 2, W) with a time drawn into it; one too small stays as it is."""
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
    """Return views of the two colour planes (H / 2, W / 2)."""
    flat = picture.reshape(-1)
    size = height * width
    planes = flat[size:].reshape(2, height // 2, width // 2)
    return planes[0], planes[1]
