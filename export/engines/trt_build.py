"""Build TensorRT engines of graphs, for TensorRT 10 and 11.

Engines are strongly typed and refittable, with a profile for the batch.
"""

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
"""Types of the constants that a refit replaces."""
FIXED = ("Clip", "Pad", "Resize")
"""Operators whose inputs after the first are fixed in the engine: a refit cannot replace them."""
WAY_OUT = "take --engine onnxruntime-cuda, or another version of TensorRT"
MAX_PLANS = 32
"""Maximum number of engines that are kept."""


def timing_cache_path() -> Path:
    """Return the path of the cache of kernel timings, with which the next build takes seconds."""
    return cache_folder() / "tensorrt-timing.cache"


def import_tensorrt() -> Any:
    """Return the tensorrt module.

    Raises EngineError that names the missing parts: the packages, a GPU, or both.
    """
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
    except ModuleNotFoundError:  # the package that contains the module is missing
        return False


def build_plan(model: onnx.ModelProto, *, max_batch: int, timing_cache: Path) -> bytes:
    """Return the serialized engine of a graph, for 1 to `max_batch` times per call.

    The engine has the types of the graph, which also decides on half precision. Raises EngineError.
    """
    trt = import_tensorrt()
    log = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        problem = parser.get_error(0)
        raise EngineError(
            f"TensorRT {trt.__version__} cannot take operator {problem.node_operator()}: "
            f"{problem.desc()}; {WAY_OUT}"
        )
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.REFIT)
    # A camera's places, the products of matrices in fp32, need more than TF32's 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    profile.set_shape(TIME, (1,), (max_batch,), (max_batch,))
    config.add_optimization_profile(profile)
    known = kept(timing_cache) or b""
    # A cache of another GPU or version is of no use, but no error.
    config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=True)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"TensorRT {trt.__version__} could not build an engine, as its log above says; "
            f"{WAY_OUT}"
        )
    keep(timing_cache, bytes(memoryview(config.get_timing_cache().serialize())))
    return bytes(memoryview(plan))


def cached_plan(model: onnx.ModelProto, *, max_batch: int, anew: bool = False) -> bytes:
    """Return the engine of a graph, which is built at most once on this machine.

    Graphs that differ only in their weights share an engine. `anew` rebuilds it. Raises
    EngineError.
    """
    path = cache_folder() / "tensorrt" / f"{plan_key(model, max_batch=max_batch)}.engine"
    if not anew and (plan := kept(path)) is not None:
        return plan
    plan = new_plan(model, max_batch=max_batch)
    keep(path, plan)
    evict(path.parent, "*.engine", MAX_PLANS)
    return plan


def new_plan(model: onnx.ModelProto, *, max_batch: int) -> bytes:
    """Return a newly built engine of a graph, with cached kernel timings; raises EngineError."""
    return build_plan(model, max_batch=max_batch, timing_cache=timing_cache_path())


def plan_key(model: onnx.ModelProto, *, max_batch: int) -> str:
    """Return a hash of everything that distinguishes engines.

    It covers the graph without its weights, the GPU, the version of TensorRT, and the batch.
    """
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
