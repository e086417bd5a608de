"""When the pictures of a video are shown: their times, joined where they jump, as ticks of a constant rate."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from encoder.codec.container import MAX_DENOMINATOR, MAX_RATE
from encoder.codec.errors import SourceError

DEFAULT_RATE = Fraction(25)
"""Frames per second of a source that does not say."""
STANDARD_RATES = tuple(
    map(Fraction, "24 25 30 50 60 24000/1001 30000/1001 60000/1001 10 12 15 20 48 100 120".split())  # noqa: SIM905
)
"""Rates at which cameras and screens record, the likelier ones of those that lie close together first."""
STANDARD_TOLERANCE, SHORT_TOLERANCE = 0.02, 0.05
"""How far the mean rate of a source may be from a standard rate that is tried, as a share: of few pictures, of which a
shifted one shifts the mean, farther."""
STEADY_TICKS = 0.9
"""Pictures that stray by less than this from even places, from the earliest to the latest, are evenly spaced: 50 pictures per
second on a screen of 60 Hz stray by 0.83 ticks."""
STEADY_PARTS, DRIFT_TICKS, JITTER_TICKS = 8, 0.3, 3.0
"""So are those that stray by less than JITTER_TICKS, as a camera's do that tells the time at which it sent them, if the means
of so many parts differ by less than DRIFT_TICKS: where a picture is missing, all later ones stray by a tick."""
STRAYING_STEP = 0.05
"""Rates at which pictures stray by as many steps suit them equally well."""
GRID_TOLERANCE = 0.1
"""How far from a tick a gap may end, in ticks: containers round times to milliseconds."""
GRID_SHARE = 0.95
"""Share of the gaps that have to end on ticks, and of the pictures that have to get one."""
SINGLE_SHARE = 0.1
"""Share of the gaps that have to be of one tick: a grid of which no picture fills a single tick is finer than the source."""
LATE_TICKS = 1.0
"""A picture that others keep from its tick may be shown this much later; it is left out rather than shown later still."""
LOST_COST, PAUSE_TICKS, SHIFT_SECONDS, ODD_COST = 4, 2, 0.02, 1.2
"""A rate costs so many repetitions for each picture that it leaves out, so many at most for one gap, which may be a pause,
and one for each shift of a picture by this time; and so many times as much if it is not a standard one."""
JUMP_SECONDS = 10
"""A larger step between two packets of a broadcast is a jump (FFmpeg's `-dts_delta_threshold`)."""
REORDER_SECONDS = 1
"""Packets of other files may be this much earlier than those before."""
MIN_TICKS, TICKS_PER_PICTURE = 1000, 250
"""Frames that a source may have whatever it is, and besides for each of its pictures."""


class Timed(Protocol):
    """A packet, or what is kept of one."""

    pts: int | None
    dts: int | None
    duration: int | None


@dataclass(frozen=True)
class Jump:
    """Two neighbouring packets whose times do not follow one another, as in recordings that were put together."""

    packet: int
    """Number of the packet behind the jump, from 0, in the order of the file."""
    at_seconds: float
    """When the picture behind the jump is shown, in seconds from the start."""
    seconds: float
    """Size of the jump; negative if the times go back."""

    def __str__(self) -> str:
        """Return where and how far, for people."""
        return f"by {self.seconds:g} s at {self.at_seconds:.2f} s"


class Joiner:
    """Lets the times of packets go on where they jump; takes all packets of a file, from the first on."""

    def __init__(self, unit: Fraction, *, may_jump: bool) -> None:
        """Take seconds per tick, and whether times of this format may jump ahead (FFmpeg's AVFMT_TS_DISCONT)."""
        self.jumps: list[Jump] = []
        self._unit, self._may_jump = unit, may_jump
        self._offset = self._packets = self._step = 0
        self._first: int | None = None
        self._last = 0

    def offset(self, packet: Timed) -> int:
        """Return the ticks by which the times of a packet are to be shifted."""
        time = packet.pts if packet.dts is None else packet.dts
        if time is not None:
            step = 0 if self._first is None else time - self._last
            self._first = time if self._first is None else self._first
            if self._is_jump(step, exact=self._may_jump and packet.dts is not None):
                self._offset += (packet.duration or self._step or 1) - step
                at = float((time + self._offset - self._first) * self._unit)
                self.jumps.append(Jump(self._packets, at, float(step * self._unit)))
            elif step > 0:
                self._step = min(step, self._step or step)
            self._last = time
        self._packets += 1
        return self._offset

    def _is_jump(self, step: int, *, exact: bool) -> bool:
        seconds = step * self._unit
        return seconds < (0 if exact else -REORDER_SECONDS) or (self._may_jump and seconds > JUMP_SECONDS)


@dataclass(frozen=True, eq=False)
class Timeline:
    """At which tick each picture of a source appears."""

    rate: Fraction
    """Ticks per second."""
    count: int
    """Number of ticks, which is that of the frames that come out."""
    ticks: NDArray[np.int64]
    """Tick of each picture in the order in which they are shown, rising; -1 for one that is left out."""
    times: NDArray[np.int64] | None = None
    """Presentation times of the pictures, rising; None if the file has none, and they just follow one another."""
    jumps: Sequence[Jump] = ()
    """Where times were joined."""

    @property
    def left_out(self) -> int:
        """Number of pictures that are left out, since others are shown at their time."""
        return int((self.ticks < 0).sum())

    @property
    def repeated(self) -> int:
        """Number of ticks at which a picture is shown again, in a gap or after the last one."""
        return self.count - len(self.ticks) + self.left_out

    @property
    def last_tick(self) -> int:
        """Tick at which the last picture appears; it may stay for longer than one."""
        return int(self.ticks.max())


def even_timeline(count: int, rate: Fraction) -> Timeline:
    """Return the timeline of pictures that just follow one another."""
    return Timeline(rate, count, np.arange(count))


def make_timeline(
    times: Sequence[int], unit: Fraction, declared: Iterable[Fraction], *, last_duration: int, jumps: Sequence[Jump] = ()
) -> Timeline:
    """Return the timeline of pictures that are shown at some times, in ticks of `unit` seconds and in any order.

    `declared` are the rates that the file tells, the likelier ones first; `last_duration` is how long the last picture stays.
    Raises SourceError where so few pictures make so many frames that the times must be wrong.
    """
    shown = np.sort(np.array(times, np.int64))
    seconds = (shown - shown[0]) * float(unit)
    stays = last_duration * unit
    if len(shown) == 1:
        return Timeline(_single_rate(stays, declared), 1, np.zeros(1, np.int64), shown, jumps)
    rate = pick_rate(seconds, [each for each in declared if 0 < each <= MAX_RATE])
    ticks = assign_ticks(seconds * float(rate)) if seconds[-1] else np.arange(len(shown))
    count = int(ticks.max()) + max(round(stays * rate), 1)
    if count > MIN_TICKS + TICKS_PER_PICTURE * len(shown):
        gap = int(np.argmax(np.diff(seconds)))
        place = f"{seconds[gap + 1] - seconds[gap]:.1f} s lie between the pictures {gap} and {gap + 1}"
        raise SourceError(f"{len(shown)} pictures make {count} frames at {float(rate):g} per second: {place}")
    return Timeline(rate, count, ticks, shown, jumps)


def _single_rate(stays: Fraction, declared: Iterable[Fraction]) -> Fraction:
    """Return a rate at which a single picture is a frame, whatever the file tells: some tell their unit of time."""
    rates = [1 / stays] if stays else []
    return next((rate for rate in (*rates, *declared) if 1 <= rate <= max(STANDARD_RATES)), DEFAULT_RATE)


def pick_rate(seconds: NDArray[np.float64], declared: Sequence[Fraction]) -> Fraction:
    """Return the constant rate that suits pictures best that are shown at some times (T,), rising.

    Pictures that are evenly spaced, but for the grid of a screen that they were taken from, get the rate that makes each a
    frame. Others get one on whose ticks they lie, or else one that leaves few out, repeats few and shifts none by much.
    """
    gaps = np.diff(seconds)
    gaps = gaps[gaps > 0]
    if not len(gaps):
        return (*declared, DEFAULT_RATE)[0]
    short, typical = np.quantile(gaps, (SINGLE_SHARE, 0.5)).tolist()
    mean = len(seconds) / (float(seconds[-1] - seconds[0]) + typical)
    tolerance = max(STANDARD_TOLERANCE, min(1 / len(seconds), SHORT_TOLERANCE))
    known = [*(rate for rate in declared if rate in STANDARD_RATES), *STANDARD_RATES]
    known = [rate for rate in dict.fromkeys(known) if abs(mean / float(rate) - 1) < tolerance]
    measured = Fraction(mean).limit_denominator(MAX_DENOMINATOR)
    # A rate that is told may be twice that of the pictures, or more.
    grids = [*declared, *(rate / max(round(gap * rate), 1) for gap in (typical, short) for rate in declared)]
    grids += [Fraction(1 / gap).limit_denominator(MAX_DENOMINATOR) for gap in (typical, short)]
    if steady := [rate for rate in known if _is_steady(seconds, rate)]:
        return min(steady, key=lambda rate: round(_straying(seconds, rate) / STRAYING_STEP))
    found = [rate for rate in grids if _is_grid(seconds, rate)]
    if not found and _is_steady(seconds, measured):
        return measured
    return found[0] if found else min([*known, *grids, measured], key=lambda rate: _cost(seconds, rate))


def _strays(seconds: NDArray[np.float64], rate: Fraction) -> NDArray[np.float64]:
    """Return how far pictures are from even places, in ticks."""
    return seconds * float(rate) - np.arange(len(seconds))


def _straying(seconds: NDArray[np.float64], rate: Fraction) -> float:
    return float(np.ptp(_strays(seconds, rate)))


def _is_steady(seconds: NDArray[np.float64], rate: Fraction) -> bool:
    """Tell whether pictures are evenly spaced: none is far from its place, or those of any part are not on average."""
    strays = _strays(seconds, rate)
    if np.ptp(strays) < STEADY_TICKS:
        return True
    means = [part.mean() for part in np.array_split(strays, STEADY_PARTS)] if len(strays) >= STEADY_PARTS**2 else strays
    return bool(np.ptp(strays) < JITTER_TICKS and np.ptp(means) < DRIFT_TICKS)


def _is_grid(seconds: NDArray[np.float64], rate: Fraction) -> bool:
    """Tell whether pictures lie on ticks, each on one of its own."""
    ticks = np.diff(seconds) * float(rate)
    ticks = ticks[ticks > 0]
    whole = np.rint(ticks)
    on_ticks = (abs(ticks - whole) < GRID_TOLERANCE) & (whole > 0)
    if np.mean(on_ticks) < GRID_SHARE or np.mean(whole == 1) < SINGLE_SHARE:
        return False
    return bool(np.mean(assign_ticks(seconds * float(rate)) < 0) < 1 - GRID_SHARE)


def _cost(seconds: NDArray[np.float64], rate: Fraction) -> float:
    places = seconds * float(rate)
    ticks = assign_ticks(places)
    kept = ticks >= 0
    repeated = np.minimum(np.diff(ticks[kept]) - 1, PAUSE_TICKS).sum()
    shifts = abs(ticks[kept] - places[kept]) / float(rate)
    cost = LOST_COST * float((~kept).sum()) + float(repeated) + float(shifts.sum()) / SHIFT_SECONDS
    return cost if rate in STANDARD_RATES else cost * ODD_COST


def assign_ticks(places: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the tick of each picture, given its place (T,) on the scale of ticks, rising; -1 for one that is left out.

    Evenly spaced pictures get a tick each. Of others, one whose tick is taken goes to the next if it is late by no more than
    LATE_TICKS then.
    """
    order = np.arange(len(places))
    if _is_steady(places, Fraction(1)):
        return order
    nearest = np.floor(places + 0.5).astype(np.int64)
    ticks = np.maximum.accumulate(nearest - order) + order  # each behind the one before
    if (ticks - places <= LATE_TICKS).all():
        return ticks
    last = -1
    for index, (tick, place) in enumerate(zip(nearest.tolist(), places.tolist(), strict=True)):
        later = max(tick, last + 1)
        ticks[index] = last = later if later - place <= LATE_TICKS else -1
        if ticks[index] < 0:
            last = int(ticks[:index].max(initial=-1))
    return ticks
