"""Engines: run a clip's graphs in batches, each behind the same small interface.

A segment's network is loaded in the background before it is needed, so that going from one to the next does not wait. A batch
is split among *streams*, which work at the same time: on cores of a CPU, or on a GPU, where one is copied while another computes.
"""

import contextlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import onnx
from numpy.typing import NDArray

from encoder.codec.clip import Clip, SegmentModels
from encoder.codec.graph_limits import MAX_VALUES
from encoder.common.errors import BitstreamError, EngineError, SettingsError
from export.engines.names import DEFAULT_BATCH, MAX_BATCH
from export.graph import PixelFormat, Precision, black, build_graph

logger = logging.getLogger(__name__)

Frames = NDArray[np.uint8]
Times = NDArray[np.float32]
"""In frames since the segment's start, (N,)."""


class Network(ABC):
    """A segment's graph, ready to be run in streams, each with one micro-batch of a batch at a time."""

    @abstractmethod
    def start(self, stream: int, times: Times) -> None:
        """Begin to compute the pictures at times, of which there are no more than a micro-batch has."""

    @abstractmethod
    def wait(self, stream: int) -> None:
        """Wait until they are computed, wherever they are then; raises EngineError."""

    @abstractmethod
    def fetch(self, stream: int, frames: Frames) -> None:
        """Wait, and put the pictures, as many as times were given, into memory; raises EngineError."""

    def close(self) -> None:  # noqa: B027 (most have nothing to give back)
        """Take note that the network is not needed any more."""


class Engine(ABC):
    """Decodes batches of frames of one clip."""

    name: str
    precision: Precision = "fp32"
    polynomials = False
    """Whether polynomials are faster than sines."""
    keeps_builds = True
    """Whether what takes long to build is kept for another time."""
    pixels: PixelFormat

    def __init__(
        self,
        clip: Clip,
        *,
        batch: int = DEFAULT_BATCH,
        pixels: PixelFormat = "i420",
        max_streams: int = 1,
    ) -> None:
        """Raise SettingsError for a batch size out of range; subclasses raise EngineError where they cannot run."""
        check_batch(batch)
        self.clip = clip
        self.pixels = pixels
        self.batch = min(batch, max(MAX_VALUES // clip.topology.peak_values, 1))
        """Frames that are worked on at once."""
        if self.batch < batch:
            logger.warning(
                "batches have %d frames instead of %d, which would take too much memory",
                self.batch,
                batch,
            )
        self.micro_batch = -(-self.batch // max_streams)
        """Frames of one call of the network."""
        self.streams = -(-self.batch // self.micro_batch)
        """Pieces that are worked on at the same time: as many as a batch has."""
        self._models = SegmentModels(clip)
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="segment loader")
        self._loaded: dict[int, Future[Network]] = {}
        self.reset()
        self.picture = self._latest.shape[1:]
        """Shape of a picture."""
        self._lost: set[int] = set()

    @property
    def lost_segments(self) -> int:
        """Number of segments so far whose weights could not be decoded."""
        return len(self._lost)

    def warm_up(self) -> int:
        """Load the first segment whose weights can be decoded, as `frames` would, and return its number.

        Raises EngineError if this engine cannot run here, BitstreamError for a clip of which nothing can be shown.
        """
        last = len(self.clip.segments) - 1
        for index in range(last):
            with contextlib.suppress(BitstreamError):
                self.network(index)
                return index
        self.network(last)
        return last

    def graph(self, segment: int) -> onnx.ModelProto:
        """Return the graph of a segment as this engine runs it; raises as `build_graph` does."""
        return self._loader.submit(self._graph, segment).result()

    def _graph(self, segment: int) -> onnx.ModelProto:
        return build_graph(
            self._models,
            segment,
            pixels=self.pixels,
            precision=self.precision,
            polynomials=self.polynomials,
        )

    @abstractmethod
    def load(self, model: onnx.ModelProto) -> Network:
        """Make a graph ready to be run in `streams` streams with up to `micro_batch` times each; raises EngineError."""

    def frames(self, times: NDArray[np.float64]) -> Frames:
        """Return the pictures at times in frames since the clip's start, in their order.

        I420: (N, H * 3 / 2, W); RGB: (N, 3, H, W). Where a segment's weights cannot be decoded the last picture stays, black if
        there is none yet. Raises EngineError.
        """
        frames = np.empty((len(times), *self.picture), np.uint8)
        under_way: deque[tuple[Network, int, Frames]] = deque()
        try:
            self._decode(times, frames, under_way)
        finally:
            # After an error too: a stream that is at work cannot be started.
            for network, stream, _ in under_way:
                with contextlib.suppress(EngineError):
                    network.wait(stream)
        if len(frames):
            self._latest = frames[-1:].copy()
        return frames

    def _decode(
        self,
        times: NDArray[np.float64],
        frames: Frames,
        under_way: "deque[tuple[Network, int, Frames]]",
    ) -> None:
        latest = -1
        for count, (segment, local, place) in enumerate(self._pieces(times)):
            # Before another segment's network is asked for, which may take the place of the one at work.
            _finish(under_way, self.streams - 1 if segment == latest else 0)
            latest = segment
            try:
                network = self.network(segment)
            except BitstreamError as error:
                self._report_loss(segment, error)
                frames[place] = self._latest if place.start == 0 else frames[place.start - 1]
            else:
                stream = count % self.streams
                network.start(stream, local)
                under_way.append((network, stream, frames[place]))
        _finish(under_way, 0)

    def reset(self) -> None:
        """Show black where nothing can be decoded, until something is, as if nothing had been decoded before."""
        self._latest = black(self.clip.header, self.pixels)

    def wait_idle(self) -> None:
        """Wait until nothing is being loaded in the background, which would disturb a measurement."""
        wait(self._loaded.values())

    def _pieces(self, times: NDArray[np.float64]) -> Iterator[tuple[int, Times, slice]]:
        """Yield runs of times of one segment, no longer than a stream takes: the segment, its times, and their place."""
        located = [self.clip.locate(float(time)) for time in times]
        start = 0
        while start < len(located):
            segment = located[start][0]
            stop = start
            while (
                stop < len(located)
                and located[stop][0] == segment
                and stop - start < self.micro_batch
            ):
                stop += 1
            yield (
                segment,
                np.array([time for _, time in located[start:stop]], np.float32),
                slice(start, stop),
            )
            start = stop

    def close(self) -> None:
        """Release the networks and the loader's thread."""
        self._loader.shutdown(wait=True, cancel_futures=True)
        for index in list(self._loaded):
            self._drop(index)

    def _report_loss(self, segment: int, error: BitstreamError) -> None:
        if segment not in self._lost:
            self._lost.add(segment)
            logger.warning(
                "segment at frame %d is left out: %s", self.clip.segments[segment].start, error
            )

    def network(self, segment: int) -> Network:
        """Return the network of a segment, and have the next one loaded; raises BitstreamError or EngineError."""
        following = (segment + 1) % len(self.clip.segments)
        # What a seek left behind goes first, so that nobody waits for it.
        for index in self._loaded.keys() - {segment, following}:
            self._drop(index)
        for index in (segment, following):
            if index not in self._loaded:
                self._loaded[index] = self._loader.submit(self._load_segment, index)
        return self._loaded[segment].result()

    def _drop(self, index: int) -> None:
        loading = self._loaded.pop(index)
        if not loading.cancel():
            loading.add_done_callback(_close)

    def _load_segment(self, index: int) -> Network:
        return self.load(self._graph(index))


def check_batch(batch: int) -> None:
    """Raise SettingsError for a batch size out of range."""
    if not 1 <= batch <= MAX_BATCH:
        raise SettingsError(f"batch must be in 1..{MAX_BATCH}, got {batch}")


def _close(loading: Future[Network]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        loading.result().close()


def _finish(under_way: deque[tuple[Network, int, Frames]], keep: int) -> None:
    """Fetch the oldest micro_batches until no more are under way than are to be kept."""
    while len(under_way) > keep:
        network, stream, frames = under_way.popleft()
        network.fetch(stream, frames)
