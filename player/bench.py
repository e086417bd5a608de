"""Measure how fast an engine decodes a clip."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from export.engine import Engine

MEASURE_SECONDS = 3.0
MIN_PASSES = 3


@dataclass(frozen=True, kw_only=True)
class Result:
    """How fast an engine decodes."""

    engine: str
    batch: int
    decode_fps: float
    """Frames per second to I420 in host memory; the median over passes through the clip."""
    realtime_factor: float
    """Decoding speed over the speed at which the clip is shown."""


def measure(engine: Engine, *, report: Callable[[float], None], clock: Callable[[], float] = time.perf_counter) -> Result:
    """Decode the clip over and over for MEASURE_SECONDS, after a first pass that loads it; report the share done."""
    header = engine.clip.header
    start, passes = None, list[float]()
    while start is None or len(passes) < MIN_PASSES or clock() - start < MEASURE_SECONDS:
        before = clock()
        for first in range(0, header.frames, engine.batch):
            engine.frames(np.arange(first, min(first + engine.batch, header.frames), dtype=np.float64))
        if start is None:
            start = clock()
            continue
        passes.append(header.frames / (clock() - before))
        report(min((clock() - start) / MEASURE_SECONDS, 1.0))
    fps = median(passes)
    return Result(engine=engine.name, batch=engine.batch, decode_fps=fps, realtime_factor=fps / float(header.rate))
