"""Run a clip with Intel's OpenVINO, the fastest engine on x86 CPUs."""

import importlib.util
import sys
from typing import Any

import numpy as np
import onnx

from encoder.codec.clip import Clip
from encoder.codec.graph_names import TIME
from encoder.common.errors import EngineError, first_line
from encoder.media.metrics import psnr_db
from export.engines.base import DEFAULT_BATCH, Engine, Frames, Network, Times
from export.graph import TOLERANCE_STEPS, PixelFormat, Precision
from export.hardware import core_count

BF16_PSNR_DB = 52.0
"""Minimum PSNR of pictures in bfloat16 against those in 32 bits for bfloat16 to be used. At this
limit, a clip of 36 dB loses 0.1 dB."""
BF16_FRAMES = 9
"""Number of pictures that are compared."""


class OpenVino(Engine):
    """OpenVINO on the CPU, with a stream for each core.

    If a batch is a single frame, all cores work for one stream. Pictures are in bfloat16 if the CPU
    supports it and those of the first segment stay close enough to 32 bits.
    """

    name = "openvino"
    polynomials = True
    products = True

    def __init__(
        self, clip: Clip, *, batch: int = DEFAULT_BATCH, pixels: PixelFormat = "i420"
    ) -> None:
        """Load OpenVINO; raises EngineError if it is not installed."""
        if importlib.util.find_spec("openvino") is None:
            raise EngineError("OpenVINO is not installed: pip install 'nervcast[player]'")
        super().__init__(clip, batch=batch, pixels=pixels, max_streams=core_count())
        self._core = _core()
        self._is_tried = False

    def load(self, model: onnx.ModelProto) -> Network:
        """Compile a graph for the size of a micro-batch.

        Fixed shapes run faster than variable ones.
        """
        try:
            network = self._core.read_model(model.SerializeToString())
            network.reshape({TIME: [self.micro_batch]})
            if self._is_tried or not self._has_bf16():
                return self._compiled(network, self.precision)
            self._is_tried = True
            exact = self._compiled(network, "fp32")
            rounded = self._compiled(network, "bf16")
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load the network: {first_line(error)}") from None
        if not self._holds(rounded, exact):
            return exact
        self.precision = "bf16"
        return rounded

    def _has_bf16(self) -> bool:
        return "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def _compiled(self, network: Any, precision: Precision) -> "_Compiled":
        # By default, OpenVINO would use bfloat16 wherever the CPU supports it.
        settings = {
            "INFERENCE_PRECISION_HINT": precision.replace("fp", "f"),
            "NUM_STREAMS": str(self.streams),
        }
        compiled = self._core.compile_model(network, "CPU", settings)
        return _Compiled(
            [compiled.create_infer_request() for _ in range(self.streams)], self.micro_batch
        )

    def _holds(self, rounded: "_Compiled", exact: "_Compiled") -> bool:
        """Tell whether both networks make nearly the same pictures, at times across a segment."""
        last = max(segment.frames for segment in self.clip.segments) - 1
        for time in np.linspace(0, last, BF16_FRAMES):
            found = [np.empty((1, *self.picture), np.uint8) for _ in range(2)]
            for network, frames in zip((rounded, exact), found, strict=True):
                network.start(0, np.full(1, time, np.float32))
                network.fetch(0, frames)
            largest = int(np.abs(found[0].astype(np.int16) - found[1]).max())
            if largest > TOLERANCE_STEPS["bf16"] or psnr_db(*found) < BF16_PSNR_DB:
                return False
        return True


def _core() -> Any:
    # The import would start a process that reports to Google. OpenVINO also runs without the
    # package that does so.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    try:
        import openvino
    except (ImportError, OSError) as error:
        raise EngineError(f"OpenVINO cannot be loaded: {first_line(error)}") from None
    return openvino.Core()


class _Compiled(Network):
    """Network with a request for each stream."""

    def __init__(self, requests: list[Any], micro_batch: int) -> None:
        self._requests = requests
        self._times = [np.zeros(micro_batch, np.float32) for _ in requests]

    def start(self, stream: int, times: Times) -> None:
        self._times[stream][: len(times)] = times
        try:
            self._requests[stream].start_async({TIME: self._times[stream]}, share_inputs=True)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot run the network: {first_line(error)}") from None

    def wait(self, stream: int) -> None:
        try:
            self._requests[stream].wait()
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot run the network: {first_line(error)}") from None

    def fetch(self, stream: int, frames: Frames) -> None:
        self.wait(stream)
        frames[:] = self._requests[stream].get_output_tensor().data[: len(frames)]
