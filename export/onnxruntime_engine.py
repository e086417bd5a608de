"""Run a clip with ONNX Runtime, on CPUs and NVIDIA GPUs."""

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime

from encoder.codec.clip import Clip
from encoder.codec.errors import EngineError
from encoder.codec.names import TIME
from encoder.codec.runtime import BoundSession, Session
from export.device import gpu_names
from export.engine import DEFAULT_BATCH, Engine, Frames, Network, Times
from export.graph import OUTPUT, PixelFormat, Precision
from export.machine import core_count

logger = logging.getLogger(__name__)


class OnnxRuntimeCpu(Engine):
    """ONNX Runtime on the CPU: a thread for each lane, since some of its operators use but one."""

    name = "onnxruntime-cpu"

    def __init__(self, clip: Clip, *, batch: int = DEFAULT_BATCH, pixels: PixelFormat = "i420") -> None:
        """Raise SettingsError for a batch size out of range."""
        super().__init__(clip, batch=batch, pixels=pixels, max_lanes=core_count())
        self._threads = ThreadPoolExecutor(self.lanes, thread_name_prefix="lane")

    def load(self, model: onnx.ModelProto) -> Network:
        """Open a session, of whose cores each lane has its share."""
        return _Opened(Session(model, threads=core_count() // self.lanes), self._threads, self.lanes)

    def close(self) -> None:
        """Release the networks and all threads."""
        super().close()
        self._threads.shutdown()


class _Opened(Network):
    """A session that several threads run."""

    def __init__(self, session: Session, threads: ThreadPoolExecutor, lanes: int) -> None:
        self._session, self._threads = session, threads
        self._running = [Future[Frames]() for _ in range(lanes)]

    def start(self, lane: int, times: Times) -> None:
        self._running[lane] = self._threads.submit(self._session.run, {TIME: times})

    def wait(self, lane: int) -> None:
        self._running[lane].result()

    def fetch(self, lane: int, frames: Frames) -> None:
        frames[:] = self._running[lane].result()


class OnnxRuntimeCuda(Engine):
    """ONNX Runtime on an NVIDIA GPU: in half precision, its buffers on the GPU, launched as one CUDA graph where it can be."""

    name = "onnxruntime-cuda"
    precision: Precision = "fp16"
    device = "cuda"

    def __init__(self, clip: Clip, *, batch: int = DEFAULT_BATCH, pixels: PixelFormat = "i420") -> None:
        """Raise EngineError where there is no GPU; ONNX Runtime would print an error and go on with the CPU."""
        if not has_cuda():
            raise EngineError("no CUDA device: onnxruntime-cuda needs an NVIDIA GPU with CUDA 13 and cuDNN 9")
        onnxruntime.preload_dlls()  # those that pip installed, which the loader does not find by itself
        super().__init__(clip, batch=batch, pixels=pixels)
        self._options: Mapping[str, str] = {"enable_cuda_graph": "1"}

    def load(self, model: onnx.ModelProto) -> Network:
        """Open a session; without a CUDA graph where some operator runs on the CPU, which it cannot hold."""
        try:
            return self._bound(model)
        except EngineError as error:
            if not self._options:
                raise
            self._options = {}
            logger.debug("without a CUDA graph: %s", error)
        return self._bound(model)

    def _bound(self, model: onnx.ModelProto) -> Network:
        size = tuple(dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim[1:])
        session = Session(model, "CUDAExecutionProvider", self._options)
        buffers = {TIME: ((self.piece,), np.float32), OUTPUT: ((self.piece, *size), np.uint8)}
        bound = BoundSession(session, self.device, {TIME: buffers[TIME]}, {OUTPUT: buffers[OUTPUT]})
        bound.run()  # the first run prepares, the second records the CUDA graph: here, where nobody waits for a frame
        bound.run()
        return _Bound(bound, self.piece)


class _Bound(Network):
    def __init__(self, session: BoundSession, piece: int) -> None:
        self._session = session
        self._times = np.zeros(piece, np.float32)

    def start(self, lane: int, times: Times) -> None:  # noqa: ARG002 (there is one)
        self._times[: len(times)] = times
        self._session.put(TIME, self._times)
        self._session.run()

    def wait(self, lane: int) -> None:
        pass

    def fetch(self, lane: int, frames: Frames) -> None:  # noqa: ARG002 (there is one)
        frames[:] = self._session.get(OUTPUT)[: len(frames)]


def has_cuda() -> bool:
    """Tell whether ONNX Runtime was built for CUDA and the driver sees a GPU."""
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and bool(gpu_names())
