"""Choice of a ladder's rung for a viewer, by reports and requests that RTCP brings."""

from dataclasses import dataclass

CONGESTED_LOSS = 0.08
"""Share of lost packets from which a line is too narrow."""
SEVERE_LOSS = 0.3
"""Share from which the lowest rung alone may fit."""
GOOD_LOSS = 0.02
CONGESTED_DELAY = 0.25
"""Round-trip time over the least one, in seconds, that tells of a queue."""
GOOD_DELAY = 0.08
LOST_PICTURES = 2
"""Requests for key frames within LOST_SECONDS that tell of a line that is too narrow."""
LOST_PACKETS = 16
"""Requests for packets within LOST_SECONDS that tell so, before the next report of RTCP does."""
SEVERE_PACKETS = 40
LOST_SECONDS = 1.0
FALL_SECONDS = 1.5
"""Time after a fall in which reports are still of the former rung."""
RISE_SECONDS = 0.4
"""The same after a rise: reports of the former rung are good ones."""
WAIT_SECONDS = 3.0
"""Time without trouble after which a higher rung is tried."""
LONG_WAIT_SECONDS = 6.0
"""The same after a trial that failed."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """State of a viewer's line."""

    loss: float | None
    """Share of the packets lost lately; None before the first report."""
    rtt_seconds: float | None
    pictures_lost: int
    """Requests for key frames so far."""
    packets_lost: int
    """Requests for lost packets so far."""
    dropped: int
    """Frames that the viewer was too slow for, so far."""


class RungChoice:
    """The rung of a viewer: lower at once when the line is too narrow, higher when it is well."""

    def __init__(self, rungs: int, rung: int, now: float) -> None:
        """Take the number of rungs, the present one, and a time in seconds."""
        self.rung = rung
        """Number of the chosen rung, from 0, the lowest."""
        self._rungs = rungs
        self._changed_at = now
        self._well_since = now
        self._settling = FALL_SECONDS
        self._rose_at: float | None = None
        self._wait = WAIT_SECONDS
        self._least_rtt: float | None = None
        self._pictures = _Recent()
        self._packets = _Recent()
        self._dropped = 0

    def observe(self, line: Line, now: float) -> int:
        """Return the rung to watch, given the state of the line at a time in seconds."""
        is_narrow, is_severe = self._judge(line, now)
        if now - self._changed_at < self._settling:
            self._well_since = now
        elif is_narrow:
            self._well_since = now
            has_failed = self._rose_at is not None and now - self._rose_at < LONG_WAIT_SECONDS
            self._wait = LONG_WAIT_SECONDS if has_failed else WAIT_SECONDS
            self._change(0 if is_severe else self.rung - 1, now)
        elif not self._is_well(line):
            self._well_since = now
        elif now - self._well_since >= self._wait and self.rung + 1 < self._rungs:
            self._wait = WAIT_SECONDS
            self._rose_at = now
            self._change(self.rung + 1, now)
        return self.rung

    def _change(self, rung: int, now: float) -> None:
        rung = max(rung, 0)
        if rung != self.rung:
            self._settling = RISE_SECONDS if rung > self.rung else FALL_SECONDS
            self.rung = rung
            self._changed_at = self._well_since = now
            self._pictures.clear()
            self._packets.clear()

    def _judge(self, line: Line, now: float) -> tuple[bool, bool]:
        """Return whether the line is too narrow, and whether by far."""
        dropped = line.dropped > self._dropped
        self._dropped = line.dropped
        pictures = self._pictures.count(line.pictures_lost, now)
        packets = self._packets.count(line.packets_lost, now)
        if line.rtt_seconds is not None:
            self._least_rtt = min(self._least_rtt or line.rtt_seconds, line.rtt_seconds)
        loss = line.loss or 0.0
        is_narrow = (
            loss > CONGESTED_LOSS
            or self._delay(line) > CONGESTED_DELAY
            or pictures >= LOST_PICTURES
            or packets >= LOST_PACKETS
            or dropped
        )
        return is_narrow, loss > SEVERE_LOSS or packets >= SEVERE_PACKETS

    def _delay(self, line: Line) -> float:
        """Return the round-trip time over the least one, in seconds."""
        return (line.rtt_seconds or 0.0) - (self._least_rtt or 0.0)

    def _is_well(self, line: Line) -> bool:
        return (line.loss or 0.0) <= GOOD_LOSS and self._delay(line) <= GOOD_DELAY


class _Recent:
    """Growth of a count within the last LOST_SECONDS."""

    def __init__(self) -> None:
        self._known = 0
        self._grown: list[tuple[float, int]] = []
        """Times, and by how much the count had grown then."""

    def count(self, total: int, now: float) -> int:
        """Take the present count, and return its growth."""
        self._grown.append((now, max(total - self._known, 0)))
        self._known = total
        self._grown = [each for each in self._grown if now - each[0] < LOST_SECONDS]
        return sum(growth for _, growth in self._grown)

    def clear(self) -> None:
        """Forget the growth."""
        self._grown.clear()
