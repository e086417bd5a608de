"""Interlaced pictures: those whose two fields are of one time stay whole, those whose fields are of two are deinterlaced."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, TypeVar, cast

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from encoder.common.errors import SourceError
from encoder.media.frame_data import filtered

BITS = 8
COLUMNS = 320
"""Bits and columns of a picture that are looked at, about."""
MIN_ROWS = 8
"""Rows of a picture that is looked at, at least."""
MOVING = 12
"""Difference of two neighbouring pictures from which on a pixel moves, of 255."""
SMOOTH = 12
"""Rows of the same field differ by less than this from their next ones where pixels are combed: five rows in turn are of the
one field and the other, as edges in motion are, and details hardly ever."""
COMBED = (10, 0.0005)
COMBED_UNFLAGGED = (16, 0.002)
"""By how much a combed pixel differs from the rows above and below, and the share of such pixels from which on fields are
woven; both are larger where the file says that it is progressive."""
CUT = 0.5
"""Share of the pixels of a picture by which more differ from one neighbour than from the other if there is a cut."""
SURE = 0.9
"""How much smoother pictures have to be with the bottom field first for it to be so: top first is usual."""
LOOKS = 240
"""Pictures at the start of a source, at most, that tell which field is the first."""
Order = Literal["tff", "bff"]
Rows = NDArray[np.int16]

Shown = TypeVar("Shown")


def deinterlaced(
    pictures: Iterable[tuple[VideoFrame, Shown]], order: Callable[[], Order]
) -> Iterator[tuple[VideoFrame, Shown]]:
    """Yield pictures, each with something that is left as it is, as whole ones; `order` tells which field is the first.

    The picture decides, more than what the file tells of it: most broadcasts tell that they are interlaced whatever they show,
    and FFmpeg's scaler would scale the fields of such pictures one by one. What comes before an error of the pictures is
    yielded before it is raised.
    """
    window: list[VideoFrame] = []
    """The picture before, the present one and the next, as far as there are any."""
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
    """Return a picture among its neighbours: deinterlaced, if it is woven of two fields, or else as it is, and progressive."""
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
    """Return which field is the first in the woven ones of a source's first pictures, by their votes.

    A picture of which a field is exchanged for that of a neighbour is smoother if the field lies half a picture away than if it
    lies one and a half away (after FFmpeg's `idet`).
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
        top[::2] = bottom[1::2] = (
            False  # the row of number 1, of the bottom field, is the first that has one on each side
        )
        scores = [_roughness(present, near[0], bottom) + _roughness(present, near[1], top)]
        scores.append(_roughness(present, near[0], top) + _roughness(present, near[1], bottom))
        whole = sum(scores) or 1.0
        top_first = top_first + scores[0] / whole
        bottom_first = bottom_first + scores[1] / whole
    return "bff" if bottom_first < SURE * top_first else "tff"


def _luma(frame: VideoFrame) -> Rows | None:
    """Return some columns of a frame's luma (H, w) as numbers of eight bits; None for pictures of RGB and small ones."""
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
    """Return which pixels (H, w) are not those of a neighbour, but for one beyond a cut."""
    moves = sorted((abs(neighbour - present) >= MOVING for neighbour in neighbours), key=np.mean)
    if len(moves) > 1 and moves[1].mean() > CUT + moves[0].mean():
        return moves[0]
    return np.logical_or.reduce(moves)


def _is_woven(present: Rows, neighbours: Sequence[Rows], combing: tuple[int, float]) -> bool:
    """Tell whether more than a share of the pixels is combed, and moves."""
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
    """Return how much some places (H - 2, w) of the inner rows of one picture stand out between the rows of another."""
    return float(abs(present[:-2] - 2 * rows[1:-1] + present[2:])[where].sum())
