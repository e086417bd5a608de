"""Run a clip with TensorRT: one engine for all segments, whose weights are swapped by refit."""

from collections.abc import Sequence
from contextlib import ExitStack
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from encoder.codec.clip import Clip
from encoder.codec.errors import EngineError
from encoder.codec.names import TIME
from export.engine import DEFAULT_BATCH, Engine, Frames, Run
from export.graph import OUTPUT, PixelFormat, Precision
from export.to_tensorrt import build_plan, import_tensorrt, timing_cache_path


class TensorRt(Engine):
    """TensorRT on an NVIDIA GPU, in half precision."""

    name = "tensorrt"
    precision: Precision = "fp16"

    def __init__(self, clip: Clip, *, batch: int = DEFAULT_BATCH, pixels: PixelFormat = "i420") -> None:
        """Raise EngineError where TensorRT, its CUDA bindings or a GPU is missing."""
        trt = import_tensorrt()
        super().__init__(clip, batch=batch, pixels=pixels)
        self._log = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._log)
        self._plan: bytes | None = None

    def load(self, model: onnx.ModelProto) -> Run:
        """Build the engine with the first segment; put another segment's weights into a copy of it."""
        if self._plan is None:
            self._plan = build_plan(model, max_batch=self.batch, timing_cache=timing_cache_path())
        trt = import_tensorrt()
        engine = self._runtime.deserialize_cuda_engine(self._plan)
        if engine is None:
            raise EngineError("TensorRT could not load the engine that it built")
        refitter = trt.Refitter(engine, self._log)
        parser = trt.OnnxParserRefitter(refitter, self._log)
        if not (parser.refit_from_bytes(model.SerializeToString()) and refitter.refit_cuda_engine()):
            raise EngineError("TensorRT could not put a segment's weights into the engine")
        height, width = tuple(engine.get_tensor_shape(OUTPUT))[-2:]
        planes = (3,) if self.pixels == "rgb" else ()
        return _Network(engine, self.batch, (*planes, height, width)).run


class _Network:
    """An engine with its buffers on the GPU, and the way there and back."""

    def __init__(self, engine: Any, batch: int, picture: Sequence[int]) -> None:
        from cuda.bindings import runtime  # pyright: ignore[reportMissingImports]

        self._cuda = runtime
        self._release = ExitStack()
        self._picture = tuple(picture)
        self._context = engine.create_execution_context()
        self._times = self._allocate("cudaFree", "cudaMalloc", batch * np.dtype(np.float32).itemsize)
        self._frames = self._allocate("cudaFree", "cudaMalloc", batch * prod(picture))
        self._stream = self._allocate("cudaStreamDestroy", "cudaStreamCreate")
        self._context.set_tensor_address(TIME, int(self._times))
        self._context.set_tensor_address(OUTPUT, int(self._frames))

    def run(self, times: NDArray[np.float32]) -> Frames:
        """Return the pictures of at most `batch` times."""
        frames = np.empty((len(times), *self._picture), np.uint8)
        times = np.ascontiguousarray(times)
        kinds = self._cuda.cudaMemcpyKind
        self._copy(self._times, times.ctypes.data, times.nbytes, kinds.cudaMemcpyHostToDevice)
        self._context.set_input_shape(TIME, times.shape)
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError("TensorRT could not run the network")
        self._copy(frames.ctypes.data, self._frames, frames.nbytes, kinds.cudaMemcpyDeviceToHost)
        self._call("cudaStreamSynchronize", self._stream)
        return frames

    def __del__(self) -> None:
        """Give the GPU's memory back once no thread uses the segment any more."""
        self._release.close()

    def _allocate(self, release: str, name: str, *arguments: object) -> Any:
        resource = self._call(name, *arguments)
        self._release.callback(getattr(self._cuda, release), resource)
        return resource

    def _copy(self, target: int, source: int, size_bytes: int, kind: Any) -> None:
        self._call("cudaMemcpyAsync", target, source, size_bytes, kind, self._stream)

    def _call(self, name: str, *arguments: object) -> Any:
        error, *result = getattr(self._cuda, name)(*arguments)
        if error != self._cuda.cudaError_t.cudaSuccess:
            raise EngineError(f"{name} failed: {error.name}")
        return result[0] if result else None
