"""Where a video is cut into segments: at scene cuts, and evenly between them."""

import logging
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
"""Mean difference of two neighbouring thumbnails from which on there may be a cut, of 255."""
OUTSTANDING = 3.0
"""How much larger the difference at a cut is than those around it."""
NEIGHBOURS = 3
"""Differences on each side that one is compared with."""
SHORTEST = 8
"""Fewest frames of a scene: a shorter one goes with the next."""


@dataclass(frozen=True)
class Changes:
    """How much each frame of a video differs from the one before, 0 for the first."""

    mean: NDArray[np.float64]
    """Absolute difference, (T,), of 255."""
    root_mean_square: NDArray[np.float64]
    """The same as squared errors see it."""


def changes(thumbnails: Frames, show: Callable[[float], None] = lambda _: None) -> Changes:
    """Return how much each frame of a video of thumbnails differs from the one before.

    What is shown is the share of the frames that lie before. What cannot be read of a damaged video counts as standing still:
    the rest of it can be fitted. Raises SourceError where nothing can be read.
    """
    found: list[tuple[float, float]] = []
    before: NDArray[np.int32] | None = None
    try:
        for index in range(thumbnails.count):  # one by one, to come as near to a damage as can be
            frame = thumbnails.read(range(index, index + 1))[0].astype(np.int32)
            difference = frame - (frame if before is None else before)
            found.append(
                (float(np.abs(difference).mean()), float(np.square(difference).mean()) ** 0.5)
            )
            before = frame
            show(index / thumbnails.count)
    except SourceError as error:
        if not found:
            raise
        logger.warning(
            "only what lies before frame %d, about, can be fitted: %s", len(found), error
        )
        found += [(0.0, 0.0)] * (thumbnails.count - len(found))
    return Changes(*np.array(found).T)


def cuts(differences: Sequence[float] | NDArray[np.float64]) -> list[int]:
    """Return the numbers of the frames that begin a scene, but for the first: those unlike the one before, as no other near."""
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
    """Cut frames into runs of at most a length: at the starts of scenes, and in between into the fewest that are even."""
    runs: list[range] = []
    for start, stop in pairwise((0, *starts, frames)):
        parts = ceil((stop - start) / length)
        bounds = [start + (stop - start) * part // parts for part in range(parts + 1)]
        runs += [range(first, last) for first, last in pairwise(bounds)]
    return runs
