"""The decoder thread of a clip.

It decodes in batches into a bounded queue, ahead of use, and starts again after the clip's end.
"""

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
"""Number of batches that are decoded ahead."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DecodedPicture:
    """A decoded picture."""

    time: float
    """Time in frames since the clip's start."""
    pixels: Frames
    """I420 samples, (H * 3 / 2, W)."""
    is_last: bool
    """Whether the next picture is one of the clip's start again."""


class DecodeThread:
    """A thread that decodes the pictures of a clip in order, the first again after the last."""

    def __init__(
        self,
        clip: Clip,
        open_engine: Callable[[Collection[str]], Engine],
        *,
        start: float = 0.0,
        speed: Fraction = Fraction(1),
        counts: ClipMetrics,
    ) -> None:
        """Start the thread, which opens an engine, and another one if that fails.

        `start` is the first time in frames, `speed` the frames from one picture to the next.
        """
        self.meter = Meter(observe=counts.decode_seconds.observe)
        self.engine_name: str | None = None
        self._counts = counts
        self._clip = clip
        self._open = open_engine
        self._ready: deque[DecodedPicture] = deque()
        self._changed = threading.Condition()
        self._next = Fraction(start)
        self._step = speed
        self._generation = 0
        self._closed = False
        self._batch = 1
        """Number of frames to decode next: one at first, so that it comes soon, then more."""
        self._latest: DecodedPicture | None = None
        """The picture that `read` returned last; None since a seek."""
        self._error: Exception | None = None
        self._engine: Engine | None = None
        self._thread = threading.Thread(target=self._run, name="decoder")
        self._thread.start()

    def read(self, timeout_seconds: float = 0.0) -> DecodedPicture | None:
        """Return the next picture, or None if it is not decoded in time.

        Raises the error that ended the thread, if any.
        """
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
        """Continue from a time, and drop the pictures that were decoded ahead."""
        with self._changed:
            self._restart(Fraction(time))
            self._latest = None

    def set_speed(self, speed: Fraction) -> None:
        """Continue after the last picture that was read, at another speed.

        The speed is the number of frames from one picture to the next.
        """
        with self._changed:
            self._step = speed
            if self._latest is not None:
                self._restart(
                    Fraction(0) if self._latest.is_last else Fraction(self._latest.time) + speed
                )
            else:
                self._restart(Fraction(self._ready[0].time) if self._ready else self._next)

    def go_on(self) -> None:
        """Drop the pictures of the clip's start that were decoded ahead: its end has moved."""
        with self._changed:
            kept: list[DecodedPicture] = []
            if self._latest is not None and self._latest.is_last:
                self._latest = replace(self._latest, is_last=False)
            else:
                for picture in self._ready:
                    kept.append(replace(picture, is_last=False))
                    if picture.is_last:
                        break
            before = kept[-1] if kept else self._latest
            # The batch that is being decoded may be of the start, too: it is dropped.
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
        """Number of decoded pictures that wait."""
        return len(self._ready)

    @property
    def lost_segments(self) -> int:
        """Number of segments whose weights could not be decoded."""
        return self._engine.lost_segments if self._engine is not None else 0

    def stop(self) -> None:
        """Let the thread end, without waiting for it."""
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
        except Exception as error:  # noqa: BLE001 - `read` raises it again
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _decode(self, engine: Engine) -> None:
        self.engine_name = engine.name
        self._engine = engine
        # The first run of a network also allocates memory, so it is left out of the speed.
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
            end = self._clip.end  # the clip may have become longer
            positions = [self._next + index * step for index in range(count)]
        if self._closed:
            return
        # A rounded time could be the end itself, which is the start.
        times = [min(float(position % end), math.nextafter(end, 0)) for position in positions]
        if not self._clip.header.continuous:
            times = [float(int(time)) for time in times]
        wanted = list(dict.fromkeys(times))
        with self.meter.measure(len(wanted)):
            frames = engine.frames(np.array(wanted))
        self._counts.decoded.inc(len(wanted))
        pictures = [
            DecodedPicture(time, frames[wanted.index(time)], is_last=(position % end) + step >= end)
            for time, position in zip(times, positions, strict=True)
        ]
        with self._changed:
            if generation == self._generation:
                self._ready.extend(pictures)
                self._next = (positions[-1] + step) % end
                self._batch = min(2 * count, engine.batch)
                self._changed.notify_all()
