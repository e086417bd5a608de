"""NVIDIA's CUDA runtime behind a class: memory, streams and recorded graphs.

The untyped bindings are used in this module only.
"""

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.common.errors import EngineError


class Cuda:
    """Functions of the CUDA runtime; `close` releases the resources that they allocate."""

    def __init__(self) -> None:
        self._runtime: Any = import_module("cuda.bindings.runtime")
        self._release = ExitStack()

    def close(self) -> None:
        """Release all resources, the last one first."""
        self._release.close()

    def memory(self, size_bytes: int) -> int:
        """Allocate memory on the GPU and return its address; raises EngineError."""
        return int(self._owned("cudaFree", self._call("cudaMalloc", size_bytes)))

    def pinned(self, shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
        """Return an array of the host in pinned memory; raises EngineError.

        The GPU reads and writes it at full speed.
        """
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        address = int(self._owned("cudaFreeHost", self._call("cudaMallocHost", size)))
        memory = (ctypes.c_uint8 * size).from_address(address)
        return np.ctypeslib.as_array(memory).view(kind).reshape(shape)

    def stream(self) -> int:
        """Return a new stream; raises EngineError."""
        # Without this flag, the stream would wait for other work on the default stream.
        flags = self._runtime.cudaStreamNonBlocking
        return int(self._owned("cudaStreamDestroy", self._call("cudaStreamCreateWithFlags", flags)))

    def upload(self, target: int, source: NDArray[Any], stream: int) -> None:
        """Enqueue a copy of a pinned array to the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source.ctypes.data, source.nbytes, kind, stream)

    def download(self, target: NDArray[Any], source: int, stream: int) -> None:
        """Enqueue a copy from the GPU to a pinned array."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, source, target.nbytes, kind, stream)

    def wait(self, stream: int) -> None:
        """Wait for all work of a stream; raises EngineError if some of it failed."""
        self._call("cudaStreamSynchronize", stream)

    def record(self, stream: int, work: Callable[[], None]) -> "Graph":
        """Return the work that `work` enqueues on a stream as one graph; raises EngineError.

        One launch of the graph starts all of the work.
        """
        # Other threads continue to use the GPU meanwhile.
        self._call(
            "cudaStreamBeginCapture",
            stream,
            self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal,
        )
        try:
            work()
        finally:
            recorded = self._call("cudaStreamEndCapture", stream)
        try:
            made = self._call("cudaGraphInstantiate", recorded, 0)
        finally:
            self._call("cudaGraphDestroy", recorded)
        return Graph(
            lambda: self._call("cudaGraphLaunch", made, stream),
            lambda: self._call("cudaGraphExecDestroy", made),
        )

    def _owned(self, release: str, resource: Any) -> Any:
        self._release.callback(getattr(self._runtime, release), resource)
        return resource

    def _call(self, name: str, *arguments: object) -> Any:
        error, *result = getattr(self._runtime, name)(*arguments)
        if error != self._runtime.cudaError_t.cudaSuccess:
            raise EngineError(f"{name} failed: {error.name}")
        return result[0] if result else None


class PinnedDownload:
    """Copies from a place of the GPU through pinned memory, several times as fast as without."""

    def __init__(self, address: int, shape: tuple[int, ...], kind: type[np.generic]) -> None:
        """Take the place of an array; raises ImportError without the bindings, and EngineError."""
        self._address = address
        self._cuda = Cuda()
        try:
            self._stream = self._cuda.stream()
            self._array = self._cuda.pinned(shape, kind)
        except EngineError:
            self._cuda.close()
            raise

    def rows(self, count: int) -> NDArray[Any]:
        """Return the first rows of the array, valid until the next call; raises EngineError."""
        part = self._array[:count]
        self._cuda.download(part, self._address, self._stream)
        self._cuda.wait(self._stream)
        return part

    def close(self) -> None:
        """Release the pinned memory."""
        self._cuda.close()


class Graph:
    """Recorded work of a stream."""

    def __init__(self, launch: Callable[[], None], close: Callable[[], None]) -> None:
        self.launch = launch
        """Function that enqueues the work on the stream."""
        self.close = close
        """Function that releases the graph."""
