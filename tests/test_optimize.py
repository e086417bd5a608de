import numpy as np
import onnx
import pytest
from helpers import fit_clip
from onnx import TensorProto, helper, numpy_helper

from encoder.codec.clip import SegmentModels
from encoder.codec.runtime import Session
from export.graph import build_graph
from export.optimize import fold_constants, multiply_places, polynomial_sines

TIMES = np.array([0, 1.25, 2], np.float32)


def operators(model):
    return [node.op_type for node in model.graph.node]


def small_model(nodes, shape, **constants):
    """Return a graph from `t` to a value y of a shape."""
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    t = helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N", *shape])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "test", [t], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("rewrite", [fold_constants, multiply_places, polynomial_sines])
def test_each_rewrite_changes_no_pixel_by_more_than_a_step(sample_clip, rewrite):
    plain, changed = (SegmentModels(sample_clip).model(0) for _ in range(2))
    rewrite(changed)
    assert operators(changed) != operators(plain)
    onnx.checker.check_model(changed, full_check=True)
    difference = Session(changed).run({"t": TIMES}) - Session(plain).run({"t": TIMES})
    assert np.abs(difference).max() < 1 / 255


def test_what_does_not_depend_on_the_time_is_constant(sample_clip):
    model = SegmentModels(sample_clip).model(0)
    fold_constants(model)
    varying = {"t"}
    for node in model.graph.node:
        assert not varying.isdisjoint(node.input)
        varying.update(node.output)
    used = {name for node in model.graph.node for name in node.input}
    assert {constant.name for constant in model.graph.initializer} <= used


def test_no_picture_of_corners_is_enlarged(sample_clip):
    model = SegmentModels(sample_clip).model(0)
    multiply_places(model)
    assert operators(model).count("MatMul") == 2
    assert operators(model).count("Resize") == operators(SegmentModels(sample_clip).model(0)).count("Resize") - 1


def test_what_only_looks_like_a_camera_stays():
    scales = np.array([1, 1, 4, 4], np.float32)
    for shape, mode in (((2, 3, 2), "align_corners"), ((2, 2, 2), "half_pixel"), ((3, 2, 2), "align_corners")):
        nodes = [
            helper.make_node("Resize", ["t", "", "scales"], ["x"], mode="linear", coordinate_transformation_mode=mode),
            helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1]),
        ]
        model = small_model(nodes, shape, scales=scales)
        multiply_places(model)
        assert operators(model) == ["Resize", "Transpose"]


def test_polynomial_is_a_sine():
    x = np.linspace(-60, 60, 20_000, dtype=np.float32).reshape(1, 2, 100, 100)
    model = small_model([helper.make_node("Sin", ["t"], ["y"])], x.shape[1:])
    polynomial_sines(model)
    assert "Sin" not in operators(model)
    assert np.abs(Session(model).run({"t": x}) - np.sin(x.astype(np.float64))).max() < 1e-5


def test_sines_of_times_stay():
    model = small_model([helper.make_node("Sin", ["t"], ["y"])], [8])
    polynomial_sines(model)
    assert operators(model) == ["Sin"]


@pytest.mark.parametrize(("preset", "clips"), [("fast", 0), ("nerv++", 1)])
def test_colours_are_limited_where_they_may_be_others(preset, clips):
    models = SegmentModels(fit_clip(preset, frames=3, height=20, width=26))
    limited = [node.name for node in build_graph(models, 0).graph.node if node.name == "tail_clipped"]
    assert len(limited) == clips
