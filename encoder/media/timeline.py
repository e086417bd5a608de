"""When the pictures of a video are shown: their times, joined where they jump, as ticks of a constant rate."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from encoder.codec.container import MAX_DENOMINATOR, MAX_RATE
from encoder.common.errors import SourceError

DEFAULT_RATE = Fraction(25)
"""Frames per second of a source that does not say."""
STANDARD_RATES = (
    *map(Fraction, (24, 25, 30, 50, 60)),
    *(Fraction(rate, 1001) for rate in (24_000, 30_000, 60_000)),
    *map(Fraction, (10, 12, "25/2", 15, 20, 48, 90, 100, 120, 144, 240)),
)
"""Rates at which cameras and screens record, the likelier ones of those that lie close together first."""
STANDARD_TOLERANCE = 0.02
SHORT_TOLERANCE = 0.05
"""How far the mean rate of a source may be from a standard rate that is tried, as a share: of few pictures, of which a
shifted one shifts the mean, farther."""
STEADY_TICKS = 0.9
STEADY_SECONDS = 0.045
"""Pictures that stray by less than this from even places, from the earliest to the latest, are evenly spaced: 50 pictures per
second on a screen of 60 Hz stray by 0.83 ticks."""
STEADY_PARTS = 8
DRIFT_TICKS = 0.3
JITTER_TICKS = 3.0
JITTER_SECONDS = 0.12
"""So are those that stray by less than JITTER_TICKS, as a camera's do that tells the time at which it sent them, if the means
of so many parts differ by less than DRIFT_TICKS: where a picture is missing, all later ones stray by a tick."""
STRAYING_STEP = 0.05
"""Rates at which pictures stray by as many steps suit them equally well."""
GRID_TOLERANCE = 0.1
"""How far from a tick a gap may end, in ticks: containers round times to milliseconds."""
GRID_SHARE = 0.95
"""Share of the gaps that have to end on ticks, and of the pictures that have to get one."""
LATE_TICKS = 1.01
"""A picture that others keep from its tick may be shown this much later; it is left out rather than shown later still."""
LOST_COST = 4
PAUSE_TICKS = 2
"""Repetitions that leaving a picture out is as bad as, and the most that count in a gap, which may be a pause."""
MISS_COST = 4
"""Repetitions that gaps are as bad as which miss the ticks of a grid by one tick together."""
SHIFT_SECONDS = 0.02
ODD_COST = 1.5
"""A picture that is shifted by this time is as bad as a repetition, and by twice as much as four. Other rates than the standard
ones have to be this much better."""
JUMP_SECONDS = 10
"""A larger step between two packets of a broadcast is a jump (FFmpeg's `-dts_delta_threshold`)."""
REORDER_SECONDS = 1
"""A picture may come this much earlier than it is shown."""
STAYING_PACKETS = 4
"""Packets that have to be earlier than one before them for their times to have gone back."""
MPEG_UNIT = Fraction(1, 90_000)
MPEG_WRAP = 1 << 33
"""Seconds per tick of MPEG's times, and the number of them at which they begin anew."""
MIN_TICKS = 1000
TICKS_PER_PICTURE = 250
"""Frames that a source may have whatever it is, and besides for each of its pictures."""


@dataclass(frozen=True)
class PacketTimes:
    """What is kept of a packet."""

    pts: int | None
    dts: int | None
    duration: int


@dataclass(frozen=True)
class Jump:
    """Two neighbouring packets whose times do not follow one another, as in recordings that were put together."""

    at_seconds: float
    """When the picture behind the jump is shown, in seconds from the start."""
    seconds: float
    """Size of the jump; negative if the times go back."""

    def __str__(self) -> str:
        """Return where and how far, for people."""
        return f"by {self.seconds:g} s at {self.at_seconds:.2f} s"


def join(
    packets: Sequence[PacketTimes], unit: Fraction, *, may_jump: bool
) -> tuple[list[int | None], list[Jump]]:
    """Return the presentation times of packets, in the order of the file, such that they go on where they jump; and the jumps.

    `unit` are the seconds of a tick. Times jump where decoding times go back and stay there, or, in formats in which they may
    jump (FFmpeg's AVFMT_TS_DISCONT), ahead by more than JUMP_SECONDS. Where there are no decoding times, pictures come in
    another order than they are shown in, and only steps back by more than REORDER_SECONDS count.
    """
    decoded = [packet.dts for packet in packets]
    has_decoding_times = any(time is not None for time in decoded)
    clocks = decoded if has_decoding_times else [packet.pts for packet in packets]
    found: list[int | None] = []
    jumps: list[Jump] = []
    offset = step = delay = 0
    first = last = None
    for index, (packet, clock) in enumerate(zip(packets, clocks, strict=True)):
        if clock is not None:
            if first is None or last is None:
                first = last = clock
            seconds = (clock - last) * unit
            if (may_jump and seconds > JUMP_SECONDS) or (
                clock < last
                and all(
                    later is None or later < last
                    for later in clocks[index : index + STAYING_PACKETS]
                )
                and (has_decoding_times or (last - clock) * unit > REORDER_SECONDS)
            ):
                offset += last + (packet.duration or step or 1) - clock
                jumps.append(
                    Jump(
                        float((clock + offset - first) * unit),
                        float(_unwrapped(clock - last, unit) * unit),
                    )
                )
            elif clock > last:
                step = min(clock - last, step or clock - last)
            last = clock
        pts = packet.pts
        if pts is not None and packet.dts is not None:
            # At a joint, a packet may have the one time of the first recording and the other of the second.
            if may_jump and abs(pts - packet.dts) * unit > JUMP_SECONDS:
                pts = packet.dts + delay
            delay = pts - packet.dts
        found.append(None if pts is None else pts + offset)
    return found, jumps


def _unwrapped(step: int, unit: Fraction) -> int:
    """Return a step of times of 33 bits, as MPEG has them, without the wrap-around that FFmpeg takes a step back for."""
    if unit == MPEG_UNIT and step > MPEG_WRAP // 2:
        return step - MPEG_WRAP
    return step


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
    packet_times: Sequence[int | None] | None = None
    """Presentation time of each packet in the order of the file, if some were joined."""

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
    times: Sequence[int], unit: Fraction, declared: Iterable[Fraction], *, last_duration: int
) -> Timeline:
    """Return the timeline of pictures that are shown at some times, in ticks of `unit` seconds and in any order.

    `declared` are the rates that the file tells, the likelier ones first; `last_duration` is how long the last picture stays.
    Raises SourceError where so few pictures make so many frames that the times must be wrong.
    """
    shown = np.sort(np.array(times, np.int64))
    seconds = (shown - shown[0]) * float(unit)
    stays = last_duration * unit
    if len(shown) == 1:
        return Timeline(_single_rate(stays, declared), 1, np.zeros(1, np.int64), shown)
    rate = pick_rate(seconds, [each for each in declared if 0 < each <= MAX_RATE])
    ticks = assign_ticks(seconds * float(rate), rate) if seconds[-1] else np.arange(len(shown))
    count = int(ticks.max()) + max(round(stays * rate), 1)
    if count > MIN_TICKS + TICKS_PER_PICTURE * len(shown):
        gap = int(np.argmax(np.diff(seconds)))
        place = (
            f"{seconds[gap + 1] - seconds[gap]:.1f} s lie between the pictures {gap} and {gap + 1}"
        )
        raise SourceError(
            f"{len(shown)} pictures make {count} frames at {float(rate):g} per second: {place}"
        )
    return Timeline(rate, count, ticks, shown)


def _single_rate(stays: Fraction, declared: Iterable[Fraction]) -> Fraction:
    """Return a rate at which a single picture is a frame, whatever the file tells: some tell their unit of time."""
    rates = [1 / stays] if stays else []
    return next(
        (rate for rate in (*rates, *declared) if 1 <= rate <= max(STANDARD_RATES)), DEFAULT_RATE
    )


def pick_rate(seconds: NDArray[np.float64], declared: Sequence[Fraction]) -> Fraction:
    """Return the constant rate that suits pictures best that are shown at some times (T,), rising.

    Pictures that are evenly spaced, but for the grid of a screen that they were taken from, get the rate that makes each a
    frame. Others get one on whose ticks they lie, or else one that leaves few out, repeats few and shifts none by much.
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
    """Return rates that may suit pictures whose gaps, in seconds, and whose mean rate are given, the likelier ones first."""
    # A rate that is told may be twice that of the pictures, or more.
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
    """Return the largest time of which all gaps are multiples, in hundredths of a second, as animations count; in seconds."""
    return max(int(np.gcd.reduce(np.rint(gaps * 100).astype(np.int64))), 1) / 100


def _strays(seconds: NDArray[np.float64], rate: Fraction) -> NDArray[np.float64]:
    """Return how far pictures are from even places, in ticks."""
    return seconds * float(rate) - np.arange(len(seconds))


def _is_steady(seconds: NDArray[np.float64], rate: Fraction) -> bool:
    """Tell whether pictures are evenly spaced: none is far from its place, or those of any part are not on average."""
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
    """Tell whether pictures lie on ticks, each on one of its own."""
    ticks = np.diff(seconds) * float(rate)
    ticks = ticks[ticks > 0]
    whole = np.rint(ticks)
    if np.mean((abs(ticks - whole) < GRID_TOLERANCE) & (whole > 0)) < GRID_SHARE:
        return False
    return bool(np.mean(assign_ticks(seconds * float(rate), rate) < 0) < 1 - GRID_SHARE)


def _grid_cost(seconds: NDArray[np.float64], rate: Fraction) -> float:
    """Return what a rate on whose ticks pictures lie does to them, counted in repetitions."""
    ticks = np.diff(seconds) * float(rate)
    cost = _lost_and_repeated(assign_ticks(seconds * float(rate), rate)) + MISS_COST * float(
        abs(ticks - np.rint(ticks)).sum()
    )
    return cost if rate in STANDARD_RATES else cost * ODD_COST


def _cost(seconds: NDArray[np.float64], rate: Fraction) -> float:
    """Return what any rate does to pictures, counted in repetitions."""
    places = seconds * float(rate)
    ticks = assign_ticks(places, rate)
    kept = ticks >= 0
    shifts = (ticks[kept] - places[kept]) / float(rate)
    shifts -= np.median(shifts)  # all of them later is no harm
    cost = _lost_and_repeated(ticks) + float(np.square(shifts / SHIFT_SECONDS).sum())
    return cost if rate in STANDARD_RATES else cost * ODD_COST


def _lost_and_repeated(ticks: NDArray[np.int64]) -> float:
    kept = ticks[ticks >= 0]
    return LOST_COST * (len(ticks) - len(kept)) + float(
        np.minimum(np.diff(kept) - 1, PAUSE_TICKS).sum()
    )


def assign_ticks(places: NDArray[np.float64], rate: Fraction) -> NDArray[np.int64]:
    """Return the tick of each picture, given its place (T,) on the scale of ticks, rising; -1 for one that is left out.

    Evenly spaced pictures get a tick each. Of others, one whose tick is taken goes to the next if it is late by no more than
    LATE_TICKS then.
    """
    order = np.arange(len(places))
    if _is_steady(places / float(rate), rate):
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
