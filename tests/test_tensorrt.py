"""TensorRT cannot be installed everywhere: its API is checked without it, and what surrounds it with a stand-in."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from encoder.codec.clip import SegmentModels
from encoder.codec.errors import EngineError
from export import to_tensorrt
from export.graph import build_graph

ROOT = Path(__file__).parents[1]
CHECKER = ROOT.parent / "shared" / "tools" / "trt_api.py"
VERSIONS = ("10.13.3.9", "11.4.0.106")
METHODS = {
    "Builder": ("build_serialized_network", "create_builder_config", "create_network", "create_optimization_profile"),
    "IBuilderConfig": (
        "add_optimization_profile",
        "create_timing_cache",
        "get_timing_cache",
        "set_flag",
        "set_timing_cache",
    ),
    "ICudaEngine": ("create_execution_context", "get_tensor_shape"),
    "IExecutionContext": ("execute_async_v3", "set_input_shape", "set_tensor_address"),
    "IOptimizationProfile": ("set_shape",),
    "ITimingCache": ("serialize",),
    "OnnxParser": ("get_error", "parse"),
    "OnnxParserRefitter": ("refit_from_bytes",),
    "ParserError": ("desc", "node_operator"),
    "Refitter": ("refit_cuda_engine",),
    "Runtime": ("deserialize_cuda_engine",),
}
"""Methods that are called on objects, which the checker does not see."""


def run_checker(*arguments):
    if not CHECKER.exists():
        pytest.skip("the API checker is not here")
    done = subprocess.run([sys.executable, CHECKER, *arguments], capture_output=True, text=True, check=False)
    if "CalledProcessError" in done.stderr:
        pytest.skip("TensorRT's bindings cannot be downloaded")
    return done


def test_every_name_exists_in_tensorrt_10_and_11():
    files = [ROOT / "export" / name for name in ("to_tensorrt.py", "tensorrt_engine.py")]
    done = run_checker("check", *files)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_every_method_exists(version):
    names = set(run_checker("names", "--version", version).stdout.split())
    used = {f"{owner}.{method}" for owner, methods in METHODS.items() for method in methods}
    assert used - names == set()


def test_every_method_that_is_called_is_in_the_list():
    text = "".join((ROOT / "export" / name).read_text() for name in ("to_tensorrt.py", "tensorrt_engine.py"))
    objects = "builder|network|parser|problem|config|profile|engine|refitter|_context|_runtime"
    called = set(re.findall(rf"\b(?:{objects})\.([a-z_0-9]+)\(", text)) | {"serialize"}
    assert called == {method for methods in METHODS.values() for method in methods}


@pytest.mark.parametrize(
    ("package", "gpus", "message"),
    [
        (None, 0, r"TensorRT lacks its packages \(pip install 'nervcast\[tensorrt\]'\) and an NVIDIA GPU with its driver"),
        (None, 1, r"TensorRT lacks its packages \(pip install 'nervcast\[tensorrt\]'\)$"),
        (object(), 0, "TensorRT lacks an NVIDIA GPU with its driver"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, package, gpus, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
    monkeypatch.setattr(to_tensorrt, "gpu_count", lambda: gpus)
    with pytest.raises(EngineError, match=message):
        to_tensorrt.import_tensorrt()


class Recorder:
    """Stands in for any of TensorRT's objects: notes what is called, and answers as a successful one."""

    def __init__(self, calls, answers):
        self._calls, self._answers = calls, answers

    def __getattr__(self, name):
        def call(*arguments, **keywords):
            self._calls.append((name, arguments, keywords))
            return self._answers.get(name, self)

        return call


def stand_in(calls, **answers):
    recorder = Recorder(calls, {"parse": True, "build_serialized_network": b"plan", "serialize": b"timings"} | answers)
    logger = types.SimpleNamespace(WARNING=2)
    return types.SimpleNamespace(
        Logger=type("Logger", (), {"WARNING": 2, "__init__": lambda self, severity: None}),
        Builder=lambda log: recorder,
        OnnxParser=lambda network, log: recorder,
        NetworkDefinitionCreationFlag=types.SimpleNamespace(STRONGLY_TYPED=1),
        BuilderFlag=types.SimpleNamespace(REFIT=logger),
    )


@pytest.fixture
def model(tiny_clip):
    return build_graph(SegmentModels(tiny_clip), 0, precision="fp16")


def test_build(monkeypatch, tmp_path, model):
    calls = []
    monkeypatch.setattr(to_tensorrt, "import_tensorrt", lambda: stand_in(calls))
    cache = tmp_path / "cache" / "timing"
    assert to_tensorrt.build_plan(model, max_batch=8, timing_cache=cache) == b"plan"
    assert cache.read_bytes() == b"timings"
    named = {name: arguments for name, arguments, _ in calls}
    assert named["create_network"] == (2,)  # 1 << STRONGLY_TYPED
    assert named["set_shape"] == ("t", (1,), (8,), (8,))
    assert named["parse"] == (model.SerializeToString(),)
    calls.clear()
    to_tensorrt.build_plan(model, max_batch=8, timing_cache=cache)
    assert ("create_timing_cache", (b"timings",), {}) in calls


def test_refused_operator_is_named(monkeypatch, tmp_path, model):
    answers = {"parse": False, "node_operator": "Gelu", "desc": "not known"}
    monkeypatch.setattr(to_tensorrt, "import_tensorrt", lambda: stand_in([], **answers))
    with pytest.raises(EngineError, match="cannot take operator Gelu: not known"):
        to_tensorrt.build_plan(model, max_batch=8, timing_cache=tmp_path / "timing")


def test_failed_build(monkeypatch, tmp_path, model):
    monkeypatch.setattr(to_tensorrt, "import_tensorrt", lambda: stand_in([], build_serialized_network=None))
    with pytest.raises(EngineError, match="could not build"):
        to_tensorrt.build_plan(model, max_batch=8, timing_cache=tmp_path / "timing")


def test_timing_cache_that_cannot_be_written_costs_no_engine(monkeypatch, tmp_path, model, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setattr(to_tensorrt, "import_tensorrt", lambda: stand_in([]))
    cache = tmp_path / "file" / "timing"
    assert to_tensorrt.build_plan(model, max_batch=8, timing_cache=cache) == b"plan"
    assert "the next build starts from nothing" in caplog.text


def test_timing_cache_is_in_the_users_cache(monkeypatch):
    monkeypatch.setitem(os.environ, "XDG_CACHE_HOME", "/somewhere")
    assert to_tensorrt.timing_cache_path() == Path("/somewhere/nervcast/tensorrt-timing.cache")


def test_frames_come_back_from_the_gpu(monkeypatch):
    """The engine's way to the GPU and back, on a stand-in for CUDA whose memory is the host's."""
    from export.tensorrt_engine import _Network

    calls = []
    answers = dict.fromkeys(["cudaFree", "cudaMemcpyAsync", "cudaStreamDestroy", "cudaStreamSynchronize"], (0,))
    cuda = Recorder(calls, answers | dict.fromkeys(["cudaMalloc", "cudaStreamCreate"], (0, 1000)))
    vars(cuda).update(
        cudaError_t=types.SimpleNamespace(cudaSuccess=0),
        cudaMemcpyKind=types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2),
    )
    bindings = types.ModuleType("cuda.bindings")
    bindings.runtime = cuda
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    engine = Recorder(calls, {})
    network = _Network(engine, 4, (30, 26))
    frames = network.run(np.zeros(3, np.float32))
    assert frames.shape == (3, 30, 26)
    sizes = [arguments[0] for name, arguments, _ in calls if name == "cudaMalloc"]
    assert sizes == [4 * 4, 4 * 30 * 26]
    copies = [arguments[2:4] for name, arguments, _ in calls if name == "cudaMemcpyAsync"]
    assert copies == [(3 * 4, 1), (3 * 30 * 26, 2)]
    assert ("set_input_shape", ("t", (3,)), {}) in calls
    del network
    assert [call[0] for call in calls][-3:] == ["cudaStreamDestroy", "cudaFree", "cudaFree"]
