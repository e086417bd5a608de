"""Ticks of a frame rate."""

import time
from collections.abc import Callable
from fractions import Fraction

from player.rtc.video_encoder import CLOCK_RATE


class FrameClock:
    """Ticks of a frame rate on an absolute clock.

    A late tick does not delay the following ones, and ticks that have passed are skipped.
    Timestamps count from the origin of the clock, so those of several frame clocks are comparable.
    """

    def __init__(self, rate: Fraction, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latest = -1
        self.restart(rate)

    def restart(self, rate: Fraction) -> None:
        """Tick now, and at the given rate from now on."""
        self._rate = rate
        self._start = self._clock()
        self._tick = 0

    def wait_seconds(self) -> float:
        """Return the time until the next tick; 0 if it is due."""
        return max(self._start + float(self._tick / self._rate) - self._clock(), 0.0)

    def take(self) -> tuple[int, int]:
        """Take the tick that is due.

        Return its timestamp in units of 1 / CLOCK_RATE seconds, and the number of skipped ticks.
        """
        due = max(int((self._clock() - self._start) * self._rate), self._tick)
        skipped = due - self._tick
        self._tick = due + 1
        # Encoders want timestamps that only rise, also if a restart makes two ticks coincide.
        self._latest = max(
            round((self._start + float(due / self._rate)) * CLOCK_RATE), self._latest + 1
        )
        return self._latest, skipped
