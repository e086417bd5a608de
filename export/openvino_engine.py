"""Run a clip with Intel's OpenVINO, the fastest on x86 CPUs."""

import importlib.util
from typing import Any

import numpy as np
import onnx

from encoder.codec.clip import Clip
from encoder.codec.errors import EngineError, first_line
from encoder.codec.names import TIME
from encoder.media.quality import psnr_db
from export.engine import DEFAULT_BATCH, Engine, Frames, Network, Times
from export.graph import PixelFormat
from export.machine import core_count

BF16_PSNR_DB = 52.0
"""PSNR of pictures in bfloat16 against those in 32 bits from which on they hold: a clip of 36 dB loses 0.1 dB there."""


class OpenVino(Engine):
    """OpenVINO on the CPU: a stream for each core, or all cores for one stream where a batch is a single frame.

    In bfloat16 where the CPU has it and the pictures of the first segment hold.
    """

    name = "openvino"
    polynomials = True

    def __init__(self, clip: Clip, *, batch: int = DEFAULT_BATCH, pixels: PixelFormat = "i420") -> None:
        """Raise EngineError where OpenVINO is not installed."""
        if importlib.util.find_spec("openvino") is None:
            raise EngineError("OpenVINO is not installed: pip install 'nervcast[player]'")
        super().__init__(clip, batch=batch, pixels=pixels, max_lanes=core_count())
        import openvino

        self._core = openvino.Core()
        self._is_tried = False

    def load(self, model: onnx.ModelProto) -> Network:
        """Compile for the size of a piece: fixed shapes run faster than variable ones."""
        try:
            network = self._core.read_model(model.SerializeToString())
            network.reshape({TIME: [self.piece]})
            if self._is_tried or not self._has_bf16():
                return self._compiled(network)
            exact = self._compiled(network)
            self._is_tried, self.precision = True, "bf16"
            rounded = self._compiled(network)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load the network: {first_line(error)}") from None
        if psnr_db(self._first(rounded), self._first(exact)) >= BF16_PSNR_DB:
            return rounded
        self.precision = "fp32"
        return exact

    def _has_bf16(self) -> bool:
        return "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def _compiled(self, network: Any) -> "_Compiled":
        # By itself it would take bfloat16 wherever the CPU has it.
        precision = {"fp32": "f32", "bf16": "bf16"}[self.precision]
        settings = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": str(self.lanes)}
        compiled = self._core.compile_model(network, "CPU", settings)
        return _Compiled([compiled.create_infer_request() for _ in range(self.lanes)], self.piece)

    def _first(self, network: "_Compiled") -> Frames:
        """Return the first pictures of a segment."""
        network.start(0, np.arange(self.piece, dtype=np.float32))
        frames = np.empty((self.piece, *self.picture), np.uint8)
        network.fetch(0, frames)
        return frames


class _Compiled(Network):
    """A network with a request for each lane."""

    def __init__(self, requests: list[Any], piece: int) -> None:
        self._requests = requests
        self._times = [np.zeros(piece, np.float32) for _ in requests]

    def start(self, lane: int, times: Times) -> None:
        self._times[lane][: len(times)] = times
        self._requests[lane].start_async({TIME: self._times[lane]}, share_inputs=True)

    def wait(self, lane: int) -> None:
        try:
            self._requests[lane].wait()
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot run the network: {first_line(error)}") from None

    def fetch(self, lane: int, frames: Frames) -> None:
        self.wait(lane)
        frames[:] = self._requests[lane].get_output_tensor().data[: len(frames)]
