"""Metrics of the player in Prometheus' format, and frame rates over the last seconds."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper bounds of the histograms' buckets."""
WINDOW_SECONDS = 2.0
"""Time over which a `Meter` averages."""

Seconds = partial(Histogram, buckets=SECONDS)
"""A histogram of durations in seconds."""
Kind = TypeVar("Kind", Counter, Gauge, Histogram)


@dataclass(frozen=True, eq=False)
class Metric(Generic[Kind]):
    """A row of the table of metrics."""

    name: str
    """Name without the prefix of the program and the suffixes that Prometheus adds."""
    kind: Callable[..., Kind]
    help: str
    labels: tuple[str, ...]

    def make(self, registry: CollectorRegistry) -> Kind:
        """Return the metric, registered, with all its labels still open."""
        return self.kind(f"nervcast_{self.name}", self.help, self.labels, registry=registry)


@dataclass(frozen=True, eq=False)
class ServerMetric(Metric[Kind]):
    """A row of a metric of the whole server; an attribute of `Metrics`."""

    def __get__(self, metrics: "Metrics", owner: type["Metrics"]) -> Kind:
        """Return the metric."""
        return metrics.made(self)


@dataclass(frozen=True, eq=False)
class ClipMetric(Metric[Kind]):
    """A row of a metric of each clip; an attribute of `ClipMetrics`."""

    labels: tuple[str, ...] = ("clip",)

    def __get__(self, metrics: "ClipMetrics", owner: type["ClipMetrics"]) -> Kind:
        """Return the clip's metric."""
        return metrics.child(self)


@dataclass(frozen=True, eq=False)
class CodecMetric(Metric[Kind]):
    """A row of a metric of each clip and codec; an attribute of `ClipMetrics`."""

    labels: tuple[str, ...] = ("clip", "codec")

    def __get__(self, metrics: "ClipMetrics", owner: type["ClipMetrics"]) -> Callable[[str], Kind]:
        """Return a function from the codec's name to the clip's metric."""
        return partial(metrics.child, self)


class ClipMetrics:
    """The metrics of one clip. Those without a codec exist from the start, at zero."""

    viewers = ClipMetric("viewers", Gauge, "Present viewers")
    decoded = ClipMetric("frames_decoded", Counter, "Frames that the network decoded")
    decode_seconds = ClipMetric("decode_seconds", Seconds, "Time to decode a batch")
    encoded = CodecMetric("frames_encoded", Counter, "Frames encoded for WebRTC")
    encode_seconds = CodecMetric("encode_seconds", Seconds, "Time to encode a frame")
    sent = ClipMetric("frames_sent", Counter, "Frames sent, all viewers together")
    sent_bytes = ClipMetric("sent_bytes", Counter, "Bytes of these frames")
    dropped = ClipMetric(
        "frames_dropped", Counter, "Encoded frames dropped because a viewer was too slow"
    )
    missed = ClipMetric(
        "ticks_missed",
        Counter,
        "Ticks of the clip's rate without a new picture: the engine is too slow",
    )
    keyframes = CodecMetric("keyframes", Counter, "Key frames made")
    pictures_lost = ClipMetric(
        "pli", Counter, "Requests for a key frame by viewers that lost a picture (PLI)"
    )
    fallbacks = ClipMetric(
        "engine_failures", Counter, "Engines that failed and were replaced by the next one"
    )
    damaged = ClipMetric(
        "damaged_segments", Gauge, "Segments that cannot be decoded; the picture freezes there"
    )
    ahead = ClipMetric("queue_depth", Gauge, "Decoded frames that wait")
    interval_seconds = ClipMetric(
        "frame_interval_seconds",
        Seconds,
        "Time from one frame to the next at the encoder, at most 1 s",
    )
    rtt_seconds = ClipMetric("rtt_seconds", Gauge, "Round-trip time, mean of the viewers")
    loss = ClipMetric("loss_ratio", Gauge, "Share of lost packets, mean of the viewers")
    received_fps = ClipMetric(
        "received_fps",
        Gauge,
        "Frames per second that browsers receive and decode, minimum of the viewers",
    )
    presented_fps = ClipMetric(
        "presented_fps", Gauge, "Frames per second that browsers show, minimum of the viewers"
    )
    freezes = ClipMetric("freezes", Gauge, "Freezes, sum over the present viewers")
    latency_seconds = ClipMetric(
        "latency_seconds", Gauge, "Latency from the encoder to the screen, maximum of the viewers"
    )

    def __init__(self, metrics: "Metrics", clip: str) -> None:
        self._metrics = metrics
        self._clip = clip
        self._children: dict[tuple[Metric[Any], tuple[str, ...]], Any] = {}
        for row in TABLE:
            if isinstance(row, ClipMetric):
                self.child(row)

    def child(self, row: Metric[Kind], *labels: str) -> Kind:
        """Return the metric of a row for this clip and the values of the row's other labels."""
        key = (row, labels)
        if key not in self._children:
            self._children[key] = self._metrics.made(row).labels(self._clip, *labels)
        return self._children[key]


class Metrics:
    """All metrics of a server."""

    sessions = ServerMetric(
        "sessions", Counter, "WHEP offers by the status of their answer", ("outcome",)
    )
    responses = ServerMetric("http_responses", Counter, "HTTP responses by status", ("status",))

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        disable_created_metrics()  # they double the lines of the text
        self._made: dict[Metric[Any], Any] = {row: row.make(self._registry) for row in TABLE}

    def made(self, row: Metric[Kind]) -> Kind:
        """Return the metric of a row, with all its labels still open."""
        return self._made[row]

    def of(self, clip: str) -> ClipMetrics:
        """Return the metrics of a clip or playlist, by its name."""
        return ClipMetrics(self, clip)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


TABLE: tuple[Metric[Any], ...] = tuple(
    row
    for owner in (ClipMetrics, Metrics)
    for row in vars(owner).values()
    if isinstance(row, Metric)
)
"""All metrics."""


@dataclass(frozen=True, kw_only=True)
class StreamStats:
    """Speeds and counts of a playout; the speeds are means over the last seconds."""

    engine: str | None
    """Name of the engine; None until it is loaded."""
    decode_fps: float
    """Frames per second of decoding without waiting: the engine's capacity."""
    encode_fps: float
    """Frames per second of encoding without waiting."""
    encode_ms: float
    """Time to encode a frame."""
    sent_fps: float
    """Frames per second that were handed to RTP for the slowest viewer."""
    bitrate: float
    """Bits per second of all codecs' encoders together."""
    ahead: int
    """Number of decoded frames that wait."""
    missed: int
    """Number of ticks of the clip's rate without a new picture, since the start."""
    dropped: int
    """Number of encoded frames that were dropped because a present viewer was too slow."""
    viewers: int
    damaged: int
    """Number of segments that cannot be decoded."""


class Meter:
    """A count of events and of their working time, over a sliding window.

    One thread may add events while another reads.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[float], object] | None = None,
    ) -> None:
        """Pass the working seconds of each event to `observe`, a histogram's method for example."""
        self._clock = clock
        self._observe = observe
        self._events: deque[tuple[float, float, float]] = deque()
        """Time, amount and working seconds of each event in the window."""
        self._lock = threading.Lock()

    def add(self, amount: float, busy_seconds: float = 0.0) -> None:
        """Count an event: its amount (frames, bits) and its working time."""
        with self._lock:
            self._events.append((self._clock(), amount, busy_seconds))
            self._drop_old()
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
        """Amount per second of wall-clock time: the actual throughput."""
        with self._lock:
            self._drop_old()
            return sum(amount for _, amount, _ in self._events) / WINDOW_SECONDS

    @property
    def per_busy_second(self) -> float:
        """Amount per second of working time: the possible throughput. 0 without recent events."""
        with self._lock:
            self._drop_old()
            busy = sum(seconds for *_, seconds in self._events)
            return sum(amount for _, amount, _ in self._events) / busy if busy else 0.0

    def _drop_old(self) -> None:
        while self._events and self._events[0][0] <= self._clock() - WINDOW_SECONDS:
            self._events.popleft()
