"""Interlaced pictures: those whose two fields are of one time stay whole, those whose fields are of two are deinterlaced."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar, cast

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from encoder.media.frame_data import filtered

BITS, COLUMNS = 8, 256
"""Bits and columns of a picture that are looked at, about."""
MIN_ROWS = 4
"""Rows of a picture of two fields, at least."""
MOVING = 12
"""Difference of two neighbouring pictures from which on a pixel moves, of 255."""
MIN_MOVING = 0.001
"""Share of the pixels that have to move for fields to be told apart."""
APART, APART_UNFLAGGED = 1.15, 1.3
"""How much rougher a woven picture gets by a field of the wrong time than by one of the right time, at least; more where the
file tells that it is progressive. Whole pictures that hardly move come to 1.2."""
AS_ROUGH = 3.0
"""How much rougher a woven picture may get by a field that is as near in time as its own."""
Rows = NDArray[np.int16]

Shown = TypeVar("Shown")


def deinterlaced(pictures: Iterable[tuple[VideoFrame, Shown]]) -> Iterator[tuple[VideoFrame, Shown]]:
    """Yield pictures, each with something that is left as it is, as whole ones.

    The picture decides, more than what the file tells of it: most broadcasts tell that they are interlaced whatever they show,
    and FFmpeg's scaler would scale the fields of such pictures one by one.
    """
    window: list[tuple[VideoFrame, Rows | None]] = []
    """The picture before, the present one and the next, as far as there are any, and their luma."""
    waiting: list[Shown] = []
    for frame, shown in pictures:
        window = [*window[-2:], (frame, _luma(frame))]
        waiting.append(shown)
        if len(window) > 1:
            yield _whole(window, len(window) - 2), waiting.pop(0)
    if window:
        yield _whole(window[-2:], len(window[-2:]) - 1), waiting.pop(0)


def _whole(window: Sequence[tuple[VideoFrame, Rows | None]], index: int) -> VideoFrame:
    """Return a picture among its neighbours deinterlaced, if it is woven of two fields, or else as it is, and progressive."""
    frame, luma = window[index]
    near = [other for other, rows in window if rows is not None and luma is not None and rows.shape == luma.shape]
    neighbours = [window[at][1] if 0 <= at < len(window) and window[at][0] in near else None for at in (index - 1, index + 1)]
    apart = APART if frame.interlaced_frame else APART_UNFLAGGED
    order = None if luma is None else _field_order(neighbours[0], luma, neighbours[1], apart)
    if order is not None:
        chain = [("bwdif", f"mode=send_frame:parity={order}"), ("setfield", "prog")]
        return list(filtered(near, chain))[near.index(frame)]
    return next(filtered([frame], [("setfield", "prog")])) if frame.interlaced_frame else frame


def _luma(frame: VideoFrame) -> Rows | None:
    """Return some columns of a frame's first plane as numbers of eight bits; None for formats that have no plane of luma."""
    if frame.format.is_rgb or not frame.format.is_planar or frame.format.has_palette:
        return None
    plane = frame.planes[0]
    bits = frame.format.components[0].bits
    kind = np.dtype(np.uint8) if bits <= BITS else np.dtype(">u2" if frame.format.is_big_endian else "<u2")
    samples = np.frombuffer(cast("bytes", plane), kind).reshape(plane.height, -1)
    rows = samples[:, : plane.width : max(plane.width // COLUMNS, 1)]
    return (rows >> max(bits - BITS, 0)).astype(np.int16)


def _field_order(before: Rows | None, present: Rows, after: Rows | None, apart: float) -> str | None:
    """Return which field is the first of a picture that is woven of two, `tff` or `bff`; None for a whole one.

    A picture of which a field is exchanged for that of a neighbour is as smooth as before if its fields are of two times and
    the other field lies half way between, and rougher if it is whole, or the field one and a half pictures away (after
    FFmpeg's `idet`). Only what moves is looked at.
    """
    if len(present) < MIN_ROWS:
        return None
    moves = np.zeros(present.shape, bool)
    for neighbour in (before, after):
        if neighbour is not None:
            moves |= abs(neighbour - present) >= MOVING
    moves = moves[1:-1] | moves[2:] | moves[:-2]
    if moves.mean() < MIN_MOVING:
        return None
    top, bottom = moves.copy(), moves
    top[::2] = bottom[1::2] = False  # the row of number 1, of the bottom field, is the first that has one on each side
    top_first = bottom_first = own = 0.0
    for neighbour, near, far in ((before, bottom, top), (after, top, bottom)):
        if neighbour is not None:
            top_first += _roughness(present, neighbour, near)
            bottom_first += _roughness(present, neighbour, far)
            own += _roughness(present, present, near)
    right, wrong = min(top_first, bottom_first), max(top_first, bottom_first)
    if wrong < apart * right or right > AS_ROUGH * own:
        return None
    return "tff" if top_first < bottom_first else "bff"


def _roughness(present: Rows, rows: Rows, where: NDArray[np.bool_]) -> float:
    """Return how much some places (H - 2, W) of the inner rows of one picture stand out between the rows of another."""
    return float(abs(present[:-2] - 2 * rows[1:-1] + present[2:])[where].sum())
