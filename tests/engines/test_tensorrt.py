"""TensorRT cannot be installed everywhere: its API is checked without it, and what surrounds it with a stand-in."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from fake_tensorrt import FakeTensorRt
from helpers import fit_clip

from encoder.codec.clip import SegmentModels
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.common.errors import EngineError
from encoder.presets import PRESETS
from export.engines import trt as trt_engine
from export.engines import trt_build, trt_cache
from export.engines.trt import TensorRt
from export.graph import build_graph
from export.roofline import measure_ceilings

ROOT = Path(__file__).parents[2]
CHECKER = ROOT.parent / "shared" / "tools" / "trt_api.py"
VERSIONS = ("10.13.3.9", "11.4.0.106")
METHODS = {
    "Builder": (
        "build_serialized_network",
        "create_builder_config",
        "create_network",
        "create_optimization_profile",
    ),
    "IBuilderConfig": (
        "add_optimization_profile",
        "create_timing_cache",
        "get_timing_cache",
        "clear_flag",
        "set_flag",
        "set_timing_cache",
    ),
    "ICudaEngine": ("create_execution_context", "get_tensor_shape"),
    "IExecutionContext": ("execute_async_v3", "set_input_shape", "set_tensor_address"),
    "IOptimizationProfile": ("set_shape",),
    "ITimingCache": ("serialize",),
    "OnnxParser": ("get_error", "parse"),
    "OnnxParserRefitter": ("get_error", "refit_from_bytes"),
    "ParserError": ("desc", "node_operator"),
    "Refitter": ("refit_cuda_engine",),
    "Runtime": ("deserialize_cuda_engine",),
}
"""Methods that are called on objects, which the checker does not see."""


def run_checker(*arguments):
    if not CHECKER.exists():
        pytest.skip("the API checker is not here")
    done = subprocess.run(
        [sys.executable, CHECKER, *arguments], capture_output=True, text=True, check=False
    )
    if "CalledProcessError" in done.stderr:
        pytest.skip("TensorRT's bindings cannot be downloaded")
    return done


def test_every_name_exists_in_tensorrt_10_and_11():
    files = [
        ROOT / "export" / "engines" / name for name in ("trt_build.py", "trt_cache.py", "trt.py")
    ]
    done = run_checker("check", *files)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_every_method_exists(version):
    names = set(run_checker("names", "--version", version).stdout.split())
    used = {f"{owner}.{method}" for owner, methods in METHODS.items() for method in methods}
    assert used - names == set()


def test_every_method_that_is_called_is_in_the_list():
    text = "".join(
        (ROOT / "export" / "engines" / name).read_text()
        for name in ("trt_build.py", "trt_cache.py", "trt.py")
    )
    objects = "builder|parser|problem|config|profile|engine|refitter|_context|_runtime"
    called = set(re.findall(rf"\b(?:{objects})\.([a-z_0-9]+)\(", text)) | {"serialize"}
    # Tried with the real builder, or found in the real module.
    rtx_alone = {"set_compute_capability", "create_runtime_config", "create_runtime_cache"}
    rtx_alone |= {"set_runtime_cache"}
    assert called - rtx_alone == {method for methods in METHODS.values() for method in methods}


@pytest.mark.parametrize(
    ("package", "gpus", "message"),
    [
        (
            None,
            0,
            r"TensorRT lacks its packages \(pip install 'nervcast\[tensorrt\]'\) and an NVIDIA GPU with its driver",
        ),
        (None, 1, r"TensorRT lacks its packages \(pip install 'nervcast\[tensorrt\]'\)$"),
        (object(), 0, "TensorRT lacks an NVIDIA GPU with its driver"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, package, gpus, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
    monkeypatch.setattr(trt_build, "gpu_names", lambda: ["a GPU"] * gpus)
    with pytest.raises(EngineError, match=message):
        trt_build.import_tensorrt()


def test_every_function_of_cuda_exists():
    from cuda.bindings import runtime

    text = (ROOT / "export" / "engines" / "cuda.py").read_text()
    names = set(re.findall(r'"(cuda[A-Z]\w+)"', text)) | set(
        re.findall(r"_runtime\.(\w+(?:\.\w+)?)", text)
    )
    assert len(names) == 19
    for name in names:
        owner = runtime
        for part in name.split("."):
            owner = getattr(owner, part)


@pytest.fixture
def trt(monkeypatch, cuda, tmp_path):
    """A stand-in for TensorRT, and a machine that has built nothing yet."""
    trt = FakeTensorRt(cuda)
    for module in (trt_build, trt_cache, trt_engine):
        monkeypatch.setattr(module, "import_tensorrt", lambda: trt)
    monkeypatch.setattr(trt_cache, "gpu_names", lambda: ["a GPU"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return trt


@pytest.fixture
def model(tiny_clip):
    return build_graph(SegmentModels(tiny_clip), 0, precision="fp16")


def plan_key(model, *, max_batch):
    version = trt_cache.import_tensorrt().__version__
    return trt_cache.plan_key(model, max_batch=max_batch, version=version)


def test_build(trt, tmp_path, model):
    cache = tmp_path / "cache" / "timing"
    assert trt_build.build_tensorrt(model, max_batch=8, timing_cache=cache).data == (
        model.SerializeToString()
    )
    assert cache.read_bytes() == b"timings"
    assert trt.set == ["no tf32", ("t", (1,), (8,), (8,)), "refit", b""]
    trt_build.build_tensorrt(model, max_batch=8, timing_cache=cache)
    assert trt.set[-1] == b"timings"


def test_refused_operator_is_named_with_a_way_out(trt, tmp_path, model):
    trt.parses = False
    message = r"TensorRT 11\.0 cannot take operator Gelu: not known; take --engine onnxruntime-cuda, or another version"
    with pytest.raises(EngineError, match=message):
        trt_build.build_tensorrt(model, max_batch=8, timing_cache=tmp_path / "timing")


def test_failed_build(trt, tmp_path, model):
    trt.builds = False
    with pytest.raises(
        EngineError, match=r"TensorRT 11\.0 builds no engine: it gives no reason; take --engine"
    ):
        trt_build.build_tensorrt(model, max_batch=8, timing_cache=tmp_path / "timing")


@pytest.mark.usefixtures("trt")
def test_timing_cache_that_cannot_be_written_costs_no_engine(tmp_path, model, caplog):
    (tmp_path / "file").touch()
    assert trt_build.build_tensorrt(model, max_batch=8, timing_cache=tmp_path / "file" / "timing")
    assert "the next start takes as long as this one" in caplog.text


def test_caches_are_in_the_users_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert trt_cache.timing_cache_path() == Path("/somewhere/nervcast/tensorrt-timing.cache")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert trt_cache.timing_cache_path() == Path.home() / ".cache/nervcast/tensorrt-timing.cache"


def test_engine_is_built_once_for_all_segments_and_clips_of_a_topology(trt, tiny_clip):
    models = SegmentModels(tiny_clip)
    for segment in (0, 1):
        trt_cache.cached_plan(build_graph(models, segment, precision="fp16"), max_batch=4)
    assert len(trt.built) == 1


def test_engine_is_built_anew_for_another_batch_graph_version_or_gpu(trt, tiny_clip, monkeypatch):
    models = SegmentModels(tiny_clip)
    half, full = (build_graph(models, 0, precision=precision) for precision in ("fp16", "fp32"))
    keys = {plan_key(half, max_batch=batch) for batch in (4, 8)}
    keys.add(plan_key(full, max_batch=4))
    trt.__version__ = "11.1"
    keys.add(plan_key(half, max_batch=4))
    monkeypatch.setattr(trt_cache, "gpu_names", lambda: ["another GPU"])
    keys.add(plan_key(half, max_batch=4))
    monkeypatch.setattr(trt_cache, "BUILD", 0)
    keys.add(plan_key(half, max_batch=4))
    assert len(keys) == 6


@pytest.mark.usefixtures("trt")
def test_limits_that_an_engine_is_built_for_are_no_weights():
    graph = build_graph(SegmentModels(fit_clip("rc-hnerv", frames=3, height=20, width=26)), 0)
    first = plan_key(graph, max_batch=4)
    (limit,) = (x for x in graph.graph.initializer if x.name == "tail_limited_highest")
    limit.CopyFrom(onnx.numpy_helper.from_array(np.float32(240), limit.name))
    assert plan_key(graph, max_batch=4) != first


@pytest.mark.usefixtures("trt")
def test_sizes_that_a_graph_enlarges_by_are_no_weights():
    model = build_graph(SegmentModels(fit_clip("nerv++", frames=3, height=20, width=26)), 0)
    first = plan_key(model, max_batch=4)
    (scales,) = {
        node.input[2]
        for node in model.graph.node
        if node.op_type == "Resize" and node.name == "tail_halves"
    }
    (constant,) = (x for x in model.graph.initializer if x.name == scales)
    constant.CopyFrom(
        onnx.numpy_helper.from_array(np.array([1, 1, 0.25, 0.25], np.float32), scales)
    )
    assert plan_key(model, max_batch=4) != first


@pytest.mark.usefixtures("trt")
def test_engines_that_are_kept_are_bounded(tmp_path, model, monkeypatch):
    monkeypatch.setattr(trt_cache, "MAX_PLANS", 2)
    folder = tmp_path / "cache" / "nervcast" / "tensorrt"
    for batch in (1, 2):
        trt_cache.cached_plan(model, max_batch=batch)
        os.utime(folder / f"{plan_key(model, max_batch=batch)}.engine", (batch, batch))
    trt_cache.cached_plan(model, max_batch=1)  # now used later than the other
    trt_cache.cached_plan(model, max_batch=3)
    assert {path.stem for path in folder.iterdir()} == {
        plan_key(model, max_batch=batch) for batch in (1, 3)
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_segments_differ_in_their_weights_alone(preset):
    """What a refit replaces has the same name, type and shape in each of them."""
    models = SegmentModels(fit_clip(preset, frames=6, height=19, width=26, segment_frames=3))
    for precision in ("fp16", "fp32"):
        check_refit(models, precision)


def check_refit(models, precision):
    graphs = [build_graph(models, segment, precision=precision).graph for segment in (0, 1)]
    nodes = [[node.SerializeToString() for node in graph.node] for graph in graphs]
    assert nodes[0] == nodes[1]
    tensors = [
        [(x.name, x.data_type, tuple(x.dims)) for x in graph.initializer] for graph in graphs
    ]
    assert tensors[0] == tensors[1]
    fixed = [
        [x.SerializeToString() for x in graph.initializer if x.data_type not in trt_cache.WEIGHTS]
        for graph in graphs
    ]
    assert fixed[0] == fixed[1]


@pytest.mark.parametrize("records", [True, False])
def test_frames_come_back_from_the_gpu(trt, cuda, tiny_clip, records):
    cuda.records = records
    engine = TensorRt(tiny_clip, batch=3, pixels="rgb")
    assert (engine.streams, engine.micro_batch) == (2, 2)
    times = np.array([0, 1, 2, 3, 4, 5, 1.5, 5, 0, 3, 3.25])
    frames = engine.frames(times)
    again = engine.frames(times[::-1])
    engine.close()
    expected = np.stack([ReferenceDecoder(tiny_clip).frame(time) for time in times])
    assert np.abs(frames.astype(int) - expected).max() <= 1
    assert np.array_equal(again, frames[::-1])
    assert ("launch" in cuda.calls) == records
    assert cuda.live == {}
    assert len(trt.built) == 1


def test_weights_are_swapped_between_two_copies_of_an_engine(trt):
    clip = fit_clip("fast", frames=5, height=16, width=16, segment_frames=1)
    engine = TensorRt(clip, batch=1, pixels="rgb")
    frames = engine.frames(np.arange(5.0))
    engine.close()
    expected = np.stack(list(ReferenceDecoder(clip).frames()))
    assert np.abs(frames.astype(int) - expected).max() <= 1
    assert len(trt.built) == 1
    assert trt.refitted >= 5
    assert trt.loaded == 2


def test_weights_that_do_not_fit(trt, cuda, tiny_clip):
    trt.refits = False
    engine = TensorRt(tiny_clip)
    message = r"TensorRT 11\.0 does not take a segment's weights: of another shape; take --engine onnxruntime-cuda"
    with pytest.raises(EngineError, match=message):
        engine.warm_up()
    engine.close()
    assert cuda.live == {}


def test_memory_that_runs_out_is_given_back(trt, cuda, tiny_clip, monkeypatch):
    allocate, count = cuda.cudaMalloc, []
    failure = SimpleNamespace(name="cudaErrorMemoryAllocation"), None
    monkeypatch.setattr(
        cuda,
        "cudaMalloc",
        lambda size: count.append(size) or (allocate(size) if len(count) < 4 else failure),
    )
    engine = TensorRt(tiny_clip)
    with pytest.raises(EngineError, match="cudaMalloc failed: cudaErrorMemoryAllocation"):
        engine.warm_up()
    engine.close()
    assert cuda.live == {}
    assert len(trt.built) == 1


def test_ceilings_leave_nothing_behind(trt, cuda, tiny_clip, tmp_path, monkeypatch):
    monkeypatch.setattr("export.roofline.MEMORY_MATRIX", (64, 128))
    monkeypatch.setattr("export.roofline.MAX_SIDE", 512)
    engine = TensorRt(tiny_clip, batch=1)
    engine.warm_up()
    found = measure_ceilings(engine)
    engine.close()
    assert found.flop_per_second > 0
    assert len(trt.built) > 4
    assert len(list((tmp_path / "cache" / "nervcast" / "tensorrt").iterdir())) == 1
    assert cuda.live == {}


def test_engine_that_cannot_be_loaded_is_built_anew(trt, tiny_clip, tmp_path):
    engine = TensorRt(tiny_clip)
    engine.warm_up()
    engine.close()
    (path,) = (tmp_path / "cache" / "nervcast" / "tensorrt").iterdir()
    path.write_bytes(b"of another kind of GPU")
    engine = TensorRt(tiny_clip)
    engine.warm_up()
    engine.close()
    assert len(trt.built) == 2
