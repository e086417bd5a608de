"""TensorRT engines and timings of kernels that are kept from one start to the next."""

import hashlib
from pathlib import Path
from typing import Any

import onnx

from encoder.common.cache import cache_folder, evict, keep, kept
from export.engines.trt_build import build_tensorrt, import_tensorrt
from export.hardware import gpu_names

WEIGHTS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
"""Types of the constants that a refit replaces."""
FIXED = ("Clip", "Pad", "Resize")
"""Operators whose inputs after the first are fixed in the engine: a refit cannot replace them."""
BUILD = 2
"""Number of the way in which engines are built; another one makes kept engines useless."""
MAX_PLANS = 32
"""Maximum number of engines that are kept."""


def timing_cache_path() -> Path:
    """Return the path of the cache of kernel timings, with which the next build takes seconds."""
    return cache_folder() / "tensorrt-timing.cache"


def cached_plan(model: onnx.ModelProto, *, max_batch: int, anew: bool = False) -> bytes:
    """Return the engine of a graph, which is built at most once on this machine.

    Graphs that differ only in their weights share an engine. `anew` rebuilds it. Raises
    EngineError.
    """
    key = plan_key(model, max_batch=max_batch, version=import_tensorrt().__version__)
    path = cache_folder() / "tensorrt" / f"{key}.engine"
    if not anew and (plan := kept(path)) is not None:
        return plan
    plan = new_plan(model, max_batch=max_batch)
    keep(path, plan)
    evict(path.parent, "*.engine", MAX_PLANS)
    return plan


class KernelCache:
    """Kernels that TensorRT for RTX has compiled for a GPU, kept from one start to the next."""

    def __init__(self, rtx: Any, engine: Any, key: str) -> None:
        """Take the module, an engine, and the key of engines that differ in their weights alone."""
        self._path = cache_folder() / "tensorrt-rtx" / f"{key}.kernels"
        self.config = engine.create_runtime_config()
        """Configuration of the engine's contexts."""
        # Otherwise slower kernels run, and are recorded, until those for the batch are compiled.
        strategies = rtx.DynamicShapesKernelSpecializationStrategy
        self.config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        self._cache = self.config.create_runtime_cache()
        self._known = kept(self._path)
        if self._known is not None:
            self._cache.deserialize(self._known)  # those of another driver are ignored
        self.config.set_runtime_cache(self._cache)

    def keep(self) -> None:
        """Keep the compiled kernels, if there are other ones than before."""
        kernels = bytes(memoryview(self._cache.serialize()))
        if kernels != self._known:
            keep(self._path, kernels)
            evict(self._path.parent, "*.kernels", MAX_PLANS)


def new_plan(model: onnx.ModelProto, *, max_batch: int) -> bytes:
    """Return a newly built engine of a graph, with cached kernel timings; raises EngineError."""
    return build_tensorrt(model, max_batch=max_batch, timing_cache=timing_cache_path()).data


def plan_key(model: onnx.ModelProto, *, max_batch: int, version: str) -> str:
    """Return a hash of everything that distinguishes engines.

    It covers the graph without its weights, the GPU, the version of the library, and the batch.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    sizes = {name for node in bare.graph.node if node.op_type in FIXED for name in node.input[1:]}
    for constant in bare.graph.initializer:
        if constant.data_type in WEIGHTS and constant.name not in sizes:
            constant.ClearField("raw_data")
            constant.ClearField("float_data")
    gpu = next(iter(gpu_names()), "")
    what = f"{version} {gpu} {max_batch} {BUILD} ".encode() + bare.SerializeToString(
        deterministic=True
    )
    return hashlib.sha256(what).hexdigest()[:32]
