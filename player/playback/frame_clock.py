"""Time, cut into the ticks of a frame rate."""

import time
from collections.abc import Callable
from fractions import Fraction

from player.rtc.video_encoder import CLOCK_RATE


class FrameClock:
    """Ticks by an absolute clock: a late tick does not delay those after it, and ticks that passed are left out.

    Presentation timestamps count from the clock's origin, so that those of several pacers go on from one to another.
    """

    def __init__(self, rate: Fraction, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latest = -1
        self.restart(rate)

    def restart(self, rate: Fraction) -> None:
        """Tick now, and go on from there."""
        self._rate = rate
        self._start = self._clock()
        self._tick = 0

    def wait_seconds(self) -> float:
        """Return the time until the next tick; 0 if it is due."""
        return max(self._start + float(self._tick / self._rate) - self._clock(), 0.0)

    def take(self) -> tuple[int, int]:
        """Take the tick that is due: return its time in units of 1 / CLOCK_RATE, and how many were left out before it."""
        due = max(int((self._clock() - self._start) * self._rate), self._tick)
        left_out = due - self._tick
        self._tick = due + 1
        # Encoders want timestamps that only ever rise, also where two ticks are one after a restart.
        self._latest = max(
            round((self._start + float(due / self._rate)) * CLOCK_RATE), self._latest + 1
        )
        return self._latest, left_out
