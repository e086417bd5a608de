"""The decoder thread: decodes a clip in batches, ahead of its use, round and round, into a bounded queue."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable

import numpy as np

from export.engine import Engine, Frames
from player.meter import Meter

READ_AHEAD_BATCHES = 3
"""Batches that are decoded before they are needed."""

Numbered = tuple[int, Frames]
"""Number of a frame in the clip, and its I420 picture (H * 3 / 2, W)."""


class Reader:
    """Hands out the frames of a clip in order, the first again after the last."""

    def __init__(self, open_engine: Callable[[], Engine]) -> None:
        """Start the thread, which opens the engine."""
        self.meter = Meter()
        self.engine_name: str | None = None
        self._open = open_engine
        self._ready: deque[Numbered] = deque()
        self._changed = threading.Condition()
        self._next, self._generation, self._closed = 0, 0, False
        self._last = -1
        """Number of the frame that was handed out last."""
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="decoder")
        self._thread.start()

    def read(self, timeout_seconds: float = 0.0) -> Numbered | None:
        """Return the next frame, or None if it is not decoded in time; raises what ended the thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._error or self._closed, timeout_seconds)
            if self._error is not None:
                raise self._error
            self._changed.notify_all()
            if not self._ready:
                return None
            self._last = self._ready[0][0]
            return self._ready.popleft()

    def seek(self, frame: int) -> None:
        """Go on from a frame; what was decoded ahead is dropped."""
        with self._changed:
            self._ready.clear()
            self._next, self._last = frame, frame - 1
            self._generation += 1
            self._changed.notify_all()

    def go_on(self) -> None:
        """Drop what was decoded of the clip's start, since its end is no longer where it was."""
        with self._changed:
            kept: deque[Numbered] = deque()
            last = self._last
            for numbered in self._ready:
                if numbered[0] <= last:
                    break
                kept.append(numbered)
                last = numbered[0]
            self._ready, self._next = kept, last + 1
            self._generation += 1
            self._changed.notify_all()

    @property
    def ahead(self) -> int:
        """Number of frames that are decoded and wait."""
        return len(self._ready)

    def close(self) -> None:
        """End the thread and wait for it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            with contextlib.closing(self._open()) as engine:
                self.engine_name = engine.name
                # The first run of a network also allocates; it says nothing about its speed.
                engine.frames(np.zeros(engine.batch))
                while not self._closed:
                    self._decode_batch(engine)
        except Exception as error:  # noqa: BLE001 - whoever reads raises it: a thread of its own would end in silence
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _decode_batch(self, engine: Engine) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._ready) <= (READ_AHEAD_BATCHES - 1) * engine.batch)
            # By now the clip may have become longer.
            numbers = (self._next + np.arange(engine.batch)) % engine.clip.end
            generation = self._generation
        if self._closed:
            return
        with self.meter.measure(len(numbers)):
            pictures = engine.frames(numbers.astype(np.float64))
        with self._changed:
            if generation == self._generation:
                self._ready.extend(zip(numbers.tolist(), pictures, strict=True))
                self._next = int(numbers[-1] + 1)
                self._changed.notify_all()
