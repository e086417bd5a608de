"""Engines by the real builder of TensorRT for RTX, which needs no GPU."""

import json
import sys
from itertools import islice

import numpy as np
import onnx
import pytest
from helpers import fit_clip, run
from onnx import TensorProto, helper

from encoder.codec.clip import SegmentModels
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.common.errors import EngineError, SettingsError
from encoder.presets import PRESETS
from export.engines import trt_build
from export.engines.trt_build import Tensor, build_rtx, pick_builder, rtx_targets
from export.graph import build_graph
from export.passes.int8 import Int8Calibrator

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX runs on x86-64 Linux alone")

TARGET = ["sm89"]


@pytest.fixture(scope="module", params=PRESETS)
def clip(request):
    return fit_clip(request.param, frames=6, height=36, width=64, segment_frames=3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("pixels", ["i420", "rgb"])
def test_every_network_is_built(clip, precision, pixels):
    models = SegmentModels(clip)
    shape = (3, 36, 64) if pixels == "rgb" else (54, 64)
    for segment in range(len(clip.segments)):
        graph = build_graph(models, segment, precision=precision, pixels=pixels)
        plan = build_rtx(graph, max_batch=8, targets=TARGET)
        assert plan.targets == ("sm89",)
        assert plan.inputs == (Tensor(name="t", dtype="float", shape=(-1,)),)
        assert plan.outputs == (Tensor(name="frames", dtype="uint8", shape=(-1, *shape)),)
        assert len(plan.data) > 100_000


@pytest.mark.parametrize(("precision", "max_batch"), [("fp32", 1), ("fp16", 1), ("fp16", 8)])
def test_chroma_of_an_odd_size_is_built(tiny_clip, precision, max_batch):
    """It has 13x10 pixels. Some operators make the builder fail there."""
    graph = build_graph(SegmentModels(tiny_clip), 0, precision=precision)
    assert build_rtx(graph, max_batch=max_batch, targets=TARGET).data


def test_every_network_is_built_with_integers(clip, tmp_path):
    models = SegmentModels(clip)
    frames = np.stack(list(islice(ReferenceDecoder(clip).frames(), 3)))
    rgb = build_graph(models, 0, pixels="rgb")
    calibrator = Int8Calibrator(rgb, frames, tmp_path, symmetric=True)
    graph = build_graph(models, 0)
    convolutions = [node.output[0] for node in rgb.graph.node if node.op_type == "Conv"]
    integers = calibrator.apply(graph, convolutions)
    kinds = {node.op_type for node in integers.graph.node}
    assert ("QuantizeLinear" in kinds) == bool(convolutions)  # one network has none
    assert len(build_rtx(integers, max_batch=8, targets=TARGET).data) > 100_000


@pytest.fixture
def products(tiny_clip):
    """A graph that TensorRT for RTX takes for all kinds of GPU but Turing."""
    return build_graph(SegmentModels(tiny_clip), 0, products=True)


def test_every_gpu_is_built_for_by_default(tiny_clip):
    plan = build_rtx(build_graph(SegmentModels(tiny_clip), 0), max_batch=2)
    assert plan.targets == rtx_targets()
    assert "sm75" in plan.targets


def test_gpu_that_is_refused_is_left_out(products, caplog):
    caplog.set_level("INFO")
    plan = build_rtx(products, max_batch=2)
    assert plan.targets == tuple(name for name in rtx_targets() if name != "sm75")
    (line,) = [record.message for record in caplog.records]
    assert line.startswith(f"left out: TensorRT for RTX {plan.version} builds no engine for sm75: ")
    assert line.endswith("for Turing (SM75): FP32 GEMM is not supported")


def test_gpus_that_are_refused_or_unknown(products):
    with pytest.raises(EngineError, match=r"^[^\n]*is not supported$"):
        build_rtx(products, max_batch=2, targets=["sm89", "sm75"])
    with pytest.raises(SettingsError, match=r"unknown GPU 'sm90', known are: current, sm75, "):
        build_rtx(products, max_batch=2, targets=["sm90"])


def test_operator_that_the_parser_lacks_is_named(caplog):
    caplog.set_level("INFO")
    t = helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N"])
    y = helper.make_tensor_value_info("y", TensorProto.STRING, ["N"])
    node = helper.make_node("Cast", ["t"], ["y"], to=TensorProto.STRING)
    graph = helper.make_graph([node], "strings", [t], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    for targets in (TARGET, ()):
        with pytest.raises(
            EngineError, match=r"^TensorRT for RTX [\d.]+ cannot take operator Cast: "
        ):
            build_rtx(model, max_batch=2, targets=targets)
    assert not caplog.records


def test_library_writes_nothing_itself(products, capfd):
    with pytest.raises(EngineError):
        build_rtx(products, max_batch=2, targets=["sm75"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "tensorrt", "rtx", "found"),
    [
        ("auto", True, True, "tensorrt"),
        ("auto", False, True, "rtx"),
        ("rtx", True, True, "rtx"),
        ("tensorrt", True, False, "tensorrt"),
    ],
)
def test_builder_is_the_one_that_runs_here(monkeypatch, name, tensorrt, rtx, found):
    lack(monkeypatch, tensorrt=tensorrt, rtx=rtx)
    assert pick_builder(name) == found


@pytest.mark.parametrize("name", ["auto", "tensorrt", "rtx"])
def test_builders_that_are_missing_are_named(monkeypatch, name):
    lack(monkeypatch, tensorrt=False, rtx=False)
    with pytest.raises(EngineError) as raised:
        pick_builder(name)
    assert ("no GPU" in str(raised.value)) == (name != "rtx")
    assert ("pip install 'nervcast[tensorrt-rtx]'" in str(raised.value)) == (name != "tensorrt")


def lack(monkeypatch, *, tensorrt, rtx):
    def import_tensorrt():
        if not tensorrt:
            raise EngineError("TensorRT has no GPU here: no GPU")

    monkeypatch.setattr(trt_build, "import_tensorrt", import_tensorrt)
    if not rtx:
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)


def test_command_writes_engines_and_what_they_take(tmp_path, tiny_clip):
    (tmp_path / "tiny.nerv").write_bytes(bytes(tiny_clip))
    options = "--precision fp32 --pixels rgb --max-batch 4 --for sm80 sm120"
    done = run(f"export trt tiny.nerv --builder rtx {options}", tmp_path)
    assert done.returncode == 0, done.stderr
    names = {f"tiny-{number:03}.engine" for number in range(2)}
    assert {path.name for path in tmp_path.iterdir()} == {
        "tiny.nerv",
        *names,
        *(f"{name}.json" for name in names),
    }
    about = json.loads((tmp_path / "tiny-001.engine.json").read_text())
    segment = tiny_clip.segments[1]
    assert about == {
        "clip": "tiny.nerv",
        "first_frame": segment.start,
        "frames": segment.frames,
        "builder": "TensorRT for RTX",
        "version": trt_build.import_rtx().__version__,
        "targets": ["sm80", "sm120"],
        "inputs": [{"name": "t", "dtype": "float", "shape": [-1]}],
        "outputs": [{"name": "frames", "dtype": "uint8", "shape": [-1, 3, 19, 26]}],
        "max_batch": 4,
        "pixels": "rgb",
        "precision": "fp32",
    }


def test_files_beside_a_graph_are_the_users(tmp_path, tiny_clip):
    """Only an engine has a description."""
    (tmp_path / "tiny.nerv").write_bytes(bytes(tiny_clip))
    mine = tmp_path / "tiny-000.onnx.json"
    mine.write_text("mine")
    assert run("export onnx tiny.nerv", tmp_path).returncode == 0
    assert mine.read_text() == "mine"
