"""ONNX Runtime behind one class, so that its errors and its untyped names stay here."""

from collections.abc import Mapping
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
"""What ONNX Runtime raises; the classes have no base of their own."""
FATAL_ONLY = 4
"""Severity from which ONNX Runtime writes to stderr; lesser errors it raises as well."""


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
        """Load a model for a provider, with settings of its own, to be run by as many threads as there are cores, or fewer.

        Raises EngineError if it cannot be run.
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
        """Return the first output; raises EngineError."""
        return self.outputs(inputs)[0]

    def outputs(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return all outputs; raises EngineError."""
        try:
            return [np.asarray(output) for output in self.session.run(None, dict(inputs))]
        except ERRORS as error:
            raise EngineError(f"ONNX Runtime cannot run the network: {first_line(error)}") from None


Buffer = tuple[tuple[int, ...], type[np.generic]]
"""Shape and type of an input or output."""


class BoundSession:
    """A session whose inputs and outputs stay where they are, on a device."""

    def __init__(
        self,
        session: Session,
        device: str,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
    ) -> None:
        """Allocate memory on a device, "cpu" or "cuda"; raises EngineError if there is not enough."""
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
        """Copy values to the device; raises EngineError."""
        try:
            self._values[name].update_inplace(np.ascontiguousarray(values))
        except ERRORS as error:
            raise EngineError(
                f"ONNX Runtime cannot write to the device: {first_line(error)}"
            ) from None

    def run(self) -> None:
        """Compute the outputs; raises EngineError."""
        try:
            self._session.run_with_iobinding(self._binding)
        except ERRORS as error:
            raise EngineError(f"ONNX Runtime cannot run the network: {first_line(error)}") from None

    def get(self, name: str) -> NDArray[Any]:
        """Return the values of an output, copied from the device; raises EngineError."""
        try:
            return self._values[name].numpy()
        except ERRORS as error:
            raise EngineError(
                f"ONNX Runtime cannot read from the device: {first_line(error)}"
            ) from None
