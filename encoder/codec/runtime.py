"""ONNX Runtime behind one class, so that its errors and its untyped names stay here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as states  # pyright: ignore[reportAttributeAccessIssue]

from encoder.codec.errors import EngineError, first_line

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

    def __init__(self, model: onnx.ModelProto, providers: Sequence[str] = ("CPUExecutionProvider",)) -> None:
        """Load a model; raises EngineError if it cannot be run."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, list(providers), enable_fallback=False
            )
        except ERRORS as error:
            raise EngineError(f"ONNX Runtime cannot load the network: {first_line(error)}") from None
        if self._session.get_providers()[: len(providers)] != list(providers):
            raise EngineError(f"ONNX Runtime cannot load the libraries of {providers[0]}")

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the first output; raises EngineError."""
        return self.outputs(inputs)[0]

    def outputs(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return all outputs; raises EngineError."""
        try:
            return [np.asarray(output) for output in self._session.run(None, dict(inputs))]
        except ERRORS as error:
            raise EngineError(f"ONNX Runtime cannot run the network: {first_line(error)}") from None
