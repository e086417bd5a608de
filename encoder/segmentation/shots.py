"""Cut a video into segments: at scene cuts, and evenly between them."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
from numpy.typing import NDArray

from encoder.common.errors import SourceError
from encoder.media.video import Frames

logger = logging.getLogger(__name__)

CUT = 12.0
"""Smallest mean difference, of 255, between the thumbnails on both sides of a cut."""
OUTSTANDING = 3.0
"""Smallest ratio of the difference at a cut to the differences around it."""
NEIGHBOURS = 3
"""Number of differences on each side that a difference is compared with."""
SHORTEST = 8
"""Smallest number of frames of a scene; a cut sooner than that is ignored."""
REACH = 2
"""Frames on each side of a frame between which it is interpolated."""
BLOCK = 4
"""Side of the blocks of a thumbnail's pixels whose means are interpolated."""


@dataclass(frozen=True)
class Changes:
    """Differences of each frame of a video from the previous one; 0 for the first frame."""

    mean: NDArray[np.float64]
    """Mean absolute differences (T,), of 255."""
    root_mean_square: NDArray[np.float64]
    """Root mean square differences (T,), of 255."""
    interpolation: NDArray[np.float64]
    """Root mean square errors (T,), of 255, of block means that are interpolated in time.

    The frames REACH before and REACH later give the picture between them.
    """


def changes(thumbnails: Frames, show: Callable[[float], None] = lambda _: None) -> Changes:
    """Return the difference of each frame of a video of thumbnails from the previous one.

    `show` takes the share of the frames that have been read. Frames that follow damage count as a
    still picture, so that the frames before it can be fitted. Raises SourceError if no frame can be
    read.
    """
    found: list[tuple[float, float]] = []
    errors: list[float] = []
    latest = deque[NDArray[np.float32]](maxlen=2 * REACH + 1)
    before: NDArray[np.int32] | None = None
    try:
        for index in range(thumbnails.count):  # one by one, to get as close to damage as possible
            frame = thumbnails.read(range(index, index + 1))[0].astype(np.int32)
            difference = frame - (frame if before is None else before)
            found.append(
                (float(np.abs(difference).mean()), float(np.square(difference).mean()) ** 0.5)
            )
            before = frame
            latest.append(_block_means(frame))
            if len(latest) > 2 * REACH:
                error = latest[REACH] - (latest[0] + latest[-1]) / 2
                errors.append(float(np.square(error).mean()) ** 0.5)
            show(index / thumbnails.count)
    except SourceError as error:
        if not found:
            raise
        logger.warning("only the frames before about %d can be fitted: %s", len(found), error)
        found += [(0.0, 0.0)] * (thumbnails.count - len(found))
    edges = np.zeros(thumbnails.count)
    edges[REACH : REACH + len(errors)] = errors
    return Changes(*np.array(found).T, interpolation=edges)


def _block_means(frame: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the mean brightness of the blocks of a thumbnail (3, h, w), those at its edge cut."""
    planes = frame.mean(0, dtype=np.float32)
    height, width = (max(side // BLOCK, 1) for side in planes.shape)
    rows, columns = (min(side, BLOCK) for side in planes.shape)
    blocks = planes[: height * rows, : width * columns].reshape(height, rows, width, columns)
    return blocks.mean((1, 3))


def unsteadiness(found: Changes, starts: Sequence[int]) -> float:
    """Return the mean error of interpolation in time, of 255, over the frames of no cut.

    `starts` are the numbers of the frames that begin a scene.
    """
    errors = found.interpolation
    is_known = np.zeros(len(errors), bool)
    for start, stop in pairwise((0, *starts, len(errors))):
        is_known[start + REACH : stop - REACH] = True
    return float(errors[is_known].mean()) if is_known.any() else 0.0


def cuts(differences: Sequence[float] | NDArray[np.float64]) -> list[int]:
    """Return the numbers of the frames that begin a scene, without the first.

    Such a frame differs from the previous one far more than the frames around it do.
    """
    found: list[int] = []
    for index in range(1, len(differences)):
        around = [
            *differences[max(index - NEIGHBOURS, 1) : index],
            *differences[index + 1 : index + 1 + NEIGHBOURS],
        ]
        if (
            differences[index] > max(CUT, OUTSTANDING * max(around, default=0.0))
            and index - (found[-1] if found else 0) >= SHORTEST
        ):
            found.append(index)
    return [index for index in found if len(differences) - index >= SHORTEST]


def split(frames: int, length: int, starts: Sequence[int] = ()) -> list[range]:
    """Cut frames into runs of at most `length` frames.

    They are cut at the starts of scenes, and each scene into as few runs as possible, of about
    equal length.
    """
    runs: list[range] = []
    for start, stop in pairwise((0, *starts, frames)):
        parts = ceil((stop - start) / length)
        bounds = [start + (stop - start) * part // parts for part in range(parts + 1)]
        runs += [range(first, last) for first, last in pairwise(bounds)]
    return runs
