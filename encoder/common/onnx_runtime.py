"""Wrapper of ONNX Runtime that keeps its errors and its untyped names in this module."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as states  # pyright: ignore[reportAttributeAccessIssue]

from encoder.common.errors import EngineError, first_line

ERRORS: tuple[type[Exception], ...] = (
    states.EPFail,
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.ModelLoadCanceled,
    states.NoModel,
    states.NotImplemented,
    states.RuntimeException,
)
"""Exceptions of ONNX Runtime, which have no base class of their own."""
FATAL_ONLY = 4
"""Lowest severity that ONNX Runtime writes to stderr. It raises lesser errors anyway."""

PROFILED_RUNS = 5
MICRO = 1e-6


class Session:
    """A loaded graph."""

    def __init__(
        self,
        model: onnx.ModelProto,
        provider: str = "CPUExecutionProvider",
        settings: Mapping[str, str] = MappingProxyType({}),
        *,
        threads: int = 0,
    ) -> None:
        """Load a model for an execution provider with the provider's settings.

        `threads` is the number of threads; 0 stands for as many as there are cores.
        Raises EngineError if the model or the provider cannot be loaded.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(
                model.SerializeToString(),
                options,
                [(provider, dict(settings))],
                enable_fallback=False,
            )
        except ERRORS as error:
            raise EngineError(
                f"ONNX Runtime cannot load the network: {first_line(error)}"
            ) from None
        if self.session.get_providers()[0] != provider:
            raise EngineError(f"ONNX Runtime cannot load the libraries of {provider}")

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the first output. Raises EngineError if the network cannot be run."""
        return self.outputs(inputs)[0]

    def outputs(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return all outputs. Raises EngineError if the network cannot be run."""
        try:
            return [np.asarray(output) for output in self.session.run(None, dict(inputs))]
        except ERRORS as error:
            raise EngineError(f"ONNX Runtime cannot run the network: {first_line(error)}") from None


def operator_seconds(
    model: onnx.ModelProto,
    inputs: Mapping[str, NDArray[Any]],
    folder: Path,
    *,
    provider: str = "CPUExecutionProvider",
) -> dict[tuple[str, str], float]:
    """Return the seconds of a run by operator and execution provider, mean over PROFILED_RUNS.

    The profile is written into `folder`. Raises EngineError.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, [provider], enable_fallback=False
        )
        for _ in range(PROFILED_RUNS + 1):
            session.run(None, dict(inputs))
    except ERRORS as error:
        raise EngineError(f"ONNX Runtime cannot run the network: {first_line(error)}") from None
    found: dict[tuple[str, str], list[float]] = {}
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            about = event["args"]
            key = (about["op_name"], about["provider"])
            found.setdefault(key, []).append(event["dur"] * MICRO)
    # The first run also allocates.
    return {
        key: sum(times[len(times) // (PROFILED_RUNS + 1) :]) / PROFILED_RUNS
        for key, times in found.items()
    }


Buffer = tuple[tuple[int, ...], type[np.generic]]
"""Shape and type of an input or output."""


class BoundSession:
    """A session whose inputs and outputs stay in fixed memory on a device."""

    def __init__(
        self,
        session: Session,
        device: str,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
    ) -> None:
        """Allocate memory on a device, "cpu" or "cuda".

        Raises EngineError if there is not enough memory.
        """
        self._session = session.session
        self._binding = self._session.io_binding()
        try:
            self._values = {
                name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), kind, device)
                for name, (shape, kind) in (*inputs.items(), *outputs.items())
            }
        except ERRORS as error:
            raise EngineError(f"ONNX Runtime cannot allocate memory: {first_line(error)}") from None
        for name, (shape, kind) in inputs.items():
            self.put(name, np.zeros(shape, kind))
            self._binding.bind_ortvalue_input(name, self._values[name])
        for name in outputs:
            self._binding.bind_ortvalue_output(name, self._values[name])

    def put(self, name: str, values: NDArray[Any]) -> None:
        """Copy values to the device. Raises EngineError if that fails."""
        try:
            self._values[name].update_inplace(np.ascontiguousarray(values))
        except ERRORS as error:
            raise EngineError(
                f"ONNX Runtime cannot write to the device: {first_line(error)}"
            ) from None

    def run(self) -> None:
        """Compute the outputs. Raises EngineError if the network cannot be run."""
        try:
            self._session.run_with_iobinding(self._binding)
        except ERRORS as error:
            raise EngineError(f"ONNX Runtime cannot run the network: {first_line(error)}") from None

    def address(self, name: str) -> int:
        """Return the place of an input or output in the device's memory."""
        return int(self._values[name].data_ptr())

    def get(self, name: str) -> NDArray[Any]:
        """Return a copy of an output's values. Raises EngineError if they cannot be read."""
        try:
            return self._values[name].numpy()
        except ERRORS as error:
            raise EngineError(
                f"ONNX Runtime cannot read from the device: {first_line(error)}"
            ) from None
