"""Run a clip with ONNX Runtime, on CPUs and NVIDIA GPUs."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime

from encoder.codec.clip import Clip
from encoder.codec.graph_names import TIME
from encoder.common.errors import EngineError
from encoder.common.onnx_runtime import BoundSession, Buffer, Session
from export.engines.base import DEFAULT_BATCH, Engine, Frames, Network, Times
from export.engines.cuda import PinnedDownload
from export.graph import OUTPUT, PixelFormat, Precision
from export.hardware import core_count, gpu_names

WARM_UP_RUNS = 3
"""Number of runs before the first frame, which allocate memory and record a CUDA graph."""

logger = logging.getLogger(__name__)


class OnnxRuntimeCpu(Engine):
    """ONNX Runtime on the CPU, with one thread for each stream.

    Some of its operators use only one thread.
    """

    name = "onnxruntime-cpu"

    def __init__(
        self, clip: Clip, *, batch: int = DEFAULT_BATCH, pixels: PixelFormat = "i420"
    ) -> None:
        """Start the streams' threads; raises SettingsError if `batch` is out of range."""
        super().__init__(clip, batch=batch, pixels=pixels, max_streams=core_count())
        self._threads = ThreadPoolExecutor(self.streams, thread_name_prefix="stream")

    def load(self, model: onnx.ModelProto) -> Network:
        """Open a session; its threads and those of the streams add up to one for each core."""
        return _Opened(
            Session(model, threads=max(core_count() - self.streams + 1, 1)),
            self._threads,
            self.streams,
        )

    def close(self) -> None:
        """Release the networks and all threads."""
        super().close()
        self._threads.shutdown()


class _Opened(Network):
    """Session that several threads run."""

    def __init__(self, session: Session, threads: ThreadPoolExecutor, streams: int) -> None:
        self._session = session
        self._threads = threads
        self._running: list[Future[Frames] | None] = [None] * streams

    def start(self, stream: int, times: Times) -> None:
        self._running[stream] = self._threads.submit(self._session.run, {TIME: times})

    def wait(self, stream: int) -> None:
        running = self._running[stream]
        assert running is not None  # it was started
        running.result()

    def fetch(self, stream: int, frames: Frames) -> None:
        running = self._running[stream]
        self._running[stream] = None
        assert running is not None  # it was started
        frames[:] = running.result()


class OnnxRuntimeCuda(Engine):
    """ONNX Runtime on an NVIDIA GPU, in half precision.

    Its buffers are on the GPU. Where possible, all work is launched as one CUDA graph.
    """

    name = "onnxruntime-cuda"
    precision: Precision = "fp16"
    provider = "CUDAExecutionProvider"
    wants_graph = True
    """Whether a CUDA graph is tried."""
    device = "cuda"
    pins = True
    """Whether pictures are copied through pinned memory."""

    def __init__(
        self, clip: Clip, *, batch: int = DEFAULT_BATCH, pixels: PixelFormat = "i420"
    ) -> None:
        """Prepare the GPU; raises EngineError if there is none.

        ONNX Runtime itself would print an error and continue on the CPU.
        """
        if not has_cuda():
            raise EngineError(
                "no CUDA device: onnxruntime-cuda needs an NVIDIA GPU with CUDA 13 and cuDNN 9"
            )
        # Load the libraries that pip installed, which the loader does not find by itself.
        onnxruntime.preload_dlls()
        super().__init__(clip, batch=batch, pixels=pixels)
        self.is_recorded = self.wants_graph
        """Whether the networks run as CUDA graphs."""
        # A CUDA graph belongs to the thread that recorded it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cuda")

    def load(self, model: onnx.ModelProto) -> Network:
        """Open a session, with a CUDA graph if possible.

        A CUDA graph cannot hold operators that run on the CPU.
        """
        return self._thread.submit(self._open, model).result()

    def close(self) -> None:
        """Release the networks and the threads."""
        super().close()
        self._thread.shutdown()

    def _open(self, model: onnx.ModelProto) -> Network:
        try:
            return self._bound(model)
        except EngineError as error:
            if not self.is_recorded:
                raise
            self.is_recorded = False
            logger.debug("without a CUDA graph: %s", error)
        return self._bound(model)

    def _bound(self, model: onnx.ModelProto) -> Network:
        size = tuple(dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim[1:])
        graph = {"enable_cuda_graph": "1"} if self.is_recorded else {}
        session = Session(model, self.provider, graph)
        buffers = {
            TIME: ((self.micro_batch,), np.float32),
            OUTPUT: ((self.micro_batch, *size), np.uint8),
        }
        bound = BoundSession(session, self.device, {TIME: buffers[TIME]}, {OUTPUT: buffers[OUTPUT]})
        for _ in range(WARM_UP_RUNS):
            bound.run()
        download = self._download(bound, buffers[OUTPUT]) if self.pins else None
        return _Bound(bound, self._thread, self.micro_batch, download)

    def _download(self, bound: BoundSession, output: Buffer) -> PinnedDownload | None:
        try:
            return PinnedDownload(bound.address(OUTPUT), *output)
        except (ImportError, EngineError) as error:
            logger.info("pictures are copied without pinned memory, which is slower: %s", error)
        return None


class _Bound(Network):
    """Session that one thread runs."""

    def __init__(
        self,
        session: BoundSession,
        thread: ThreadPoolExecutor,
        micro_batch: int,
        download: PinnedDownload | None,
    ) -> None:
        self._session = session
        self._download = download
        self._thread = thread
        self._times = np.zeros(micro_batch, np.float32)
        self._running: Future[None] = Future()

    def start(self, stream: int, times: Times) -> None:  # noqa: ARG002 (there is only one)
        self._times[: len(times)] = times
        self._running = self._thread.submit(self._run)

    def _run(self) -> None:
        self._session.put(TIME, self._times)
        self._session.run()

    def wait(self, stream: int) -> None:  # noqa: ARG002 (there is only one)
        self._running.result()

    def fetch(self, stream: int, frames: Frames) -> None:
        self.wait(stream)
        frames[:] = self._thread.submit(self._pictures, len(frames)).result()

    def _pictures(self, count: int) -> Frames:
        if self._download is not None:
            return self._download.rows(count)
        return self._session.get(OUTPUT)[:count]

    def close(self) -> None:
        """Release the pinned memory, in the thread that records: others would spoil a recording."""
        if self._download is not None:
            self._thread.submit(self._download.close).result()
            self._download = None


def has_cuda() -> bool:
    """Tell whether ONNX Runtime was built for CUDA and the driver sees a GPU."""
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and bool(gpu_names())
