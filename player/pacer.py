"""Time, cut into the ticks of a frame rate."""

import time
from collections.abc import Callable
from fractions import Fraction

from player.video_encoder import CLOCK_RATE


class Pacer:
    """Ticks by an absolute clock: a late tick does not delay those after it, and ticks that passed are left out."""

    def __init__(self, rate: Fraction, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._start = clock()
        self._tick = 0

    def wait_seconds(self) -> float:
        """Return the time until the next tick; 0 if it is due."""
        return max(self._start + float(self._tick / self._rate) - self._clock(), 0.0)

    def take(self) -> tuple[int, int]:
        """Take the tick that is due: return its time in units of 1 / CLOCK_RATE, and how many were left out before it."""
        due = max(int((self._clock() - self._start) * self._rate), self._tick)
        left_out = due - self._tick
        self._tick = due + 1
        return round(due * CLOCK_RATE / self._rate), left_out
