"""Times of a video's pictures, joined where they jump, as ticks of a constant rate."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from encoder.codec.container import MAX_RATE
from encoder.common.errors import SourceError
from encoder.media.frame_rate import DEFAULT_RATE, STANDARD_RATES, assign_ticks, pick_rate

JUMP_SECONDS = 10
"""Largest step between two packets of a broadcast that is not a jump (FFmpeg's
`-dts_delta_threshold`)."""
REORDER_SECONDS = 1
"""Largest step back between presentation times that reordered pictures explain, in seconds."""
STAYING_PACKETS = 4
"""Number of packets in a row with times before an earlier one, from which on times have gone
back."""
MPEG_UNIT = Fraction(1, 90_000)
"""Seconds per tick of MPEG's clock."""
MPEG_WRAP = 1 << 33
"""Number of ticks after which MPEG's clock restarts."""
MIN_TICKS = 1000
"""Number of frames that any source may have."""
TICKS_PER_PICTURE = 250
"""Number of frames that a source may have in addition for each picture."""


@dataclass(frozen=True)
class PacketTimes:
    """Times of a packet."""

    pts: int | None
    dts: int | None
    duration: int


@dataclass(frozen=True)
class Jump:
    """Step between neighbouring packets whose times do not follow one another.

    Recordings that were put together have such jumps.
    """

    at_seconds: float
    """Time of the picture after the jump, in seconds from the start."""
    seconds: float
    """Size of the jump; negative if the times go back."""

    def __str__(self) -> str:
        """Return a readable description of the size and the place."""
        return f"by {self.seconds:g} s at {self.at_seconds:.2f} s"


def join(
    packets: Sequence[PacketTimes], unit: Fraction, *, may_jump: bool
) -> tuple[list[int | None], list[Jump]]:
    """Return continuous presentation times of packets, in the order of the file, and the jumps.

    `unit` is the duration of a tick in seconds. Times jump if decoding times go back and stay
    there. In formats whose times may jump (FFmpeg's AVFMT_TS_DISCONT), they also jump if they step
    ahead by more than JUMP_SECONDS. Without decoding times, pictures come in another order than
    they are shown. Then only steps back by more than REORDER_SECONDS count.
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
            # At a joint, a packet may have one time of the first recording and the other of the
            # second.
            if may_jump and abs(pts - packet.dts) * unit > JUMP_SECONDS:
                pts = packet.dts + delay
            delay = pts - packet.dts
        found.append(None if pts is None else pts + offset)
    return found, jumps


def _unwrapped(step: int, unit: Fraction) -> int:
    """Return a step of times without a false wrap-around of MPEG's 33-bit clock.

    FFmpeg takes a step back for a wrap-around.
    """
    if unit == MPEG_UNIT and step > MPEG_WRAP // 2:
        return step - MPEG_WRAP
    return step


@dataclass(frozen=True, eq=False)
class SourceTimeline:
    """Assignment of a source's pictures to ticks."""

    rate: Fraction
    """Ticks per second."""
    count: int
    """Number of ticks, which is the number of frames."""
    ticks: NDArray[np.int64]
    """Tick of each picture in the order of display, increasing; -1 for a picture that is left
    out."""
    times: NDArray[np.int64] | None = None
    """Presentation times of the pictures, increasing. None if the file has no times and pictures
    just follow one another."""
    jumps: Sequence[Jump] = ()
    """Jumps at which times were joined."""
    packet_times: Sequence[int | None] | None = None
    """Presentation time of each packet in the order of the file, if some were joined."""

    @property
    def left_out(self) -> int:
        """Number of pictures that are left out because others are shown at their time."""
        return int((self.ticks < 0).sum())

    @property
    def repeated(self) -> int:
        """Number of ticks that repeat a picture, in a gap or after the last picture."""
        return self.count - len(self.ticks) + self.left_out

    @property
    def last_tick(self) -> int:
        """Tick at which the last picture appears; the picture may stay for several ticks."""
        return int(self.ticks.max())


def even_timeline(count: int, rate: Fraction) -> SourceTimeline:
    """Return the timeline of pictures that just follow one another."""
    return SourceTimeline(rate, count, np.arange(count))


def make_timeline(
    times: Sequence[int], unit: Fraction, declared: Iterable[Fraction], *, last_duration: int
) -> SourceTimeline:
    """Return the timeline of pictures with given times, in ticks of `unit` seconds, in any order.

    `declared` are the rates that the file declares, the likelier ones first. `last_duration` is the
    duration of the last picture. Raises SourceError if few pictures make so many frames that the
    times must be wrong.
    """
    shown = np.sort(np.array(times, np.int64))
    seconds = (shown - shown[0]) * float(unit)
    stays = last_duration * unit
    if len(shown) == 1:
        return SourceTimeline(_single_rate(stays, declared), 1, np.zeros(1, np.int64), shown)
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
    return SourceTimeline(rate, count, ticks, shown)


def _single_rate(stays: Fraction, declared: Iterable[Fraction]) -> Fraction:
    """Return a plausible rate at which a single picture is one frame.

    Declared rates may be implausible, because some files declare their unit of time.
    """
    rates = [1 / stays] if stays else []
    return next(
        (rate for rate in (*rates, *declared) if 1 <= rate <= max(STANDARD_RATES)), DEFAULT_RATE
    )
