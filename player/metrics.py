"""What a server counts, for Prometheus."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Bounds of the histograms' buckets."""


class Metrics:
    """All that is counted. Labels are names of clips and codecs, of which there are few."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        disable_created_metrics()  # as many lines again, of no use here
        self.decode_seconds = self._histogram("decode_seconds", "Time to decode a batch of frames")
        self.encode_seconds = self._histogram("encode_seconds", "Time to encode a frame", "codec")
        self.interval_seconds = self._histogram(
            "frame_interval_seconds", "Time from one frame to the next, as they are encoded"
        )
        self.received_fps = self._gauge(
            "received_fps", "Frames a second that browsers decode, the least of those who tell"
        )
        self.presented_fps = self._gauge(
            "presented_fps", "Frames a second that browsers show, the least of those who tell"
        )
        self.freezes = self._gauge(
            "freezes", "Freezes that browsers of present viewers have counted"
        )
        self.latency_seconds = self._gauge(
            "latency_seconds", "From the encoder to the screen, the most of those who tell"
        )
        self.decoded = self._counter("frames_decoded", "Frames that the network decoded")
        self.encoded = self._counter(
            "frames_encoded", "Frames that the video encoder encoded", "codec"
        )
        self.sent = self._counter("frames_sent", "Frames that were handed to RTP, of all viewers")
        self.sent_bytes = self._counter("sent_bytes", "Bytes of those frames")
        self.dropped = self._counter("frames_dropped", "Packets that viewers were too slow for")
        self.missed = self._counter("ticks_missed", "Times at which no new picture was ready")
        self.keyframes = self._counter("keyframes", "Key frames that were made", "codec")
        self.pictures_lost = self._counter(
            "pli", "Requests for a key frame by viewers who lost a picture"
        )
        self.fallbacks = self._counter("engine_failures", "Engines that failed while they decoded")
        self.damaged = self._gauge("damaged_segments", "Segments that could not be decoded")
        self.viewers = self._gauge("viewers", "Present viewers")
        self.ahead = self._gauge("queue_depth", "Decoded frames that wait")
        self.rtt_seconds = self._gauge("rtt_seconds", "Round-trip time, the mean of the viewers")
        self.loss = self._gauge("loss_ratio", "Packets lost on the way, the mean of the viewers")
        self.sessions = Counter(
            "nervcast_sessions", "Offers by their outcome", ["outcome"], registry=self._registry
        )
        self.responses = Counter(
            "nervcast_http_responses", "Responses by status", ["status"], registry=self._registry
        )

    def of(self, clip: str) -> "ClipMetrics":
        """Return what is counted of a clip."""
        return ClipMetrics(self, clip)

    def text(self) -> bytes:
        """Return all in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"nervcast_{name}", about, ["clip", *labels], registry=self._registry)

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(f"nervcast_{name}", about, ["clip"], registry=self._registry)

    def _histogram(self, name: str, about: str, *labels: str) -> Histogram:
        return Histogram(
            f"nervcast_{name}", about, ["clip", *labels], registry=self._registry, buckets=SECONDS
        )


class ClipMetrics:
    """What is counted of one clip; all of it is there from the start, at zero."""

    def __init__(self, metrics: Metrics, clip: str) -> None:
        self._metrics = metrics
        self._clip = clip
        self.decode_seconds = metrics.decode_seconds.labels(clip)
        self.interval_seconds = metrics.interval_seconds.labels(clip)
        self.received_fps = metrics.received_fps.labels(clip)
        self.presented_fps = metrics.presented_fps.labels(clip)
        self.freezes = metrics.freezes.labels(clip)
        self.latency_seconds = metrics.latency_seconds.labels(clip)
        self.decoded = metrics.decoded.labels(clip)
        self.sent = metrics.sent.labels(clip)
        self.sent_bytes = metrics.sent_bytes.labels(clip)
        self.dropped = metrics.dropped.labels(clip)
        self.missed = metrics.missed.labels(clip)
        self.pictures_lost = metrics.pictures_lost.labels(clip)
        self.fallbacks = metrics.fallbacks.labels(clip)
        self.damaged = metrics.damaged.labels(clip)
        self.viewers = metrics.viewers.labels(clip)
        self.ahead = metrics.ahead.labels(clip)
        self.rtt_seconds = metrics.rtt_seconds.labels(clip)
        self.loss = metrics.loss.labels(clip)

    def encoded(self, codec: str) -> Counter:
        """Return the counter of frames that were encoded."""
        return self._metrics.encoded.labels(self._clip, codec)

    def keyframes(self, codec: str) -> Counter:
        """Return the counter of key frames."""
        return self._metrics.keyframes.labels(self._clip, codec)

    def encode_seconds(self, codec: str) -> Callable[[float], object]:
        """Return what takes the time of each frame that is encoded."""
        return self._metrics.encode_seconds.labels(self._clip, codec).observe


@dataclass(frozen=True, kw_only=True)
class StreamStats:
    """How fast a stream goes, over the last seconds."""

    engine: str | None
    """None until the engine is loaded."""
    decode_fps: float
    """Frames per second of decoding, with nothing to wait for: what the engine could do."""
    encode_fps: float
    """Frames per second of encoding, with nothing to wait for."""
    encode_ms: float
    """Time to encode a frame."""
    sent_fps: float
    """Frames per second that were handed to RTP for the slowest viewer."""
    bitrate: float
    """Bits per second of all codecs' encoders."""
    ahead: int
    """Decoded frames that wait."""
    missed: int
    """Ticks of the clip's rate at which no new picture was ready in time, since the start."""
    dropped: int
    """Packets that present viewers were too slow for."""
    viewers: int
    damaged: int
    """Segments that could not be decoded."""


WINDOW_SECONDS = 2.0
"""Rates are means over this time."""


class Meter:
    """Counts events and the time that they keep a thread busy; may be fed by one thread and read by another."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[float], object] | None = None,
    ) -> None:
        """Let a histogram observe the seconds of each event."""
        self._clock = clock
        self._observe = observe
        self._events: deque[tuple[float, float, float]] = deque()
        self._lock = threading.Lock()

    def add(self, amount: float, busy_seconds: float = 0.0) -> None:
        """Note that an amount (frames, bits) is done, and how long it took."""
        with self._lock:
            self._events.append((self._clock(), amount, busy_seconds))
            self._forget()
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
        """Amount per second of wall-clock time: what really went through."""
        with self._lock:
            self._forget()
            return sum(amount for _, amount, _ in self._events) / WINDOW_SECONDS

    @property
    def per_busy_second(self) -> float:
        """Amount per second of work: what could go through. 0 if nothing did lately."""
        with self._lock:
            self._forget()
            busy = sum(seconds for *_, seconds in self._events)
            return sum(amount for _, amount, _ in self._events) / busy if busy else 0.0

    def _forget(self) -> None:
        while self._events and self._events[0][0] <= self._clock() - WINDOW_SECONDS:
            self._events.popleft()
