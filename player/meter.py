"""Measure how fast things go, where they happen."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

WINDOW_SECONDS = 2.0
"""Rates are means over this time."""


class Meter:
    """Counts events and the time that they keep a thread busy; may be fed by one thread and read by another."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, observe: Callable[[float], object] | None = None
    ) -> None:
        """Let a histogram observe the seconds of each event."""
        self._clock, self._observe = clock, observe
        self._events: deque[tuple[float, float, float]] = deque()
        self._lock = threading.Lock()

    def add(self, amount: float, busy_seconds: float = 0.0) -> None:
        """Note that an amount (frames, bits) is done, and how long it took."""
        with self._lock:
            self._events.append((self._clock(), amount, busy_seconds))
            self._forget()
        if self._observe is not None:
            self._observe(busy_seconds)

    @contextmanager
    def measure(self, amount: float) -> Generator[None]:
        """Add an amount with the time that the body takes."""
        start = self._clock()
        yield
        self.add(amount, self._clock() - start)

    @property
    def per_second(self) -> float:
        """Amount per second of wall-clock time: what really went through."""
        with self._lock:
            self._forget()
            return sum(amount for _, amount, _ in self._events) / WINDOW_SECONDS

    @property
    def per_busy_second(self) -> float:
        """Amount per second of work: what could go through. 0 if nothing did lately."""
        with self._lock:
            self._forget()
            busy = sum(seconds for *_, seconds in self._events)
            return sum(amount for _, amount, _ in self._events) / busy if busy else 0.0

    def _forget(self) -> None:
        while self._events and self._events[0][0] <= self._clock() - WINDOW_SECONDS:
            self._events.popleft()
