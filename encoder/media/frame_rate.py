"""The constant frame rate nearest to a video's picture times, and the tick of each picture."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from encoder.codec.container import MAX_DENOMINATOR, MAX_RATE

DEFAULT_RATE = Fraction(25)
"""Frames per second of a source that declares no rate."""
STANDARD_RATES = (
    *map(Fraction, (24, 25, 30, 50, 60)),
    *(Fraction(rate, 1001) for rate in (24_000, 30_000, 60_000)),
    *map(Fraction, (10, 12, "25/2", 15, 20, 48, 90, 100, 120, 144, 240)),
)
"""Frame rates of cameras and screens. Of rates that lie close together, the likelier comes
first."""
STANDARD_TOLERANCE = 0.02
"""Largest relative difference between the mean rate of a source and a rate that is tried."""


SHORT_TOLERANCE = 0.05
"""Upper limit of that difference for few pictures, where one shifted picture changes the mean."""


STEADY_TICKS = 0.9
"""Limit, in ticks, of the span of offsets from an even grid, below which pictures are evenly
spaced. With 50 pictures per second on a 60 Hz screen, the span is 0.83 ticks."""


STEADY_SECONDS = 0.045
"""Limit of the same span in seconds, which must hold too."""


STEADY_PARTS = 8
"""Number of parts of a source whose mean offsets are compared to find a drift."""


DRIFT_TICKS = 0.3
"""Limit, in ticks, of the span of these means without a drift. After a missing picture, all later
offsets change by one tick."""


JITTER_TICKS = 3.0
"""Limit, in ticks, of the span of offsets if there is no drift. It allows for cameras that stamp
pictures with the time of sending."""


JITTER_SECONDS = 0.12
"""Limit of the same span in seconds, which must hold too."""


STRAYING_STEP = 0.05
"""Step, in ticks, to which spans of offsets are rounded when rates are compared."""


GRID_TOLERANCE = 0.1
"""Largest distance of a gap's end from a tick, in ticks. Containers round times to milliseconds."""


GRID_SHARE = 0.95
"""Smallest share of gaps that end on ticks, and of pictures that get a tick, on a grid."""


LATE_TICKS = 1.01
"""Largest delay, in ticks, of a picture whose tick is taken; a later picture is left out."""


LOST_COST = 4
"""Cost of leaving a picture out, in repetitions."""


PAUSE_TICKS = 2
"""Maximum number of repetitions that count in a gap, which may be a pause."""


MISS_COST = 4
"""Cost of gaps that miss the ticks of a grid by one tick in total, in repetitions."""


SHIFT_SECONDS = 0.02
"""Shift of a picture that costs as much as one repetition; twice the shift costs as much as
four."""


ODD_COST = 1.5
"""Factor on the cost of rates other than the standard ones."""


def pick_rate(seconds: NDArray[np.float64], declared: Sequence[Fraction]) -> Fraction:
    """Return the constant rate that best suits pictures with given times (T,), increasing.

    Evenly spaced pictures get the rate that makes each one a frame, even if they lie on the grid of
    a screen. Other pictures get a rate on whose ticks they lie. If there is none, they get the rate
    that leaves out, repeats and shifts the least.
    """
    gaps = np.diff(seconds)
    gaps = gaps[gaps > 0]
    if not len(gaps):
        return (*declared, DEFAULT_RATE)[0]
    short, typical = np.quantile(gaps, (0.1, 0.5)).tolist()
    mean = len(seconds) / (float(seconds[-1] - seconds[0]) + typical)
    tolerance = max(STANDARD_TOLERANCE, min(1 / len(seconds), SHORT_TOLERANCE))
    known = list(dict.fromkeys([*declared, *STANDARD_RATES]))
    steady = [
        rate
        for rate in known
        if abs(mean / float(rate) - 1) < tolerance and _is_steady(seconds, rate)
    ]
    if steady:
        return min(
            steady, key=lambda rate: round(float(np.ptp(_strays(seconds, rate))) / STRAYING_STEP)
        )
    candidates = _candidates(known, declared, (typical, short, _common(gaps)), mean)
    grids = [rate for rate in candidates if _is_grid(seconds, rate)]
    best = min(grids, key=lambda rate: _grid_cost(seconds, rate), default=None)
    if best is not None and _grid_cost(seconds, best) <= len(seconds):
        return best
    return min(candidates, key=lambda rate: _cost(seconds, rate))


def _candidates(
    known: Sequence[Fraction], declared: Sequence[Fraction], gaps: Sequence[float], mean: float
) -> list[Fraction]:
    """Return rates that may suit pictures, the likelier ones first.

    `gaps` are in seconds, `mean` is the mean rate.
    """
    # A declared rate may be twice that of the pictures, or more.
    parts = [rate / max(round(gap * rate), 1) for gap in gaps for rate in declared]
    near = [
        rate
        for gap in (*gaps, 1 / mean)
        for rate in known
        if abs(gap * float(rate) - 1) < SHORT_TOLERANCE
    ]
    measured = [
        Fraction(rate).limit_denominator(MAX_DENOMINATOR)
        for rate in (*(1 / gap for gap in gaps), mean)
    ]
    return [
        rate
        for rate in dict.fromkeys([*declared, *near, *parts, *measured])
        if 0 < rate <= MAX_RATE
    ]


def _common(gaps: NDArray[np.float64]) -> float:
    """Return the largest time, in seconds, that divides all gaps.

    Gaps are rounded to hundredths of a second, the unit of animations.
    """
    return max(int(np.gcd.reduce(np.rint(gaps * 100).astype(np.int64))), 1) / 100


def _strays(seconds: NDArray[np.float64], rate: Fraction) -> NDArray[np.float64]:
    """Return the offsets of pictures from an even grid, in ticks."""
    return seconds * float(rate) - np.arange(len(seconds))


def _is_steady(seconds: NDArray[np.float64], rate: Fraction) -> bool:
    """Tell whether pictures are evenly spaced: the offsets are small, or jitter without drift."""
    strays = _strays(seconds, rate)
    straying = float(np.ptp(strays))
    if straying < STEADY_TICKS and straying < STEADY_SECONDS * rate:
        return True
    if len(strays) < STEADY_PARTS**2:
        return False
    means = [part.mean() for part in np.array_split(strays, STEADY_PARTS)]
    return bool(
        straying < JITTER_TICKS and straying < JITTER_SECONDS * rate and np.ptp(means) < DRIFT_TICKS
    )


def _is_grid(seconds: NDArray[np.float64], rate: Fraction) -> bool:
    """Tell whether pictures lie on ticks, each on its own one."""
    ticks = np.diff(seconds) * float(rate)
    ticks = ticks[ticks > 0]
    whole = np.rint(ticks)
    if np.mean((abs(ticks - whole) < GRID_TOLERANCE) & (whole > 0)) < GRID_SHARE:
        return False
    return bool(np.mean(assign_ticks(seconds * float(rate), rate) < 0) < 1 - GRID_SHARE)


def _grid_cost(seconds: NDArray[np.float64], rate: Fraction) -> float:
    """Return the cost, in repetitions, of a rate on whose ticks the pictures lie."""
    ticks = np.diff(seconds) * float(rate)
    cost = _lost_and_repeated(assign_ticks(seconds * float(rate), rate)) + MISS_COST * float(
        abs(ticks - np.rint(ticks)).sum()
    )
    return cost if rate in STANDARD_RATES else cost * ODD_COST


def _cost(seconds: NDArray[np.float64], rate: Fraction) -> float:
    """Return the cost of any rate, in repetitions."""
    places = seconds * float(rate)
    ticks = assign_ticks(places, rate)
    kept = ticks >= 0
    shifts = (ticks[kept] - places[kept]) / float(rate)
    shifts -= np.median(shifts)  # a shift of all pictures costs nothing
    cost = _lost_and_repeated(ticks) + float(np.square(shifts / SHIFT_SECONDS).sum())
    return cost if rate in STANDARD_RATES else cost * ODD_COST


def _lost_and_repeated(ticks: NDArray[np.int64]) -> float:
    kept = ticks[ticks >= 0]
    return LOST_COST * (len(ticks) - len(kept)) + float(
        np.minimum(np.diff(kept) - 1, PAUSE_TICKS).sum()
    )


def assign_ticks(places: NDArray[np.float64], rate: Fraction) -> NDArray[np.int64]:
    """Map places (T,) of pictures, increasing, in ticks, to whole ticks.

    Returns -1 for pictures that are left out. Evenly spaced pictures get a tick each. Otherwise, a
    picture whose tick is taken moves to the next free one, unless it is then later than LATE_TICKS.
    """
    order = np.arange(len(places))
    if _is_steady(places / float(rate), rate):
        return order
    nearest = np.floor(places + 0.5).astype(np.int64)
    ticks = np.maximum.accumulate(nearest - order) + order  # each after the previous one
    if (ticks - places <= LATE_TICKS).all():
        return ticks
    last = -1
    for index, (tick, place) in enumerate(zip(nearest.tolist(), places.tolist(), strict=True)):
        later = max(tick, last + 1)
        ticks[index] = last = later if later - place <= LATE_TICKS else -1
        if ticks[index] < 0:
            last = int(ticks[:index].max(initial=-1))
    return ticks
