import re

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from encoder.codec.graph_names import from_refs, to_refs
from encoder.common.errors import BitstreamError


def make_model(*nodes):
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
        for name in ("t", "weight", "bias")
    ]
    output = helper.make_tensor_value_info("rgb", TensorProto.FLOAT, [1])
    constants = [numpy_helper.from_array(np.ones(1, np.float32), name) for name in ("one", "other")]
    return helper.make_model(
        helper.make_graph(
            [helper.make_node(*node) for node in nodes], "g", inputs, [output], constants
        )
    )


NODES = (
    ("Mul", ["t", "weight"], ["scaled"]),
    ("Clip", ["scaled", "", "one"], ["clipped"]),
    ("Split", ["clipped"], ["left", "right"]),
    ("Mul", ["left", "scaled"], ["product"]),
    ("Sum", ["product", "bias", "weight", "other"], ["rgb"]),
)


def fields(model):
    return [(node.op_type, list(node.input), list(node.output)) for node in model.graph.node]


def test_places():
    assert fields(to_refs(make_model(*NODES))) == [
        ("Mul", ["-1", "+"], ["_"]),
        ("Clip", ["-1", "", "c0"], ["_"]),
        ("Split", ["-1"], ["_", "_"]),
        ("Mul", ["-2", "-4"], ["_"]),
        ("Sum", ["-1", "+", "+-2", "c1"], ["rgb"]),
    ]


def test_round_trip():
    model = from_refs(to_refs(make_model(*NODES)))
    assert fields(model) == [
        ("Mul", ["t", "0"], ["v1"]),
        ("Clip", ["v1", "", "c0"], ["v2"]),
        ("Split", ["v2"], ["v3", "v4"]),
        ("Mul", ["v3", "v1"], ["v5"]),
        ("Sum", ["v5", "1", "0", "c1"], ["rgb"]),
    ]
    assert [x.name for x in (*model.graph.input, *model.graph.initializer)] == [
        "t",
        "0",
        "1",
        "c0",
        "c1",
    ]
    assert to_refs(model) == to_refs(make_model(*NODES))


@pytest.mark.parametrize("place", ["-2", "-0", "0", "c2", "c-1", "+2", "+-1", "-99999"])
def test_places_where_nothing_is(place):
    packed = to_refs(make_model(("Abs", ["t"], ["rgb"])))
    packed.graph.node[0].input[0] = place
    with pytest.raises(BitstreamError, match=re.escape(f"refers to '{place}', where nothing is")):
        from_refs(packed)


@pytest.mark.parametrize(
    "place", ["t", "v1", "-", "c", "+x", "- 1", "-1_0", "-123456", "-" + 5000 * "1"]
)
def test_places_that_are_none(place):
    packed = to_refs(make_model(("Abs", ["t"], ["rgb"])))
    packed.graph.node[0].input[0] = place
    with pytest.raises(BitstreamError, match="that is no number"):
        from_refs(packed)


def test_outputs_have_no_names():
    packed = to_refs(make_model(("Abs", ["t"], ["rgb"])))
    packed.graph.node[0].output[0] = "t"
    with pytest.raises(BitstreamError, match="an output 't', which must be '_' or 'rgb'"):
        from_refs(packed)


@pytest.mark.parametrize("output", ["t", "weight", "one", "rgb"])
def test_two_values_of_the_same_name(output):
    with pytest.raises(BitstreamError, match="the same name"):
        to_refs(make_model(("Abs", ["t"], [output]), ("Abs", ["t"], ["rgb"])))


def test_name_of_nothing():
    with pytest.raises(BitstreamError, match="nothing is called 'later'"):
        to_refs(make_model(("Abs", ["later"], ["rgb"]), ("Abs", ["t"], ["later"])))
