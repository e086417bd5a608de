"""Build TensorRT engines of graphs, for TensorRT 10 and 11: strongly typed, refittable, with a profile for the batch."""

import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

import onnx

from encoder.codec.console import replacing
from encoder.codec.errors import EngineError
from encoder.codec.names import TIME
from export.device import gpu_count

logger = logging.getLogger(__name__)


def timing_cache_path() -> Path:
    """Return where measured kernel timings are kept, so that the next build takes seconds."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "nervcast" / "tensorrt-timing.cache"


def import_tensorrt() -> Any:
    """Return the tensorrt module; raises EngineError that says what is missing: the packages, a GPU, or both."""
    missing: list[str] = []
    if not (_installed("tensorrt") and _installed("cuda.bindings")):
        missing.append("its packages (pip install 'nervcast[tensorrt]')")
    if gpu_count() == 0:
        missing.append("an NVIDIA GPU with its driver")
    if missing:
        raise EngineError(f"TensorRT lacks {' and '.join(missing)}")
    try:
        import tensorrt  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError) as error:
        raise EngineError(f"TensorRT cannot be loaded: {error} (pip install 'nervcast[tensorrt]')") from None
    return tensorrt


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that the module is in
        return False


def build_plan(model: onnx.ModelProto, *, max_batch: int, timing_cache: Path) -> bytes:
    """Return the serialised engine of a graph, for 1 to `max_batch` times a call.

    The types are those of the graph: half precision is the graph's business. Raises EngineError.
    """
    trt = import_tensorrt()
    log = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        problem = parser.get_error(0)
        raise EngineError(f"TensorRT cannot take operator {problem.node_operator()}: {problem.desc()}")
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.REFIT)
    profile = builder.create_optimization_profile()
    profile.set_shape(TIME, (1,), (max_batch,), (max_batch,))
    config.add_optimization_profile(profile)
    known = timing_cache.read_bytes() if timing_cache.exists() else b""
    # A cache of another GPU or version is of no use, and no error.
    config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=True)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError("TensorRT could not build an engine; its log above has the reason")
    try:
        timing_cache.parent.mkdir(parents=True, exist_ok=True)
        with replacing(timing_cache) as part:
            part.write_bytes(memoryview(config.get_timing_cache().serialize()))
    except OSError as error:
        logger.warning("the next build starts from nothing: cannot write %s: %s", timing_cache, error.strerror)
    return bytes(memoryview(plan))
