"""The engine of TensorRT for RTX: engines by its own builder, run by a stand-in for a GPU."""

import numpy as np
import pytest
from fake_tensorrt import FakeRtx
from helpers import fit_clip

from encoder.codec.clip import SegmentModels
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.common.errors import EngineError
from export.engines import trt as trt_engine
from export.engines import trt_build, trt_cache
from export.engines.registry import open_engine
from export.engines.trt import TensorRtRtx
from export.graph import build_graph

tensorrt_rtx = pytest.importorskip(
    "tensorrt_rtx", reason="TensorRT for RTX runs on x86-64 Linux alone"
)


@pytest.fixture(scope="module")
def five_segments():
    """A clip of five segments, made before a stand-in is among the modules."""
    return fit_clip("fast", frames=5, height=16, width=16, segment_frames=1)


@pytest.fixture
def rtx(monkeypatch, cuda, tmp_path):
    rtx = FakeRtx(cuda)
    monkeypatch.setattr(trt_engine, "import_running_rtx", lambda: rtx)
    monkeypatch.setattr(trt_engine, "build_rtx", rtx.build)
    monkeypatch.setattr(trt_cache, "gpu_names", lambda: ["a GPU"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return rtx


def check(clip, times):
    with open_engine(clip, "tensorrt-rtx", batch=3, pixels="rgb") as engine:
        assert (engine.streams, engine.micro_batch) == (2, 2)
        frames = engine.frames(times)
    expected = np.stack([ReferenceDecoder(clip).frame(time) for time in times])
    assert np.abs(frames.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("records", [True, False])
def test_frames_come_back_from_the_gpu(rtx, cuda, tiny_clip, records):
    cuda.records = records
    check(tiny_clip, np.array([0, 1, 2, 3, 4, 5, 1.5, 5, 0, 3, 3.25]))
    assert ("launch" in cuda.calls) == records
    assert len(rtx.graphs) == 2
    assert cuda.live == {}


def test_kernels_are_compiled_once_for_all_segments_and_starts(five_segments, rtx, cuda, tmp_path):
    for _ in range(2):
        check(five_segments, np.arange(5.0))
    assert len(rtx.graphs) == 5
    assert rtx.compiled == 1
    (path,) = (tmp_path / "cache" / "nervcast" / "tensorrt-rtx").iterdir()
    assert path.read_bytes() == b"kernels"
    assert cuda.live == {}


def test_kernels_of_another_driver_are_compiled_anew(rtx, tiny_clip):
    check(tiny_clip, np.arange(6.0))
    rtx.takes_kernels = False
    check(tiny_clip, np.arange(6.0))
    assert rtx.compiled == 1 + 2


def test_kernels_that_are_not_to_be_kept(rtx, tiny_clip, tmp_path):
    with TensorRtRtx(tiny_clip) as engine:
        engine.keeps_builds = False
        engine.warm_up()
    assert rtx.compiled > 0
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("rtx")
def test_memory_that_runs_out_is_given_back(cuda, tiny_clip, monkeypatch):
    failure = type("Error", (), {"name": "cudaErrorMemoryAllocation"}), None
    monkeypatch.setattr(cuda, "cudaMalloc", lambda size: failure)
    with pytest.raises(EngineError, match="cudaMalloc failed: cudaErrorMemoryAllocation"):
        open_engine(tiny_clip, "tensorrt-rtx")
    assert cuda.live == {}


def test_engine_that_does_not_run_is_one_line(rtx, cuda, tiny_clip):
    """As when the GPU's memory is full."""
    rtx.prepares = False
    with pytest.raises(EngineError, match="TensorRT could not prepare to run the network"):
        open_engine(tiny_clip, "tensorrt-rtx")
    assert cuda.live == {}


def test_gpu_of_this_machine_is_a_target(tiny_clip):
    assert hasattr(tensorrt_rtx.ComputeCapability, trt_build.HERE.upper())
    if not trt_build.gpu_names():
        graph = build_graph(SegmentModels(tiny_clip), 0)
        with pytest.raises(
            EngineError, match=r"^[^\n]*builds no engine for current: [^\n]*CUDA driver"
        ):
            trt_build.build_rtx(graph, max_batch=1, targets=[trt_build.HERE])


@pytest.mark.usefixtures("rtx")
def test_engine_that_cannot_be_loaded(tiny_clip, monkeypatch):
    monkeypatch.setattr(FakeRtx, "_load", lambda rtx, plan: None)
    with pytest.raises(EngineError, match=r"TensorRT for RTX [\d.]+ cannot load its engine"):
        open_engine(tiny_clip, "tensorrt-rtx")


@pytest.mark.parametrize(
    ("package", "gpus", "message"),
    [
        (
            None,
            1,
            r"TensorRT for RTX lacks its packages \(pip install 'nervcast\[tensorrt-rtx\]'\)$",
        ),
        (object(), 0, "TensorRT for RTX lacks an NVIDIA GPU with its driver"),
    ],
)
def test_what_is_missing_is_named(tiny_clip, monkeypatch, package, gpus, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
    monkeypatch.setattr(trt_build, "gpu_names", lambda: ["a GPU"] * gpus)
    with pytest.raises(EngineError, match=message):
        open_engine(tiny_clip, "tensorrt-rtx")


def test_every_method_exists():
    """Those that the stand-ins have in place of the library's."""
    assert hasattr(tensorrt_rtx.IRuntimeConfig, "dynamic_shapes_kernel_specialization_strategy")
    for owner, names in {
        "ICudaEngine": ("create_execution_context", "create_runtime_config", "get_tensor_shape"),
        "IRuntimeConfig": ("create_runtime_cache", "set_runtime_cache"),
        "IRuntimeCache": ("deserialize", "serialize"),
        "IExecutionContext": ("execute_async_v3", "set_input_shape", "set_tensor_address"),
        "Runtime": ("deserialize_cuda_engine",),
    }.items():
        assert set(names) <= set(dir(getattr(tensorrt_rtx, owner)))
