import numpy as np
import onnx
import pytest
from helpers import fit_clip, moving_square

from encoder.codec.clip import SegmentModels
from encoder.common.onnx_runtime import Session
from encoder.media.metrics import psnr_db
from export.graph import build_graph
from export.passes.int8 import Int8Calibrator, _Times

TIMES = np.arange(3, dtype=np.float32)
SOURCE = moving_square(3, 19, 26)


@pytest.fixture
def models(tiny_clip):
    return SegmentModels(tiny_clip)


@pytest.fixture
def quantiser(models, tmp_path):
    return Int8Calibrator(build_graph(models, 0, pixels="rgb"), SOURCE, tmp_path)


def psnr(model):
    return np.mean(
        [psnr_db(*pair) for pair in zip(Session(model).run({"t": TIMES}), SOURCE, strict=True)]
    )


@pytest.mark.parametrize("limit", [0.02, 0.1, 100])
def test_loss_against_the_source_stays_under_the_limit(models, quantiser, limit):
    rgb = build_graph(models, 0, pixels="rgb")
    found = quantiser.choose(limit)
    made = quantiser.apply(rgb, found.convolutions)
    assert psnr(rgb) - psnr(made) == pytest.approx(found.loss_db, abs=1e-6)
    assert found.loss_db < limit
    assert (
        len(found.convolutions)
        <= found.of
        == sum(node.op_type == "Conv" for node in build_graph(models, 0).graph.node)
    )
    if limit == 100:
        assert (len(found.convolutions), found.share) == (found.of, 1.0)
        assert found.loss_db == found.loss_of_all_db


def test_nothing_is_taken_where_everything_loses(models, quantiser):
    found = quantiser.choose(-100)
    assert (found.convolutions, found.share, found.loss_db) == ((), 0.0, 0.0)
    graph = build_graph(models, 0)
    assert quantiser.apply(graph, ()) is graph


def test_integers_are_those_of_the_chosen_convolutions(models, quantiser):
    graph = build_graph(models, 0)
    chosen = quantiser.choose(100).convolutions[:2]
    made = quantiser.apply(graph, chosen)
    onnx.checker.check_model(made, full_check=True)
    kinds = {x.name: x.data_type for x in made.graph.initializer}
    makers = {name: node for node in made.graph.node for name in node.output}
    integers = {
        node.output[0]: kinds.get(makers[node.input[1]].input[0])
        if node.input[1] in makers
        else None
        for node in made.graph.node
        if node.op_type == "Conv"
    }
    assert list(integers.values()).count(onnx.TensorProto.INT8) == 2
    assert made.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert Session(made).run({"t": TIMES}).shape == (3, 30, 26)


def test_tensorrt_gets_no_offsets_and_no_integers_for_biases(models, tmp_path):
    graph = build_graph(models, 0)
    quantiser = Int8Calibrator(
        build_graph(models, 0, pixels="rgb"), SOURCE, tmp_path, symmetric=True
    )
    made = quantiser.apply(graph, quantiser.choose(100).convolutions)
    constants = {x.name: onnx.numpy_helper.to_array(x) for x in made.graph.initializer}
    nodes = [
        node for node in made.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}
    ]
    assert nodes
    assert all(
        not constants[node.input[2]].any() and constants[node.input[2]].dtype == np.int8
        for node in nodes
    )


def test_network_without_convolutions(tmp_path):
    clip = fit_clip("nirvana", frames=3, height=19, width=26)
    quantiser = Int8Calibrator(build_graph(SegmentModels(clip), 0, pixels="rgb"), SOURCE, tmp_path)
    found = quantiser.choose()
    assert (found.convolutions, found.of, found.loss_db) == ((), 0, 0.0)


def test_all_frames_calibrate():
    times = _Times(10)
    batches = list(iter(times.get_next, None))
    assert np.concatenate([batch["t"] for batch in batches]).tolist() == list(range(10))
