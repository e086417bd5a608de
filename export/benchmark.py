"""How fast engines decode a clip, and how far that is from what the machine allows."""

import time
from collections.abc import Callable
from dataclasses import dataclass
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
class Speed:
    """How fast an engine decodes batches."""

    engine: str
    precision: str
    batch: int
    decode_fps: float
    """Frames per second of the graph alone, whose pictures stay where the engine has them; the median over batches."""
    fps: float
    """Frames per second to I420 in an array of the host; the median over batches."""
    realtime: float
    """The latter over the clip's own frames per second."""
    p50_ms: float
    """Time from asking for a batch to having it, median."""
    p95_ms: float
    gflop: float
    """Arithmetic of a frame: convolutions and matrix products."""
    megabytes: float
    """What a frame reads and writes, with every operator computed on the way that can be."""
    peak_gflops: float
    """Of this engine's library, measured by a product of matrices."""
    peak_gbytes: float
    """Per second, measured by the product of a matrix and a vector."""
    arithmetic_ms: float
    """Time of a frame's arithmetic at that peak."""
    memory_ms: float
    """Time of its bytes at that peak."""
    launches_ms: float
    """Time that its operators take beside what they compute."""
    copy_ms: float
    """Time of its way into an array of the host, where nothing else is done meanwhile."""

    @property
    def floor_ms(self) -> float:
        """Time that a frame takes at least: its arithmetic or its bytes at the peak."""
        return max(self.arithmetic_ms, self.memory_ms)

    @property
    def share(self) -> float:
        """Of the floor's speed that decoding reaches."""
        return self.floor_ms * MILLI * self.decode_fps

    @property
    def bound(self) -> str:
        """What takes longest: arithmetic, memory, launches or copy."""
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
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Decode full batches, through the clip and round again, for MEASURE_SECONDS in each way; report the share that is done."""
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
    alone = median(
        _timed(lambda: _run(network, micro_batches), lambda done: report(done / 3), clock)
    )
    fetches = _timed(
        lambda: _fetch(network, micro_batches, arrays),
        lambda done: report((1 + done) / 3),
        clock,
        ready=lambda: _run(network, micro_batches),
    )
    seconds = _timed(whole, lambda done: report((2 + done) / 3), clock)
    together = engine.micro_batch * engine.streams
    work = count_work(engine.graph(0), engine.micro_batch)
    return Speed(
        engine=engine.name,
        precision=engine.precision,
        batch=engine.batch,
        decode_fps=together / alone,
        fps=engine.batch / median(seconds),
        realtime=engine.batch / median(seconds) / float(header.rate),
        p50_ms=median(seconds) / MILLI,
        p95_ms=float(np.percentile(seconds, 95)) / MILLI,
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
    clock: Callable[[], float],
    *,
    ready: Callable[[], None] = lambda: None,
) -> list[float]:
    """Return how long each of many runs takes; what makes ready for one counts for the time of all."""
    ready()
    run()  # the first also allocates
    seconds: list[float] = []
    began = clock()
    while (passed := clock() - began) < MEASURE_SECONDS or len(seconds) < MIN_BATCHES:
        report(passed / MEASURE_SECONDS)
        ready()
        start = clock()
        run()
        seconds.append(clock() - start)
    report(1.0)
    return seconds
