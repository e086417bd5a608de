import numpy as np
import onnx
import pytest
from golden import DATA
from helpers import fit_clip
from onnx import TensorProto, helper, numpy_helper

from encoder.codec.clip import Clip, SegmentModels
from encoder.common.onnx_runtime import Session
from export.graph import build_graph
from export.passes.camera_grid import multiply_places
from export.passes.constant_folding import fold_constants
from export.passes.onnx_utils import attributes, shapes_of
from export.passes.pixel_shuffle import shuffle_last, single_planes, whole_pixels
from export.passes.pointwise import distribute_heads, sigmoid_colours
from export.passes.sine import polynomial_sines

TIMES = np.array([0, 1.25, 2], np.float32)


def operators(model):
    return [node.op_type for node in model.graph.node]


def small_model(nodes, shape, **constants):
    """Return a graph from `t` to a value y of a shape."""
    constants = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    ]
    t = helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N", *shape])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "test", [t], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def nervpp_clip():
    return fit_clip("nerv++", frames=3, height=72, width=128)


@pytest.fixture(scope="module")
def sine_clip():
    """A clip whose network has sines as activations."""
    return Clip.read(DATA / "v1-fast.nerv")


@pytest.mark.parametrize(
    ("rewrite", "clip"),
    [
        (fold_constants, "sample_clip"),
        (multiply_places, "sample_clip"),
        (polynomial_sines, "sine_clip"),
        (distribute_heads, "nervpp_clip"),
        (sigmoid_colours, "nervpp_clip"),
        (shuffle_last, "nervpp_clip"),
        (whole_pixels, "sample_clip"),
        (single_planes, "sample_clip"),
    ],
)
def test_each_rewrite_changes_no_pixel_by_more_than_a_step(request, rewrite, clip):
    plain, changed = (SegmentModels(request.getfixturevalue(clip)).model(0) for _ in range(2))
    rewrite(changed)
    assert [*changed.graph.node] != [*plain.graph.node]
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
    assert operators(model).count("MatMul") == 4  # two for the luma, two for the chroma
    assert (
        operators(model).count("Resize")
        == operators(SegmentModels(sample_clip).model(0)).count("Resize") - 2
    )


def enlarged_places(shape, mode, scales):
    nodes = [
        helper.make_node(
            "Resize", ["t", "", "scales"], ["x"], mode="linear", coordinate_transformation_mode=mode
        ),
        helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1]),
    ]
    return small_model(nodes, shape, scales=np.array([1, 1, *scales], np.float32))


@pytest.mark.parametrize(
    ("shape", "scales"),
    [((2, 2, 2), (8, 16)), ((2, 5, 7), (20.25 / 5, 45.25 / 7)), ((2, 1, 3), (4, 4))],
)
def test_nodes_of_a_field_are_enlarged_by_products(shape, scales):
    model = enlarged_places(shape, "align_corners", scales)
    nodes = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    expected = Session(model).run({"t": nodes})
    multiply_places(model)
    assert operators(model).count("MatMul") == 2
    assert "Resize" not in operators(model)
    assert np.allclose(Session(model).run({"t": nodes}), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "mode", "scales"),
    [
        ((2, 2, 2), "half_pixel", (4, 4)),
        ((3, 2, 2), "align_corners", (4, 4)),
        ((2, 2, 2), "align_corners", (2, 4)),  # hardly enlarged
        ((2, 2, 129), "align_corners", (4, 4)),  # a stranger's nodes, of any number
    ],
)
def test_what_only_looks_like_a_camera_stays(shape, mode, scales):
    model = enlarged_places(shape, mode, scales)
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


def test_head_is_applied_to_what_is_added(nervpp_clip):
    model = SegmentModels(nervpp_clip).model(0)
    before = operators(model)
    distribute_heads(model)
    after = operators(model)
    # Of x + pointwise(y) + enlarged(z), the head takes three, and the pointwise convolution is one with it.
    assert after.count("Conv") == before.count("Conv") + 1
    assert after.count("Resize") == before.count("Resize")
    enlarged = [node for node in model.graph.node if node.op_type == "Resize"][-1]
    assert shapes_of(model)[enlarged.output[0]][1] == 3


def summed(outputs, *, inputs=8, use_sum_twice=False):
    """Return a graph that maps x and a 1x1 convolution of x, added, by a 1x1 convolution to fewer channels."""
    random = np.random.default_rng(0)
    weights = {
        "w1": random.normal(size=(inputs, inputs, 1, 1)),
        "b1": random.normal(size=inputs),
        "w2": random.normal(size=(outputs, inputs, 1, 1)),
        "b2": random.normal(size=outputs),
    }
    nodes = [
        helper.make_node("Sin", ["t"], ["x"]),
        helper.make_node("Conv", ["x", "w1", "b1"], ["mixed"]),
        helper.make_node("Add", ["x", "mixed"], ["sum"]),
        helper.make_node("Conv", ["sum", "w2", "b2"], ["head" if use_sum_twice else "y"]),
        *([helper.make_node("Concat", ["sum", "head"], ["y"], axis=1)] if use_sum_twice else []),
    ]
    return small_model(
        nodes, (inputs, 4, 5), **{name: value.astype(np.float32) for name, value in weights.items()}
    )


def test_convolutions_in_a_row_become_one():
    model, changed = summed(2), summed(2)
    distribute_heads(changed)
    assert operators(changed) == ["Sin", "Conv", "Conv", "Add"]
    t = np.random.default_rng(1).normal(size=(2, 8, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(
        Session(changed).run({"t": t}), Session(model).run({"t": t}), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("model", [summed(5), summed(2, use_sum_twice=True)])
def test_sums_stay_where_nothing_is_gained(model):
    before = operators(model)
    distribute_heads(model)
    assert operators(model) == before


def shuffled(activation, mode="CRD", also=()):
    """Return a graph of a convolution, a PixelShuffle and activations of it."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["t", "weights", "bias"], ["wide"]),
        helper.make_node("DepthToSpace", ["wide"], ["x"], blocksize=2, mode=mode),
        *(helper.make_node(kind, names, [output]) for kind, names, output in activation),
        *also,
    ]
    weights = {"weights": random.normal(size=(12, 2, 1, 1)), "bias": random.normal(size=12)}
    return small_model(
        nodes, (2, 4, 5), **{name: value.astype(np.float32) for name, value in weights.items()}
    )


SINE = [("Sin", ["x"], "y")]
SWISH = [("Sigmoid", ["x"], "gate"), ("Mul", ["gate", "x"], "y")]
PICTURE = np.random.default_rng(1).normal(size=(2, 2, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("activation", [SINE, SWISH])
@pytest.mark.parametrize("rewrites", [[shuffle_last], [whole_pixels], [shuffle_last, whole_pixels]])
def test_activations_and_whole_pixels(activation, rewrites):
    changed = shuffled(activation)
    for rewrite in rewrites:
        rewrite(changed)
    kinds = [kind for kind, _, _ in activation]
    order = [*kinds, "DepthToSpace"] if shuffle_last in rewrites else ["DepthToSpace", *kinds]
    assert operators(changed) == ["Conv", *order]
    (shuffle,) = (node for node in changed.graph.node if node.op_type == "DepthToSpace")
    assert attributes(shuffle)["mode"] == (b"DCR" if whole_pixels in rewrites else b"CRD")
    expected = Session(shuffled(activation)).run({"t": PICTURE})
    np.testing.assert_allclose(Session(changed).run({"t": PICTURE}), expected, rtol=1e-5, atol=1e-6)


def test_shuffle_of_what_is_used_besides_stays():
    also = [helper.make_node("Add", ["y", "x"], ["more"])]
    model = shuffled(SINE, also=also)
    model.graph.output[0].name = "more"
    shuffle_last(model)
    assert operators(model) == ["Conv", "DepthToSpace", "Sin", "Add"]


def test_channels_that_are_used_besides_keep_their_order():
    also = [
        helper.make_node("ReduceMean", ["wide"], ["mean"]),
        helper.make_node("Add", ["y", "mean"], ["more"]),
    ]
    model = shuffled(SINE, also=also)
    model.graph.output[0].name = "more"
    before = [*model.graph.node]
    whole_pixels(model)
    assert [*model.graph.node] == before


def test_gate_that_is_used_besides_stays():
    also = [helper.make_node("Add", ["y", "gate"], ["more"])]
    model = shuffled(SWISH, also=also)
    model.graph.output[0].name = "more"
    shuffle_last(model)
    assert operators(model) == ["Conv", "DepthToSpace", "Sigmoid", "Mul", "Add"]
    nodes = [
        helper.make_node("Conv", ["t", "weights"], ["wide"]),
        helper.make_node("Sigmoid", ["wide"], ["gate"]),
        helper.make_node("Mul", ["wide", "gate"], ["swish"]),
        helper.make_node("DepthToSpace", ["swish"], ["x"], blocksize=2, mode="CRD"),
        helper.make_node("GlobalAveragePool", ["gate"], ["mean"]),
        helper.make_node("DepthToSpace", ["mean"], ["one"], blocksize=2, mode="CRD"),
        helper.make_node("ReduceMean", ["one"], ["all"]),
        helper.make_node("Add", ["x", "all"], ["y"]),
    ]
    model = small_model(nodes, (2, 4, 5), weights=np.ones((12, 2, 1, 1), np.float32))
    before = [*model.graph.node]
    whole_pixels(model)
    assert [*model.graph.node] == before


def test_groups_of_channels_keep_their_order():
    nodes = [
        helper.make_node("Conv", ["t", "weights"], ["wide"], group=2),
        helper.make_node("DepthToSpace", ["wide"], ["y"], blocksize=2, mode="CRD"),
    ]
    model = small_model(nodes, (4, 4, 5), weights=np.ones((8, 2, 1, 1), np.float32))
    before = [*model.graph.node]
    whole_pixels(model)
    assert [*model.graph.node] == before


@pytest.mark.parametrize("kind", ["one channel", "more channels"])
def test_sums_of_unlike_shapes_stay(kind):
    random = np.random.default_rng(0)
    weights = {"w1": random.normal(size=(1, 8, 1, 1)), "w2": random.normal(size=(2, 8, 1, 1))}
    first = helper.make_node("Conv", ["x", "w1"], ["other"])
    if kind == "more channels":
        first = helper.make_node("Resize", ["narrow", "", "scales"], ["other"], mode="linear")
    nodes = [
        helper.make_node("Sin", ["t"], ["x"]),
        *([helper.make_node("Conv", ["x", "w1"], ["narrow"])] if kind == "more channels" else []),
        first,
        helper.make_node("Add", ["x", "other"], ["sum"]),
        helper.make_node("Conv", ["sum", "w2"], ["y"]),
    ]
    constants = {name: value.astype(np.float32) for name, value in weights.items()}
    model = small_model(nodes, (8, 4, 5), scales=np.array([1, 8, 1, 1], np.float32), **constants)
    before = operators(model)
    distribute_heads(model)
    t = random.normal(size=(1, 8, 4, 5)).astype(np.float32)
    plain = small_model(nodes, (8, 4, 5), scales=np.array([1, 8, 1, 1], np.float32), **constants)
    np.testing.assert_allclose(
        Session(model).run({"t": t}), Session(plain).run({"t": t}), rtol=1e-4, atol=1e-4
    )
    if kind == "one channel":
        assert operators(model) == before


def test_whole_pixels_stay():
    model = shuffled(SINE, mode="DCR")
    before = [*model.graph.node]
    whole_pixels(model)
    assert [*model.graph.node] == before


def enlarging(channels):
    node = helper.make_node("Resize", ["t", "", "scales"], ["y"], mode="linear")
    return small_model([node], (channels, 4, 5), scales=np.array([1, 1, 2, 3], np.float32))


@pytest.mark.parametrize(
    ("channels", "kinds"), [(1, ["Resize"]), (3, ["Reshape", "Resize", "Reshape"]), (5, ["Resize"])]
)
def test_few_channels_are_enlarged_one_by_one(channels, kinds):
    model = enlarging(channels)
    single_planes(model)
    assert operators(model) == kinds
    picture = np.random.default_rng(2).normal(size=(2, channels, 4, 5)).astype(np.float32)
    assert np.array_equal(
        Session(model).run({"t": picture}), Session(enlarging(channels)).run({"t": picture})
    )


@pytest.mark.parametrize(("one", "two"), [(1, 3), (2, 2)])
def test_what_only_looks_like_colours_stays(one, two):
    nodes = [
        helper.make_node("Tanh", ["t"], ["x"]),
        helper.make_node("Add", ["x", "one"], ["sum"]),
        helper.make_node("Div", ["sum", "two"], ["y"]),
    ]
    model = small_model(nodes, (3, 4, 5), one=np.float32(one), two=np.float32(two))
    sigmoid_colours(model)
    assert operators(model) == ["Tanh", "Add", "Div"]


@pytest.mark.parametrize(("preset", "clips"), [("fast", 1), ("nerv++", 0), ("rc-hnerv", 1)])
def test_colours_are_limited_where_they_may_be_others(preset, clips):
    models = SegmentModels(fit_clip(preset, frames=3, height=20, width=26))
    limited = [
        node.name for node in build_graph(models, 0).graph.node if node.name == "tail_limited"
    ]
    assert len(limited) == clips
