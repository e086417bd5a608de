"""Engines: run a clip's graphs in batches, each behind the same small interface.

A segment's network is loaded in the background before it is needed, so that going from one to the next does not wait.
"""

import importlib.util
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from encoder.codec.clip import Clip, SegmentModels
from encoder.codec.cost import MAX_VALUES
from encoder.codec.errors import BitstreamError, CodecError, EngineError, SettingsError
from encoder.codec.names import TIME
from encoder.codec.runtime import Session
from export.graph import PixelFormat, Precision, black, build_graph

logger = logging.getLogger(__name__)

DEFAULT_BATCH = 8
MAX_BATCH = 256

Frames = NDArray[np.uint8]
Run = Callable[[NDArray[np.float32]], Frames]
"""Map times (N,) in frames since the segment's start to pictures, (N, H * 3 / 2, W) or (N, 3, H, W)."""


class Engine(ABC):
    """Decodes batches of frames of one clip."""

    name: str
    precision: Precision = "fp32"
    polynomials = False
    """Whether polynomials are faster than sines."""
    pixels: PixelFormat

    def __init__(self, clip: Clip, *, batch: int = DEFAULT_BATCH, pixels: PixelFormat = "i420") -> None:
        """Raise SettingsError for a batch size out of range; subclasses raise EngineError where they cannot run."""
        if not 1 <= batch <= MAX_BATCH:
            raise SettingsError(f"batch must be in 1..{MAX_BATCH}, got {batch}")
        self.clip, self.pixels = clip, pixels
        self.batch = min(batch, max(MAX_VALUES // clip.topology.peak_values, 1))
        if self.batch < batch:
            logger.warning("batches have %d frames instead of %d, which would take too much memory", self.batch, batch)
        self._models = SegmentModels(clip)  # used by the loader's thread alone
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="segment loader")
        self._loaded: dict[int, Future[Run]] = {}
        self._latest: Frames | None = None
        self._lost: set[int] = set()

    def warm_up(self) -> None:
        """Load the first segment whose weights can be decoded, as `frames` would.

        Raises EngineError if this engine cannot run here, BitstreamError for a clip of which nothing can be shown.
        """
        for index in range(len(self.clip.segments)):
            try:
                self._network(index)
            except BitstreamError:
                if index + 1 == len(self.clip.segments):
                    raise
            else:
                return

    @abstractmethod
    def load(self, model: onnx.ModelProto) -> Run:
        """Make a graph ready to be run with up to `batch` times; raises EngineError."""

    def frames(self, times: NDArray[np.float64]) -> Frames:
        """Return the pictures at times in frames since the clip's start, in their order.

        I420: (N, H * 3 / 2, W); RGB: (N, 3, H, W). Where a segment's weights cannot be decoded the last picture stays, black if
        there is none yet. Raises EngineError.
        """
        located = [self.clip.locate(float(time)) for time in times]
        parts: list[Frames] = []
        start = 0
        while start < len(located):
            segment = located[start][0]
            stop = start
            while stop < len(located) and located[stop][0] == segment and stop - start < self.batch:
                stop += 1
            local = np.array([time for _, time in located[start:stop]], np.float32)
            parts.append(self._decode(segment, local))
            self._latest = parts[-1][-1:]
            start = stop
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        """Release the networks and the loader's thread."""
        self._loader.shutdown(wait=True, cancel_futures=True)
        self._loaded.clear()

    def _decode(self, segment: int, local: NDArray[np.float32]) -> Frames:
        try:
            run = self._network(segment)
        except BitstreamError as error:
            if self._latest is None:
                self._latest = black(self.clip.header, self.pixels)
            if segment not in self._lost:
                self._lost.add(segment)
                logger.warning("segment at frame %d is left out: %s", self.clip.segments[segment].start, error)
            return np.repeat(self._latest, len(local), 0)
        return run(local)

    def _network(self, segment: int) -> Run:
        following = (segment + 1) % len(self.clip.segments)
        # What a seek left behind goes first, so that nobody waits for it.
        for index in self._loaded.keys() - {segment, following}:
            self._loaded.pop(index).cancel()
        for index in (segment, following):
            if index not in self._loaded:
                self._loaded[index] = self._loader.submit(self._load_segment, index)
        return self._loaded[segment].result()

    def _load_segment(self, index: int) -> Run:
        return self.load(
            build_graph(self._models, index, pixels=self.pixels, precision=self.precision, polynomials=self.polynomials)
        )


class OnnxRuntimeCpu(Engine):
    """ONNX Runtime on the CPU."""

    name = "onnxruntime-cpu"
    providers: tuple[str, ...] = ("CPUExecutionProvider",)

    def load(self, model: onnx.ModelProto) -> Run:
        """Open a session."""
        session = Session(model, self.providers)
        return lambda times: session.run({TIME: times})


class OnnxRuntimeCuda(OnnxRuntimeCpu):
    """ONNX Runtime on an NVIDIA GPU, in half precision."""

    name = "onnxruntime-cuda"
    precision: Precision = "fp16"
    providers = ("CUDAExecutionProvider",)

    def __init__(self, clip: Clip, *, batch: int = DEFAULT_BATCH, pixels: PixelFormat = "i420") -> None:
        """Raise EngineError where there is no GPU; ONNX Runtime would print an error and go on with the CPU."""
        if not has_cuda():
            raise EngineError("no CUDA device: onnxruntime-cuda needs an NVIDIA GPU with CUDA 13 and cuDNN 9")
        onnxruntime.preload_dlls()  # those that pip installed, which the loader does not find by itself
        super().__init__(clip, batch=batch, pixels=pixels)


class OpenVino(Engine):
    """Intel's OpenVINO, the fastest on x86 CPUs."""

    name = "openvino"
    polynomials = True

    def __init__(self, clip: Clip, *, batch: int = DEFAULT_BATCH, pixels: PixelFormat = "i420") -> None:
        """Raise EngineError where OpenVINO is not installed."""
        if importlib.util.find_spec("openvino") is None:
            raise EngineError("OpenVINO is not installed: pip install 'nervcast[player]'")
        super().__init__(clip, batch=batch, pixels=pixels)
        import openvino

        self._core = openvino.Core()

    def load(self, model: onnx.ModelProto) -> Run:
        """Compile for the batch size: fixed shapes run faster than variable ones."""
        try:
            network = self._core.read_model(model.SerializeToString())
            network.reshape({TIME: [self.batch]})
            # By itself it would take bfloat16 on CPUs that have it, which is visible.
            compiled = self._core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load the network: {error}") from None
        request = compiled.create_infer_request()

        def run(times: NDArray[np.float32]) -> Frames:
            padded = np.pad(times, (0, self.batch - len(times)), mode="edge")
            try:
                return request.infer({TIME: padded}, share_inputs=True)[0][: len(times)].copy()
            except RuntimeError as error:
                raise EngineError(f"OpenVINO cannot run the network: {error}") from None

        return run


def has_cuda() -> bool:
    """Tell whether ONNX Runtime was built for CUDA and the driver sees a GPU."""
    from export.device import gpu_count

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and gpu_count() > 0


def _tensorrt(clip: Clip, **options: Any) -> Engine:
    from export.tensorrt_engine import TensorRt

    return TensorRt(clip, **options)


ENGINES: Mapping[str, Callable[..., Engine]] = {
    "tensorrt": _tensorrt,
    "onnxruntime-cuda": OnnxRuntimeCuda,
    "openvino": OpenVino,
    "onnxruntime-cpu": OnnxRuntimeCpu,
}
"""Engines by name, the fastest first."""


def open_engine(clip: Clip, name: str = "auto", *, batch: int = DEFAULT_BATCH, pixels: PixelFormat = "i420") -> Engine:
    """Open an engine by name, or the first of ENGINES that runs the clip here; its first segment is loaded.

    Raises SettingsError for an unknown name, EngineError for an engine that is not installed, lacks its device or refuses
    the clip.
    """
    if name == "auto":
        for candidate in list(ENGINES)[:-1]:
            try:
                return open_engine(clip, candidate, batch=batch, pixels=pixels)
            except EngineError as error:
                logger.debug("%s is left out: %s", candidate, error)
        name = OnnxRuntimeCpu.name
    if name not in ENGINES:
        raise SettingsError(f"unknown engine {name!r}, known are: auto, {', '.join(ENGINES)}")
    engine = ENGINES[name](clip, batch=batch, pixels=pixels)
    try:
        engine.warm_up()
    except CodecError:
        engine.close()
        raise
    return engine
