"""The decoder thread: decodes a clip in batches, ahead of its use, round and round, into a bounded queue."""

import contextlib
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from encoder.codec.clip import Clip
from encoder.common.errors import EngineError
from export.engines.base import Engine, Frames
from player.metrics import ClipMetrics, Meter

READ_AHEAD_BATCHES = 3
"""Batches that are decoded before they are needed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture."""

    time: float
    """In frames since the clip's start."""
    pixels: Frames
    """I420, (H * 3 / 2, W)."""
    is_last: bool
    """Whether the next picture is of the clip's start again."""


class DecodeThread:
    """Hands out the pictures of a clip in order, the first again after the last."""

    def __init__(
        self,
        clip: Clip,
        open_engine: Callable[[Collection[str]], Engine],
        *,
        start: float = 0.0,
        speed: Fraction = Fraction(1),
        counts: ClipMetrics,
    ) -> None:
        """Start the thread, which opens the engine, or another one when it fails."""
        self.meter = Meter(observe=counts.decode_seconds.observe)
        self.engine_name: str | None = None
        self._counts = counts
        self._clip = clip
        self._open = open_engine
        self._ready: deque[Picture] = deque()
        self._changed = threading.Condition()
        self._next = Fraction(start)
        self._step = speed
        self._generation = 0
        self._closed = False
        self._batch = 1
        """Frames to decode next: few where somebody waits for the first."""
        self._latest: Picture | None = None
        """What was handed out last."""
        self._error: Exception | None = None
        self._engine: Engine | None = None
        self._thread = threading.Thread(target=self._run, name="decoder")
        self._thread.start()

    def read(self, timeout_seconds: float = 0.0) -> Picture | None:
        """Return the next picture, or None if it is not decoded in time; raises what ended the thread."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ready or self._error or self._closed, timeout_seconds
            )
            if self._error is not None:
                raise self._error
            self._changed.notify_all()
            if not self._ready:
                return None
            self._latest = self._ready.popleft()
            return self._latest

    def seek(self, time: float) -> None:
        """Go on from a time; what was decoded ahead is dropped."""
        with self._changed:
            self._restart(Fraction(time))
            self._latest = None

    def set_speed(self, speed: Fraction) -> None:
        """Go on from the picture that was handed out last, so many frames from one picture to the next."""
        with self._changed:
            self._step = speed
            if self._latest is not None:
                self._restart(
                    Fraction(0) if self._latest.is_last else Fraction(self._latest.time) + speed
                )
            else:
                self._restart(Fraction(self._ready[0].time) if self._ready else self._next)

    def go_on(self) -> None:
        """Drop what was decoded of the clip's start, since its end is no longer where it was."""
        with self._changed:
            kept: list[Picture] = []
            if self._latest is not None and self._latest.is_last:
                self._latest = replace(self._latest, is_last=False)
            else:
                for picture in self._ready:
                    kept.append(replace(picture, is_last=False))
                    if picture.is_last:
                        break
            before = kept[-1] if kept else self._latest
            # Also what is being decoded may be of the start.
            self._restart(self._next if before is None else Fraction(before.time) + self._step)
            self._ready.extend(kept)

    def _restart(self, time: Fraction) -> None:
        self._ready.clear()
        self._next = time
        self._batch = 1
        self._generation += 1
        self._changed.notify_all()

    @property
    def ahead(self) -> int:
        """Number of pictures that are decoded and wait."""
        return len(self._ready)

    @property
    def lost_segments(self) -> int:
        """Number of segments whose weights could not be decoded."""
        return self._engine.lost_segments if self._engine is not None else 0

    def stop(self) -> None:
        """Have the thread end, without waiting for it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def has_ended(self) -> bool:
        """Whether the thread has ended."""
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()

    def _run(self) -> None:
        failed: list[str] = []
        try:
            while not self._closed:
                with contextlib.closing(self._open(failed)) as engine:
                    try:
                        self._decode(engine)
                    except EngineError as error:
                        failed.append(engine.name)
                        self._counts.fallbacks.inc()
                        logger.warning("%s failed, trying another engine: %s", engine.name, error)
        except Exception as error:  # noqa: BLE001 - whoever reads raises it: a thread of its own would end in silence
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _decode(self, engine: Engine) -> None:
        self.engine_name = engine.name
        self._engine = engine
        # The first run of a network also allocates; it says nothing about its speed.
        engine.frames(np.zeros(1))
        while not self._closed:
            self._decode_batch(engine)

    def _decode_batch(self, engine: Engine) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or len(self._ready) <= (READ_AHEAD_BATCHES - 1) * engine.batch
            )
            generation = self._generation
            step = self._step
            count = self._batch
            end = self._clip.end  # by now the clip may have become longer
            positions = [self._next + index * step for index in range(count)]
        if self._closed:
            return
        # Rounded, a time could be the end itself, which is the start.
        times = [min(float(position % end), math.nextafter(end, 0)) for position in positions]
        if not self._clip.header.continuous:
            times = [float(int(time)) for time in times]
        wanted = list(dict.fromkeys(times))
        with self.meter.measure(len(wanted)):
            frames = engine.frames(np.array(wanted))
        self._counts.decoded.inc(len(wanted))
        pictures = [
            Picture(time, frames[wanted.index(time)], is_last=(position % end) + step >= end)
            for time, position in zip(times, positions, strict=True)
        ]
        with self._changed:
            if generation == self._generation:
                self._ready.extend(pictures)
                self._next = (positions[-1] + step) % end
                self._batch = min(2 * count, engine.batch)
                self._changed.notify_all()
