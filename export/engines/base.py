"""Engines that run a clip's graphs in batches, behind one small interface.

A segment's network is loaded in the background, so that a change of segments does not wait. A batch
is split into *micro-batches* for *streams*, which work at the same time. On a CPU, streams use
different cores. On a GPU, one stream copies while another computes.
"""

import contextlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Self

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
"""Times (N,) in frames since the segment's start."""


class Network(ABC):
    """Graph of a segment, ready to run in streams with one micro-batch each at a time."""

    @abstractmethod
    def start(self, stream: int, times: Times) -> None:
        """Begin to compute the pictures at given times, at most a micro-batch of them."""

    @abstractmethod
    def wait(self, stream: int) -> None:
        """Wait until the pictures are computed, wherever they are stored; raises EngineError."""

    @abstractmethod
    def fetch(self, stream: int, frames: Frames) -> None:
        """Wait, and copy the pictures, one for each time, into `frames`; raises EngineError."""

    def close(self) -> None:  # noqa: B027 (most have nothing to give back)
        """Mark the network as no longer needed."""


class Engine(ABC):
    """Decoder of batches of frames of one clip."""

    name: str
    precision: Precision = "fp32"
    polynomials = False
    """Whether polynomials are faster than sines."""
    products = False
    """Whether products of matrices are faster than interpolation, for the places of a camera."""
    keeps_builds = True
    """Whether results of slow builds are kept for later."""
    pixels: PixelFormat

    def __init__(
        self,
        clip: Clip,
        *,
        batch: int = DEFAULT_BATCH,
        pixels: PixelFormat = "i420",
        max_streams: int = 1,
    ) -> None:
        """Set up batches and streams; raises SettingsError if `batch` is out of range.

        Subclasses raise EngineError if they cannot run here.
        """
        check_batch(batch)
        self.clip = clip
        self.pixels = pixels
        self.batch = min(batch, max(MAX_VALUES // clip.topology.peak_values, 1))
        """Number of frames that are decoded at once."""
        if self.batch < batch:
            logger.warning(
                "batches have %d frames instead of %d, which would take too much memory",
                self.batch,
                batch,
            )
        self.micro_batch = -(-self.batch // max_streams)
        """Maximum number of frames in one call of the network."""
        self.streams = -(-self.batch // self.micro_batch)
        """Number of streams, one for each micro-batch of a batch."""
        self._models = SegmentModels(clip)
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="segment loader")
        self._loaded: dict[int, Future[Network]] = {}
        self.reset()
        self.picture = self._latest.shape[1:]
        """Shape of a picture."""
        self._lost: set[int] = set()

    def __enter__(self) -> Self:
        """Return the engine, which is closed at the end of the context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the engine."""
        self.close()

    def __len__(self) -> int:
        """Return the number of frames of the clip."""
        return self.clip.header.frames

    def __getitem__(self, index: int | slice) -> Frames:
        """Return the picture of a frame, or the pictures (N, ...) of a slice of frames.

        Raises IndexError, and as `frames` does.
        """
        if isinstance(index, slice):
            return self.frames(np.arange(*index.indices(len(self)), dtype=np.float64))
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame must be in 0..{len(self) - 1}, got {index}")
        return self.frames(np.array([index % len(self)], np.float64))[0]

    @property
    def lost_segments(self) -> int:
        """Number of segments so far whose weights could not be decoded."""
        return len(self._lost)

    def warm_up(self) -> int:
        """Load the first segment with decodable weights, as `frames` would, and return its number.

        Raises EngineError if this engine cannot run here, BitstreamError if no segment can be
        shown.
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
            products=self.products,
        )

    @abstractmethod
    def load(self, model: onnx.ModelProto) -> Network:
        """Prepare a graph to run in `streams` streams; raises EngineError.

        Each stream takes up to `micro_batch` times per call.
        """

    def frames(self, times: NDArray[np.float64]) -> Frames:
        """Return the pictures at `times`, in the same order.

        Times count frames since the clip's start. I420 pictures are (N, H * 3 / 2, W), RGB pictures
        (N, 3, H, W). If the weights of a segment cannot be decoded, the last picture stays. It is
        black if there is none yet. Raises EngineError.
        """
        frames = np.empty((len(times), *self.picture), np.uint8)
        under_way: deque[tuple[Network, int, Frames]] = deque()
        try:
            self._decode(times, frames, under_way)
        finally:
            # Wait after an error too: a busy stream cannot be started.
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
            # Finish the running network before requesting another segment's, which may replace it.
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
        """Reset the last picture to black, as if nothing had been decoded before."""
        self._latest = black(self.clip.header, self.pixels)

    def wait_idle(self) -> None:
        """Wait until no segment is being loaded, since loading would disturb a measurement."""
        wait(self._loaded.values())

    def _pieces(self, times: NDArray[np.float64]) -> Iterator[tuple[int, Times, slice]]:
        """Yield runs of times in one segment, each at most a micro-batch.

        A run is the segment, the times since its start, and their slice of `times`.
        """
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
        """Return the network of a segment, and start to load the next one.

        Raises BitstreamError or EngineError.
        """
        following = (segment + 1) % len(self.clip.segments)
        # Drop networks from before a seek first, so that the new ones need not wait for them.
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
    """Fetch the oldest micro-batches until at most `keep` are under way."""
    while len(under_way) > keep:
        network, stream, frames = under_way.popleft()
        network.fetch(stream, frames)
