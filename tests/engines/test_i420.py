"""I420 pictures, of networks that make luma and chroma apart and of others."""

from itertools import islice

import numpy as np
import onnx
import pytest
from helpers import fit_clip
from onnx import TensorProto, helper, numpy_helper

from encoder.codec.clip import SegmentModels
from encoder.codec.reference_decoder import ReferenceDecoder, to_8_bits
from encoder.common.onnx_runtime import Session
from encoder.presets import PRESETS
from export.graph import build_graph
from export.passes.i420 import CHROMA, LUMA, UV_PLANES, Y_PLANE, planes_of, split_colours

DIFFERENCES = np.array([[0.0, 1.402], [-0.344136, -0.714136], [1.772, 0.0]], np.float32)


def network(
    height,
    width,
    *,
    weights=DIFFERENCES,
    mode="align_corners",
    bias=None,
    scales=(2, 2),
    **attributes,
):
    """Return a graph that makes RGB of a luma and a chroma of half the size, which are its constants times `t`."""
    random = np.random.default_rng(0)
    step = attributes.get("strides", [1, 1])[0]
    rows, columns = height // 2 * step, width // 2 * step
    constants = {
        "y": random.random((1, 1, height, width), np.float32) * 2 - 0.5,
        "c": random.random((1, 2, rows, columns), np.float32) - 0.5,
        "shape": np.array([-1, 1, 1, 1]),
        "weights": weights[..., None, None],
        "scales": np.array([1, 1, *scales], np.float32),
    }
    if bias is not None:
        constants["bias"] = np.array(bias, np.float32)
    conv = ["chroma", "weights", *([] if bias is None else ["bias"])]
    nodes = [
        helper.make_node("Reshape", ["t", "shape"], ["column"]),
        helper.make_node("Mul", ["column", "y"], ["luminance"]),
        helper.make_node("Mul", ["column", "c"], ["chroma"]),
        helper.make_node("Conv", conv, ["differences"], **attributes),
        helper.make_node(
            "Resize",
            ["differences", "", "scales"],
            ["enlarged"],
            mode="linear",
            coordinate_transformation_mode=mode,
        ),
        helper.make_node("Add", ["enlarged", "luminance"], ["rgb"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("rgb", TensorProto.FLOAT, ["N", 3, height, width])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def outputs(model):
    return [output.name for output in model.graph.output]


@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 2), (18, 32), (180, 320), (90, 50)])
def test_planes_are_those_of_the_colours(height, width):
    times = {"t": np.array([0.3, 1.0], np.float32)}
    colours = Session(network(height, width)).run(times)
    model = network(height, width)
    split_colours(model)
    assert outputs(model) == [Y_PLANE, UV_PLANES]
    onnx.checker.check_model(model, full_check=True)
    luma, chroma = Session(model).outputs(times)
    exact = np.tensordot(LUMA, colours, (0, 1)) + 16
    halves = colours.reshape(2, 3, height // 2, 2, width // 2, 2).mean((3, 5))
    assert np.abs(luma[:, 0] - exact).max() < 0.01
    assert (
        np.abs(chroma - np.moveaxis(np.tensordot(CHROMA, halves, (1, 1)), 0, 1) - 128).max() < 0.01
    )


@pytest.mark.parametrize(
    "options",
    [
        {"weights": DIFFERENCES + np.float32(0.01)},
        {"mode": "half_pixel"},
        {"bias": [0.1, 0, 0]},
        {"strides": [2, 2]},
        {"scales": (2, 2 / 32)},
    ],
)
def test_other_networks_stay_as_they_are(options):
    model = network(18, 32, **options)
    before = model.SerializeToString()
    split_colours(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_networks_make_the_planes_of_the_reference_decoder(preset, precision):
    clip = fit_clip(preset, frames=3, height=36, width=64)
    model = build_graph(SegmentModels(clip), 0, precision=precision)
    frames = Session(model).run({"t": np.arange(3, dtype=np.float32)})
    kinds = [node.op_type for node in model.graph.node if node.name.startswith("tail_")]
    assert ("MatMul" not in kinds) == (preset == "fast")
    for frame, colours in zip(frames, ReferenceDecoder(clip).colours(), strict=True):
        expected = np.concatenate([plane.ravel() for plane in planes_of(colours)])
        assert np.abs(frame.ravel().astype(int) - expected).max() <= 1


def test_colours_out_of_range_are_limited_once_they_are_shown():
    """Black with a blue cast: in RGB, the clipped picture would be brighter than the network's."""
    colours = np.zeros((3, 2, 2), np.float32)
    colours[0] = -0.1
    y, _, v = planes_of(colours)
    assert y[0, 0] == round(16 - 0.1 * LUMA[0])
    assert v[0, 0] == round(128 - 0.1 * CHROMA[1][0])
    assert to_8_bits(colours).max() == 0
    assert planes_of(colours * 100)[0].min() == 0
    assert planes_of(colours - 100)[0].max() == 0


def test_infinite_colours_are_planes():
    colours = np.full((3, 2, 2), np.finfo(np.float32).max)
    assert [plane.tolist() for plane in planes_of(colours)] == [[[255, 255]] * 2, [[128]], [[128]]]


def test_reference_decoder_rounds_its_colours(tiny_clip):
    decoder = ReferenceDecoder(tiny_clip)
    for colours, frame in islice(zip(decoder.colours(), decoder.frames(), strict=True), 4):
        assert np.array_equal(to_8_bits(colours), frame)
