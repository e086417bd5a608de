"""A clock that stands still until a test moves it, for threads that wait by a `Clock`."""

import math
import threading
import time

from player.playback.clock import Clock

PATIENCE_SECONDS = 20.0
"""Real time after which a thread that does not come to rest is a fault."""


class VirtualTime:
    """Time of one thread, which wakes at a deadline in virtual time or when its event is set."""

    def __init__(self, thread_name="encoder"):
        self.now = 1000.0
        self.clock = Clock(
            monotonic=lambda: self.now, unix=lambda: self.now, make_event=lambda: _Event(self)
        )
        self.changed = threading.Condition()
        self.deadlines = {}
        """Deadlines of the events that are waited for."""
        self.on_timeout = None
        """Function of the timeout, called by the thread when a wait has timed out."""
        self._thread_name = thread_name

    def settle(self):
        """Wait until the thread waits for an event or has ended; no virtual time passes."""
        limit = time.monotonic() + PATIENCE_SECONDS
        with self.changed:
            while not self._is_at_rest():
                self.changed.wait(0.005)
                assert time.monotonic() < limit, "the thread does not come to rest"

    def advance(self, seconds):
        """Let time pass, in steps from deadline to deadline."""
        end = self.now + seconds
        self.settle()
        while (deadline := min(self.deadlines.values(), default=math.inf)) <= end:
            self._set(deadline)
        self._set(end)

    def _set(self, now):
        with self.changed:
            self.now = max(now, self.now)
            self.changed.notify_all()
        self.settle()

    def _is_at_rest(self):
        if self.deadlines:
            return all(
                deadline > self.now and not event.is_set()
                for event, deadline in self.deadlines.items()
            )
        return self._thread_name not in [thread.name for thread in threading.enumerate()]


class _Event(threading.Event):
    def __init__(self, time):
        super().__init__()
        self._time = time

    def set(self):
        with self._time.changed:
            super().set()
            self._time.changed.notify_all()

    def wait(self, timeout=None):
        time = self._time
        with time.changed:
            deadline = math.inf if timeout is None else time.now + timeout
            time.deadlines[self] = deadline
            time.changed.notify_all()
            time.changed.wait_for(lambda: self.is_set() or time.now >= deadline)
            del time.deadlines[self]
            woken = self.is_set()
        if time.on_timeout is not None and not woken:
            time.on_timeout(timeout)
        return woken
