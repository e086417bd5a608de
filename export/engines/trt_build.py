"""Build TensorRT engines of graphs, for TensorRT 10 and 11: strongly typed, refittable, with a profile for the batch."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import onnx

from encoder.codec.graph_names import TIME
from encoder.common.cache import cache_folder, evict, keep, kept
from encoder.common.errors import EngineError
from export.hardware import gpu_names

WEIGHTS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
"""Types of what a refit replaces."""
FIXED = ("Clip", "Pad", "Resize")
"""Operators whose other inputs an engine is built for, so that a refit cannot replace them."""
WAY_OUT = "take --engine onnxruntime-cuda, or another version of TensorRT"
MAX_PLANS = 32
"""Most engines that are kept."""


def timing_cache_path() -> Path:
    """Return where measured kernel timings are kept, so that the next build takes seconds."""
    return cache_folder() / "tensorrt-timing.cache"


def import_tensorrt() -> Any:
    """Return the tensorrt module; raises EngineError that says what is missing: the packages, a GPU, or both."""
    missing: list[str] = []
    if not (_installed("tensorrt") and _installed("cuda.bindings")):
        missing.append("its packages (pip install 'nervcast[tensorrt]')")
    if not gpu_names():
        missing.append("an NVIDIA GPU with its driver")
    if missing:
        raise EngineError(f"TensorRT lacks {' and '.join(missing)}")
    try:
        import tensorrt  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError) as error:
        raise EngineError(
            f"TensorRT cannot be loaded: {error} (pip install 'nervcast[tensorrt]')"
        ) from None
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
        raise EngineError(
            f"TensorRT {trt.__version__} cannot take operator {problem.node_operator()}: {problem.desc()}; {WAY_OUT}"
        )
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.REFIT)
    profile = builder.create_optimization_profile()
    profile.set_shape(TIME, (1,), (max_batch,), (max_batch,))
    config.add_optimization_profile(profile)
    known = kept(timing_cache) or b""
    # A cache of another GPU or version is of no use, and no error.
    config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=True)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"TensorRT {trt.__version__} could not build an engine, as its log above says; {WAY_OUT}"
        )
    keep(timing_cache, bytes(memoryview(config.get_timing_cache().serialize())))
    return bytes(memoryview(plan))


def cached_plan(model: onnx.ModelProto, *, max_batch: int, anew: bool = False) -> bytes:
    """Return the engine of all graphs that differ from this one in their weights alone, built at most once on this machine.

    Raises EngineError.
    """
    path = cache_folder() / "tensorrt" / f"{plan_key(model, max_batch=max_batch)}.engine"
    if not anew and (plan := kept(path)) is not None:
        return plan
    plan = new_plan(model, max_batch=max_batch)
    keep(path, plan)
    evict(path.parent, "*.engine", MAX_PLANS)
    return plan


def new_plan(model: onnx.ModelProto, *, max_batch: int) -> bytes:
    """Return the engine of a graph, built anew with what is known of kernels' timings; raises EngineError."""
    return build_plan(model, max_batch=max_batch, timing_cache=timing_cache_path())


def plan_key(model: onnx.ModelProto, *, max_batch: int) -> str:
    """Return what tells engines apart: the graph without its weights, the GPU, the version of TensorRT, the batch."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    sizes = {name for node in bare.graph.node if node.op_type in FIXED for name in node.input[1:]}
    for constant in bare.graph.initializer:
        if constant.data_type in WEIGHTS and constant.name not in sizes:
            constant.ClearField("raw_data")
            constant.ClearField("float_data")
    gpu = next(iter(gpu_names()), "")
    what = f"{import_tensorrt().__version__} {gpu} {max_batch} ".encode() + bare.SerializeToString(
        deterministic=True
    )
    return hashlib.sha256(what).hexdigest()[:32]
