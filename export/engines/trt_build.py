"""Build TensorRT engines of graphs, for TensorRT 10 and 11, and with TensorRT for RTX.

Engines are strongly typed, with a profile for the batch. Those of TensorRT are for the GPU here and
refittable. Those of TensorRT for RTX are for several kinds of GPU, and are built without one.
"""

import importlib
import importlib.util
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

from encoder.codec.graph_names import TIME
from encoder.common.cache import keep, kept
from encoder.common.errors import EngineError, SettingsError
from export.hardware import gpu_names

RTX_EXTRA = "pip install 'nervcast[tensorrt-rtx]'"
TARGET = "sm"
"""Beginning of the name of a target, which its compute capability follows, like sm89."""
HERE = "current"
"""Target that stands for the GPU of this machine."""
WAY_OUT = "take --engine onnxruntime-cuda, or another version of TensorRT"

logger = logging.getLogger(__name__)


def import_tensorrt() -> Any:
    """Return the tensorrt module.

    Raises EngineError that names the missing parts: the packages, a GPU, or both.
    """
    return _running("tensorrt", "TensorRT", "pip install 'nervcast[tensorrt]'")


def import_running_rtx() -> Any:
    """Return the module of TensorRT for RTX, for a GPU that is here; raises as the other does."""
    return _running("tensorrt_rtx", "TensorRT for RTX", RTX_EXTRA)


def _running(module: str, title: str, install: str) -> Any:
    missing: list[str] = []
    if not (_installed(module) and _installed("cuda.bindings")):
        missing.append(f"its packages ({install})")
    if not gpu_names():
        missing.append("an NVIDIA GPU with its driver")
    if missing:
        raise EngineError(f"{title} lacks {' and '.join(missing)}")
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise EngineError(f"{title} cannot be loaded: {error} ({install})") from None


def import_rtx() -> Any:
    """Return the module of TensorRT for RTX; raises EngineError if it is not installed."""
    try:
        import tensorrt_rtx
    except (ImportError, OSError) as error:
        reason = "lacks its packages" if isinstance(error, ModuleNotFoundError) else error
        raise EngineError(f"TensorRT for RTX {reason} ({RTX_EXTRA})") from None
    return tensorrt_rtx


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that contains the module is missing
        return False


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Input or output of an engine."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Shape; -1 stands for the number of frames."""


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """A serialized engine with its inputs and outputs."""

    data: bytes
    builder: str
    """Name of the library."""
    version: str
    targets: tuple[str, ...]
    """Kinds of GPU that the engine is for, like sm89; TensorRT's is for the GPU of this name."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def build_tensorrt(model: onnx.ModelProto, *, max_batch: int, timing_cache: Path) -> EnginePlan:
    """Build an engine with TensorRT for the GPU that is here, for 1 to `max_batch` times per call.

    The engine has the types of the graph, which also decides on half precision. `timing_cache` is
    the file of the timings of kernels. Raises EngineError.
    """
    trt = import_tensorrt()

    def settle(config: Any) -> None:
        config.set_flag(trt.BuilderFlag.REFIT)
        known = kept(timing_cache) or b""
        # A cache of another GPU or version is of no use, but no error.
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=True)

    library = _Library(trt, "TensorRT", f"; {WAY_OUT}")
    plan, config = library.build(model, max_batch, gpu_names()[:1], settle)
    keep(timing_cache, bytes(memoryview(config.get_timing_cache().serialize())))
    return plan


def build_rtx(model: onnx.ModelProto, *, max_batch: int, targets: Sequence[str] = ()) -> EnginePlan:
    """Build with TensorRT for RTX, for kinds of GPU that are named, or for all that it takes.

    Raises SettingsError for a kind that it does not know, EngineError for one that it refuses.
    """
    rtx = import_rtx()
    known = rtx_targets()
    if unknown := [name for name in targets if name not in (HERE, *known)]:
        raise SettingsError(f"unknown GPU {unknown[0]!r}, known are: {', '.join((HERE, *known))}")

    library = _Library(rtx, "TensorRT for RTX", "")

    def build(names: Sequence[str]) -> EnginePlan:
        def settle(config: Any) -> None:
            config.num_compute_capabilities = len(names)
            for index, name in enumerate(names):
                config.set_compute_capability(getattr(rtx.ComputeCapability, name.upper()), index)

        return library.build(model, max_batch, names, settle)[0]

    if targets:
        return build(list(dict.fromkeys(targets)))
    taken: list[str] = []
    for name in known:
        try:
            build([name])
        except _GpuError as error:
            logger.info("left out: %s", error)
        else:
            taken.append(name)
    if not taken:
        raise EngineError(f"TensorRT for RTX {rtx.__version__} takes this graph for no GPU")
    return build(taken)


def rtx_targets() -> tuple[str, ...]:
    """Return the kinds of GPU that TensorRT for RTX knows; raises EngineError."""
    found = [name.lower() for name in import_rtx().ComputeCapability.__members__]
    numbers = [int(name.removeprefix(TARGET)) for name in found if name.startswith(TARGET)]
    return tuple(f"{TARGET}{number}" for number in sorted(numbers))


def pick_builder(name: str) -> Literal["tensorrt", "rtx"]:
    """Return the builder of a name; `auto` is TensorRT where it runs, and TensorRT for RTX else.

    Raises EngineError that names what is missing.
    """
    if name == "rtx":
        import_rtx()
        return "rtx"
    try:
        import_tensorrt()
    except EngineError as error:
        if name == "tensorrt":
            raise
        try:
            import_rtx()
        except EngineError as missing:
            raise EngineError(f"{missing}, and {error}") from None
        return "rtx"
    return "tensorrt"


class _GpuError(EngineError):
    """A graph cannot be built for a kind of GPU."""


@dataclass(frozen=True)
class _Library:
    """A library that builds engines."""

    trt: Any
    """The module."""
    title: str
    way_out: str
    """Advice for users whose GPU the library refuses, after a semicolon, or nothing."""

    def build(
        self,
        model: onnx.ModelProto,
        max_batch: int,
        targets: Sequence[str],
        settle: Callable[[Any], None],
    ) -> tuple[EnginePlan, Any]:
        """Return an engine and its configuration, which `settle` completes."""
        trt = self.trt
        name = f"{self.title} {trt.__version__}"
        log = _log(trt)
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse(model.SerializeToString()):
            problem = parser.get_error(0)
            raise EngineError(
                f"{name} cannot take operator {problem.node_operator()}: {problem.desc()}"
                f"{self.way_out}"
            )
        config = builder.create_builder_config()
        # An engine in fp32 is for pictures that are exact: TF32 has 10 bits.
        config.clear_flag(trt.BuilderFlag.TF32)
        profile = builder.create_optimization_profile()
        profile.set_shape(TIME, (1,), (max_batch,), (max_batch,))
        config.add_optimization_profile(profile)
        settle(config)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            where = f" for {', '.join(targets)}" if targets else ""
            reason = _reason(log.problem)
            raise _GpuError(f"{name} builds no engine{where}: {reason}{self.way_out}")
        return EnginePlan(
            data=bytes(memoryview(plan)),
            builder=self.title,
            version=trt.__version__,
            targets=tuple(targets),
            inputs=_tensors(network.get_input, network.num_inputs),
            outputs=_tensors(network.get_output, network.num_outputs),
        ), config


def _tensors(get: Callable[[int], Any], count: int) -> tuple[Tensor, ...]:
    found = [get(index) for index in range(count)]
    return tuple(
        Tensor(name=x.name, dtype=x.dtype.name.lower(), shape=tuple(x.shape)) for x in found
    )


def _reason(problem: str) -> str:
    """Return a logged error without the places in the library's code."""
    text = re.sub(r"^.*?Error Code \d+: (?:\w+ )?\(?(?:\[[^]]*\] )?", "", problem)
    return re.sub(r"\.? In \w+ at .*$", "", text) or "it gives no reason"


def _log(trt: Any) -> Any:
    """Return a log that keeps the first error, and writes nothing."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.problem = ""

        def log(self, severity: Any, text: str) -> None:
            levels = trt.ILogger.Severity
            if severity in (levels.ERROR, levels.INTERNAL_ERROR) and not self.problem:
                self.problem = text.strip().splitlines()[0]

    return Log()
