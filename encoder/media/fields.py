"""Deinterlacing of pictures whose two fields have different times; other pictures stay whole."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, TypeVar, cast

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from encoder.common.errors import SourceError
from encoder.media.frame_data import filtered

BITS = 8
"""Bits of the samples that are analysed."""
COLUMNS = 320
"""Approximate number of columns that are analysed."""
MIN_ROWS = 8
"""Minimum number of rows of a picture that is analysed."""
MOVING = 12
"""Smallest difference, of 255, of a moving pixel from that of a neighbouring picture."""
SMOOTH = 12
"""Limit of the difference between adjacent rows of the same field at a combed pixel. Five adjacent
rows then alternate between the fields. Moving edges look like this, details hardly ever."""
COMBED = (10, 0.0005)
"""Thresholds for pictures that the file marks as interlaced. A combed pixel differs by more than
the first number from the rows above and below. In a woven picture, a larger share than the second
number is combed."""
COMBED_UNFLAGGED = (16, 0.002)
"""The same thresholds for pictures that the file marks as progressive. Both are higher."""
CUT = 0.5
"""Difference between the shares of pixels that differ from each neighbour, above which there is a
cut."""
SURE = 0.9
"""Roughness with the bottom field first, relative to top first, below which the bottom field is
first. Top first is the usual order."""
LOOKS = 240
"""Maximum number of pictures at the start of a source that decide the field order."""
Order = Literal["tff", "bff"]
Rows = NDArray[np.int16]

Shown = TypeVar("Shown")


def deinterlaced(
    pictures: Iterable[tuple[VideoFrame, Shown]], order: Callable[[], Order]
) -> Iterator[tuple[VideoFrame, Shown]]:
    """Yield whole progressive pictures, each with its unchanged companion value.

    `order` returns the field order. The picture decides more than the file's flag: most broadcasts
    are flagged as interlaced whatever they show. FFmpeg's scaler would scale the two fields of a
    flagged picture separately. If the input raises an error, all pictures before it are yielded
    first.
    """
    window: list[VideoFrame] = []
    """Previous, present and next picture, as far as they exist."""
    lumas: list[Rows | None] = []
    present: tuple[Shown] | None = None
    broken: SourceError | None = None
    source = iter(pictures)
    while True:
        try:
            following = next(source, None)
        except SourceError as error:
            following = None
            broken = error
        if following is not None:
            window = [*window[-2:], following[0]]
            lumas = [*lumas[-2:], _luma(following[0])]
        if present is not None:
            index = len(window) - (1 if following is None else 2)
            yield _whole(window, lumas, index, order), present[0]
        if following is None:
            break
        present = (following[1],)
    if broken is not None:
        raise broken


def _whole(
    window: Sequence[VideoFrame],
    lumas: Sequence[Rows | None],
    index: int,
    order: Callable[[], Order],
) -> VideoFrame:
    """Return the picture at `index` as a progressive one; deinterlace it if it is woven."""
    frame = window[index]
    luma = lumas[index]
    if luma is not None:
        alike = [
            other
            for other in range(len(window))
            if (rows := lumas[other]) is not None and rows.shape == luma.shape
        ]
        neighbours = [
            rows for other in alike if other != index and (rows := lumas[other]) is not None
        ]
        if _is_woven(luma, neighbours, COMBED if frame.interlaced_frame else COMBED_UNFLAGGED):
            chain = [("bwdif", f"mode=send_frame:parity={order()}"), ("setfield", "prog")]
            return list(filtered([window[other] for other in alike], chain))[alike.index(index)]
    return next(filtered([frame], [("setfield", "prog")])) if frame.interlaced_frame else frame


def field_order(frames: Iterable[VideoFrame]) -> Order:
    """Return the field order of a source, voted by the woven pictures among its first ones.

    Each vote replaces one field of a picture by that of a neighbour. The result is smoother if the
    field lies half a picture away than if it lies one and a half away. This follows FFmpeg's
    `idet`.
    """
    lumas = [_luma(frame) for frame in islice(frames, LOOKS)]
    top_first = bottom_first = 0.0
    for before, present, after in zip([None, *lumas], lumas, [*lumas[1:], None], strict=False):
        near = [
            rows
            for rows in (before, after)
            if rows is not None and present is not None and rows.shape == present.shape
        ]
        if present is None or len(near) < 2 or not _is_woven(present, near, COMBED):  # noqa: PLR2004 (both neighbours)
            continue
        moves = _moving(present, near)[1:-1]
        top = moves.copy()
        bottom = moves.copy()
        # The inner rows begin with row 1, which belongs to the bottom field.
        top[::2] = bottom[1::2] = False
        scores = [_roughness(present, near[0], bottom) + _roughness(present, near[1], top)]
        scores.append(_roughness(present, near[0], top) + _roughness(present, near[1], bottom))
        whole = sum(scores) or 1.0
        top_first = top_first + scores[0] / whole
        bottom_first = bottom_first + scores[1] / whole
    return "bff" if bottom_first < SURE * top_first else "tff"


def _luma(frame: VideoFrame) -> Rows | None:
    """Return some columns of a frame's luma (H, w) with 8-bit values.

    Returns None for RGB pictures and for small ones.
    """
    if frame.format.is_rgb or frame.format.has_palette or frame.height < MIN_ROWS:
        return None
    if not frame.format.is_planar:
        frame = frame.reformat(format="gray") if frame.format.name != "gray" else frame
    plane = frame.planes[0]
    bits = frame.format.components[0].bits
    kind = (
        np.dtype(np.uint8)
        if bits <= BITS
        else np.dtype(">u2" if frame.format.is_big_endian else "<u2")
    )
    samples = np.frombuffer(cast("bytes", plane), kind).reshape(plane.height, -1)
    rows = samples[:, : plane.width : max(plane.width // COLUMNS, 1)]
    return (rows >> max(bits - BITS, 0)).astype(np.int16)


def _moving(present: Rows, neighbours: Sequence[Rows]) -> NDArray[np.bool_]:
    """Return which pixels (H, w) differ from a neighbour that is not beyond a cut."""
    moves = sorted((abs(neighbour - present) >= MOVING for neighbour in neighbours), key=np.mean)
    if len(moves) > 1 and moves[1].mean() > CUT + moves[0].mean():
        return moves[0]
    return np.logical_or.reduce(moves)


def _is_woven(present: Rows, neighbours: Sequence[Rows], combing: tuple[int, float]) -> bool:
    """Tell whether a larger share of the pixels than that in `combing` is combed and moves."""
    comb, share = combing
    above = present[1:-3]
    row = present[2:-2]
    below = present[3:-1]
    up = above - row
    down = below - row
    combed = (np.minimum(abs(up), abs(down)) > comb) & ((up > 0) == (down > 0))
    if combed.mean() <= share:
        return False
    combed &= (
        (abs(present[:-4] - row) < SMOOTH)
        & (abs(present[4:] - row) < SMOOTH)
        & (abs(above - below) < SMOOTH)
    )
    if combed.mean() <= share:
        return False
    if neighbours:
        combed &= _moving(present, neighbours)[2:-2]
    return bool(combed.mean() > share)


def _roughness(present: Rows, rows: Rows, where: NDArray[np.bool_]) -> float:
    """Return how much the rows of one picture stand out between the rows of another.

    `where` (H - 2, w) selects the pixels of the inner rows.
    """
    return float(abs(present[:-2] - 2 * rows[1:-1] + present[2:])[where].sum())
