"""Run a clip with TensorRT, or with TensorRT for RTX.

TensorRT has one engine for all segments, whose weights are swapped by refit. TensorRT for RTX has
an engine for each segment, which is built in a second, and whose kernels are compiled once.

Two streams work at the same time: one copies its pictures to the host while the other computes.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from encoder.codec.clip import Clip
from encoder.codec.graph_names import TIME
from encoder.common.errors import EngineError
from export.engines.base import DEFAULT_BATCH, Engine, Frames, Network, Times
from export.engines.cuda import Cuda, Graph
from export.engines.trt_build import (
    HERE,
    WAY_OUT,
    build_rtx,
    import_running_rtx,
    import_tensorrt,
)
from export.engines.trt_cache import KernelCache, cached_plan, new_plan, plan_key
from export.graph import OUTPUT, PixelFormat, Precision

STREAMS = 2

logger = logging.getLogger(__name__)


class TensorRt(Engine):
    """TensorRT on an NVIDIA GPU, in half precision."""

    name = "tensorrt"
    precision: Precision = "fp16"

    def __init__(
        self, clip: Clip, *, batch: int = DEFAULT_BATCH, pixels: PixelFormat = "i420"
    ) -> None:
        """Prepare the library; raises EngineError if it, its CUDA bindings or a GPU is missing."""
        trt = self._library()
        super().__init__(clip, batch=batch, pixels=pixels, max_streams=STREAMS)
        self._log = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._log)
        self._idle: list[_Network] = []
        """Networks of finished segments, for the weights of the segment after next."""

    def _library(self) -> Any:
        return import_tensorrt()

    def _key(self, model: onnx.ModelProto) -> str:
        return plan_key(model, max_batch=self.micro_batch, version=self._library().__version__)

    def load(self, model: onnx.ModelProto) -> Network:
        """Put the weights of a segment into an idle copy of the engine, or into a new one."""
        key = self._key(model)
        idle = [network for network in self._idle if network.key == key]
        if idle:
            self._idle.remove(idle[0])
        copy = idle[0] if idle else self._copy(model, key)
        try:
            self._refit(copy, model)
            copy.record()
        except EngineError:
            copy.release()
            raise
        return copy

    def _refit(self, copy: "_Network", model: onnx.ModelProto) -> None:
        trt = import_tensorrt()
        refitter = trt.Refitter(copy.engine, self._log)
        parser = trt.OnnxParserRefitter(refitter, self._log)
        if not parser.refit_from_bytes(model.SerializeToString()):
            problem = f": {parser.get_error(0).desc()}" if parser.num_errors else ""
            raise EngineError(
                f"TensorRT {trt.__version__} does not take a segment's weights{problem}; {WAY_OUT}"
            )
        if not refitter.refit_cuda_engine():
            raise EngineError(
                f"TensorRT {trt.__version__} cannot put a segment's weights into the engine; "
                f"{WAY_OUT}"
            )

    def _copy(self, model: onnx.ModelProto, key: str) -> "_Network":
        plan = cached_plan if self.keeps_builds else new_plan
        engine = self._runtime.deserialize_cuda_engine(plan(model, max_batch=self.micro_batch))
        # This version built it for this GPU: if it does not load, the cached file is truncated.
        if engine is None and self.keeps_builds:
            engine = self._runtime.deserialize_cuda_engine(
                cached_plan(model, max_batch=self.micro_batch, anew=True)
            )
        if engine is None:
            raise EngineError("TensorRT could not load the engine that it built")
        return self._network(engine, key, engine.create_execution_context)

    def _network(self, engine: Any, key: str, context: Callable[[], Any]) -> "_Network":
        return _Network(
            engine,
            key,
            context,
            streams=self.streams,
            micro_batch=self.micro_batch,
            idle=self._idle,
        )

    def close(self) -> None:
        """Release the networks and the GPU's memory."""
        super().close()
        self._release_idle()

    def _release_idle(self) -> None:
        while self._idle:
            self._idle.pop().release()


class TensorRtRtx(TensorRt):
    """TensorRT for RTX on an NVIDIA GPU, in half precision."""

    name = "tensorrt-rtx"

    def _library(self) -> Any:
        return import_running_rtx()

    def load(self, model: onnx.ModelProto) -> Network:
        """Build the engine of a segment, with kernels that are known from the segment before."""
        # Networks of finished segments are of no use here.
        self._release_idle()
        plan = build_rtx(model, max_batch=self.micro_batch, targets=[HERE])
        engine = self._runtime.deserialize_cuda_engine(plan.data)
        if engine is None:
            raise EngineError(f"TensorRT for RTX {plan.version} cannot load its engine")
        key = self._key(model)
        kernels = KernelCache(self._library(), engine, key)
        network = self._network(
            engine, key, lambda: engine.create_execution_context(kernels.config)
        )
        try:
            network.record()
        except EngineError:
            network.release()
            raise
        if self.keeps_builds:
            kernels.keep()
        return network


class _Network(Network):
    """Engine with the buffers of its streams."""

    def __init__(
        self,
        engine: Any,
        key: str,
        context: Callable[[], Any],
        *,
        streams: int,
        micro_batch: int,
        idle: list["_Network"],
    ) -> None:
        self.engine = engine
        self.key = key
        self._idle = idle
        self._cuda = Cuda()
        size = tuple(engine.get_tensor_shape(OUTPUT))[1:]
        try:
            self._streams = [
                _Stream(self._cuda, context(), micro_batch, size) for _ in range(streams)
            ]
        except EngineError:
            self._cuda.close()
            raise

    def record(self) -> None:
        """Record the work of each stream again, for the current weights of the engine."""
        for stream in self._streams:
            stream.record()

    def start(self, stream: int, times: Times) -> None:
        self._streams[stream].start(times)

    def wait(self, stream: int) -> None:
        self._streams[stream].wait()

    def fetch(self, stream: int, frames: Frames) -> None:
        self._streams[stream].fetch(frames)

    def close(self) -> None:
        """Make the network available for another segment's weights."""
        self._idle.append(self)

    def release(self) -> None:
        """Release the GPU's memory."""
        for stream in self._streams:
            stream.reset()
        self._cuda.close()


class _Stream:
    """Stream with its pinned buffers on the host and its buffers on the GPU."""

    def __init__(self, cuda: Cuda, context: Any, micro_batch: int, size: tuple[int, ...]) -> None:
        if context is None:
            raise EngineError("TensorRT could not prepare to run the network")
        self._cuda = cuda
        self._context = context
        self._stream = cuda.stream()
        self._times = cuda.pinned((micro_batch,), np.float32)
        self._frames = cuda.pinned((micro_batch, *size), np.uint8)
        self._times_there = cuda.memory(self._times.nbytes)
        self._frames_there = cuda.memory(self._frames.nbytes)
        self._times[:] = 0
        self._context.set_tensor_address(TIME, self._times_there)
        self._context.set_tensor_address(OUTPUT, self._frames_there)
        self._context.set_input_shape(TIME, (micro_batch,))
        self._graph: Graph | None = None

    def record(self) -> None:
        self.reset()
        # The preparations in TensorRT's first run cannot be recorded.
        self._compute()
        self._cuda.wait(self._stream)
        try:
            self._graph = self._cuda.record(self._stream, self._compute)
        except EngineError as error:
            logger.debug("without a CUDA graph: %s", error)

    def reset(self) -> None:
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def start(self, times: Times) -> None:
        self._times[: len(times)] = times
        if self._graph is None:
            self._compute()
        else:
            self._graph.launch()

    def wait(self) -> None:
        self._cuda.wait(self._stream)

    def fetch(self, frames: Frames) -> None:
        part = self._frames[: len(frames)]
        self._cuda.download(part, self._frames_there, self._stream)
        self._cuda.wait(self._stream)
        frames[:] = part

    def _compute(self) -> None:
        self._cuda.upload(self._times_there, self._times, self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise EngineError("TensorRT could not run the network")
