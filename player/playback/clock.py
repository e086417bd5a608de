"""Time as an argument: clocks, and events that a thread waits for."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Sources of time: the system's, or a test's own."""

    monotonic: Callable[[], float] = time.monotonic
    """Seconds of a clock that never goes back."""
    unix: Callable[[], float] = time.time
    """Seconds since 1970."""
    make_event: Callable[[], threading.Event] = threading.Event
    """Factory of events; a wait for one of them times out by this clock."""


SYSTEM_CLOCK = Clock()
