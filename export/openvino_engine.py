"""Run a clip with Intel's OpenVINO, the fastest on x86 CPUs."""

import importlib.util
from typing import Any

import numpy as np
import onnx

from encoder.codec.clip import Clip
from encoder.codec.errors import EngineError, first_line
from encoder.codec.names import TIME
from export.engine import DEFAULT_BATCH, Engine, Frames, Network, Times
from export.graph import PixelFormat
from export.machine import core_count


class OpenVino(Engine):
    """OpenVINO on the CPU: a stream for each core, or all cores for one stream where a batch is a single frame."""

    name = "openvino"
    polynomials = True

    def __init__(self, clip: Clip, *, batch: int = DEFAULT_BATCH, pixels: PixelFormat = "i420") -> None:
        """Raise EngineError where OpenVINO is not installed."""
        if importlib.util.find_spec("openvino") is None:
            raise EngineError("OpenVINO is not installed: pip install 'nervcast[player]'")
        super().__init__(clip, batch=batch, pixels=pixels, max_lanes=core_count())
        import openvino

        self._core = openvino.Core()

    def load(self, model: onnx.ModelProto) -> Network:
        """Compile for the size of a piece: fixed shapes run faster than variable ones."""
        # By itself it would take bfloat16 on CPUs that have it, which is visible.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": str(self.lanes)}
        try:
            network = self._core.read_model(model.SerializeToString())
            network.reshape({TIME: [self.piece]})
            compiled = self._core.compile_model(network, "CPU", settings)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load the network: {first_line(error)}") from None
        return _Compiled([compiled.create_infer_request() for _ in range(self.lanes)], self.piece)


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
