"""Measure how fast an engine decodes a clip."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from export.engine import Engine

MEASURE_SECONDS = 3.0
MIN_BATCHES = 3


@dataclass(frozen=True, kw_only=True)
class Result:
    """How fast an engine decodes."""

    engine: str
    batch: int
    decode_fps: float
    """Frames per second to I420 in host memory; the median over batches."""
    realtime_factor: float
    """Decoding speed over the speed at which the clip is shown."""


def measure(engine: Engine, *, report: Callable[[float], None], clock: Callable[[], float] = time.perf_counter) -> Result:
    """Decode full batches, through the clip and round again, for MEASURE_SECONDS; report the share that is done."""
    header = engine.clip.header
    numbers = np.arange(engine.batch)
    engine.frames(numbers.astype(np.float64) % header.frames)  # the first run also allocates
    seconds: list[float] = []
    while sum(seconds) < MEASURE_SECONDS or len(seconds) < MIN_BATCHES:
        numbers = (numbers + engine.batch) % header.frames
        start = clock()
        engine.frames(numbers.astype(np.float64))
        seconds.append(clock() - start)
        report(min(sum(seconds) / MEASURE_SECONDS, 1.0))
    fps = engine.batch / median(seconds)
    return Result(engine=engine.name, batch=engine.batch, decode_fps=fps, realtime_factor=fps / float(header.rate))
