"""Speed of engines that decode a clip, compared with the limits of the machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from export.engines.base import Engine, Frames, Network, Times
from export.roofline import Ceilings, count_work

MEASURE_SECONDS = 2.0
MIN_BATCHES = 3
MILLI = 1e-3
GIGA = 1e9
MEGA = 1e6


@dataclass(frozen=True, kw_only=True)
class DecodeSpeed:
    """Speed of an engine that decodes batches."""

    engine: str
    precision: str
    batch: int
    decode_fps: float
    """Frames per second of the graph alone, median over batches. The pictures stay where the engine
    has them."""
    fps: float
    """Frames per second as I420 in an array of the host, median over batches."""
    realtime: float
    """`fps` divided by the clip's own frames per second."""
    p50_ms: float
    """Median time from the request of a batch to its delivery."""
    p95_ms: float
    """95th percentile of the same time."""
    gflop: float
    """Arithmetic of a frame: convolutions and matrix products."""
    megabytes: float
    """Memory traffic of a frame, with all operators fused that can be."""
    peak_gflops: float
    """Peak arithmetic per second of this engine's library, measured with a product of matrices."""
    peak_gbytes: float
    """Peak memory traffic per second, measured with the product of a matrix and a vector."""
    arithmetic_ms: float
    """Time of a frame's arithmetic at the peak."""
    memory_ms: float
    """Time of a frame's memory traffic at the peak."""
    launches_ms: float
    """Time that the launches of a frame's operators take, without their computation."""
    copy_ms: float
    """Time to copy a frame into an array of the host while nothing else runs."""

    @property
    def floor_ms(self) -> float:
        """Minimum time of a frame at the peaks: the longer of arithmetic and memory traffic."""
        return max(self.arithmetic_ms, self.memory_ms)

    @property
    def share(self) -> float:
        """Share of the speed at `floor_ms` that decoding reaches."""
        return self.floor_ms * MILLI * self.decode_fps

    @property
    def bound(self) -> str:
        """Part that takes the longest: arithmetic, memory, launches or copy."""
        parts = {
            name: getattr(self, f"{name}_ms")
            for name in ("arithmetic", "memory", "launches", "copy")
        }
        return max(parts, key=lambda name: parts[name])


def measure_speed(
    engine: Engine,
    ceilings: Ceilings,
    *,
    report: Callable[[float], None],
    seconds: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> DecodeSpeed:
    """Measure an engine with full batches that cycle through the clip.

    The graph alone, the copy, and the whole decoding are measured for `seconds` each, or for
    MEASURE_SECONDS. `report` gets the share of the measurement that is done.
    """
    header = engine.clip.header
    numbers = np.arange(engine.batch)

    def whole() -> None:
        nonlocal numbers
        engine.frames(numbers.astype(np.float64))
        numbers = (numbers + engine.batch) % header.frames

    network = engine.network(0)
    micro_batches = [
        np.arange(engine.micro_batch, dtype=np.float32) % engine.clip.segments[0].frames
        for _ in range(engine.streams)
    ]
    arrays = [
        np.empty((engine.micro_batch, *engine.picture), np.uint8) for _ in range(engine.streams)
    ]
    engine.wait_idle()
    timed = partial(_timed, clock=clock, limit=MEASURE_SECONDS if seconds is None else seconds)
    alone = median(timed(lambda: _run(network, micro_batches), lambda done: report(done / 3)))
    fetches = timed(
        lambda: _fetch(network, micro_batches, arrays),
        lambda done: report((1 + done) / 3),
        ready=lambda: _run(network, micro_batches),
    )
    batches = timed(whole, lambda done: report((2 + done) / 3))
    together = engine.micro_batch * engine.streams
    work = count_work(engine.graph(0), engine.micro_batch)
    return DecodeSpeed(
        engine=engine.name,
        precision=engine.precision,
        batch=engine.batch,
        decode_fps=together / alone,
        fps=engine.batch / median(batches),
        realtime=engine.batch / median(batches) / float(header.rate),
        p50_ms=median(batches) / MILLI,
        p95_ms=float(np.percentile(batches, 95)) / MILLI,
        gflop=work.flop / engine.micro_batch / GIGA,
        megabytes=work.bytes / engine.micro_batch / MEGA,
        peak_gflops=ceilings.flop_per_second / GIGA,
        peak_gbytes=ceilings.bytes_per_second / GIGA,
        arithmetic_ms=work.flop / engine.micro_batch / ceilings.flop_per_second / MILLI,
        memory_ms=work.bytes / engine.micro_batch / ceilings.bytes_per_second / MILLI,
        launches_ms=work.launches * ceilings.launch_seconds / together / MILLI,
        copy_ms=median(fetches) / together / MILLI,
    )


def _run(network: Network, micro_batches: list[Times]) -> None:
    for stream, times in enumerate(micro_batches):
        network.start(stream, times)
    for stream in range(len(micro_batches)):
        network.wait(stream)


def _fetch(network: Network, micro_batches: list[Times], arrays: list[Frames]) -> None:
    for stream in range(len(micro_batches)):
        network.fetch(stream, arrays[stream])


def _timed(
    run: Callable[[], None],
    report: Callable[[float], None],
    *,
    clock: Callable[[], float],
    limit: float,
    ready: Callable[[], None] = lambda: None,
) -> list[float]:
    """Return the duration of each of many runs, in seconds.

    `ready` prepares a run. Its time counts towards the limit in seconds, but not towards the run.
    """
    ready()
    run()  # the first run also allocates
    seconds: list[float] = []
    began = clock()
    while (passed := clock() - began) < limit or len(seconds) < MIN_BATCHES:
        report(passed / limit)
        ready()
        start = clock()
        run()
        seconds.append(clock() - start)
    report(1.0)
    return seconds
