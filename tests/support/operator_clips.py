"""Clips of a graph of one operator, for engines that compute such graphs themselves."""

from fractions import Fraction
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from encoder.codec.clip import Clip
from encoder.codec.container import Header
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.codec.segment import Quantized, Segment
from encoder.codec.topology import Topology

TIMES = (0.0, 2.5, 7.0)
"""Times of the pictures that are compared."""
STEP = 1 / 16
"""Quantization step of the inputs, whose integers are -32..32."""
SPREAD = 0.2
"""Factor of an operator's output in a picture, around a grey of 0.5: a step of 8 bits is 0.02."""
IMAGE = (1, 4, 5, 6)
FIELD = (1, 3, 4, 2)
UNARY = (
    "Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Gelu", "Neg", "Relu", "Sigmoid", "Sin", "Sqrt",
    "Tanh",
)  # fmt: skip
BINARY = "Add", "Div", "Max", "Min", "Mul", "Sub"
BROADCASTS = [
    (IMAGE, IMAGE),
    (IMAGE, (1, 4, 1, 1)),
    (IMAGE, (6,)),
    (IMAGE, (5, 1)),
    ((1, 4, 5, 1), (1, 1, 1, 6)),
    ((4, 1, 6), (1, 1, 5, 1)),
]
RESIZES = [
    (mode, places, scales)
    for mode in ("linear", "cubic")
    for places in ("align_corners", "half_pixel")
    for scales in ((1, 1, 2, 2), (1, 1, 3, 2), (1, 1, 1, 1.5))
]


def number(*values):
    return np.array(values, np.int64)


CASES = {
    **{op: (op, [IMAGE], {}, []) for op in UNARY},
    **{f"{op} {a} {b}": (op, [a, b], {}, []) for op in BINARY for a, b in BROADCASTS},
    "Conv 1x1": ("Conv", [IMAGE, (7, 4, 1, 1), (7,)], {}, []),
    "Conv 1x1 without bias": ("Conv", [IMAGE, (3, 4, 1, 1)], {}, []),
    "Conv 3x3": ("Conv", [IMAGE, (6, 4, 3, 3), (6,)], {"pads": [1, 1, 1, 1]}, []),
    "Conv of many outputs": ("Conv", [IMAGE, (37, 4, 1, 1), (37,)], {}, []),
    "Conv of many outputs, grouped": ("Conv", [IMAGE, (38, 2, 1, 1), (38,)], {"group": 2}, []),
    "Conv uneven": ("Conv", [IMAGE, (5, 4, 3, 2), (5,)], {"pads": [0, 1, 2, 0]}, []),
    "Conv grouped": ("Conv", [IMAGE, (6, 2, 3, 3), (6,)], {"group": 2, "pads": [1] * 4}, []),
    "Conv depthwise": ("Conv", [IMAGE, (4, 1, 3, 3), (4,)], {"group": 4, "pads": [1] * 4}, []),
    "Conv of a batch": ("Conv", [(3, 2, 4, 5), (4, 2, 3, 3)], {"pads": [1] * 4}, []),
    "Concat": ("Concat", [IMAGE, (1, 2, 5, 6)], {"axis": 1}, []),
    "Concat last": ("Concat", [IMAGE, (1, 4, 5, 2)], {"axis": -1}, []),
    "DepthToSpace CRD": ("DepthToSpace", [(1, 8, 3, 5)], {"blocksize": 2, "mode": "CRD"}, []),
    "DepthToSpace DCR": ("DepthToSpace", [(1, 8, 3, 5)], {"blocksize": 2, "mode": "DCR"}, []),
    "Transpose": ("Transpose", [IMAGE], {"perm": [0, 2, 3, 1]}, []),
    "Transpose all": ("Transpose", [IMAGE], {}, []),
    "Expand": ("Expand", [(1, 4, 1, 6)], {}, [number(2, 4, 5, 6)]),
    "Gather": ("Gather", [IMAGE], {}, [number(0, 0, -1)]),
    "MatMul": ("MatMul", [(1, 4, 5, 6), (1, 1, 6, 3)], {}, []),
    "MatMul of a batch": ("MatMul", [(5, 6), (2, 1, 6, 3)], {}, []),
    "Gemm": ("Gemm", [(5, 6), (6, 3), (3,)], {}, []),
    "Gemm turned": ("Gemm", [(6, 5), (3, 6), (5, 1)], {"transA": 1, "transB": 1}, []),
    "Gemm scaled": ("Gemm", [(5, 6), (6, 3), (5, 3)], {"alpha": 0.5, "beta": 2.0}, []),
    "InstanceNormalization": ("InstanceNormalization", [(2, 4, 5, 6), (4,), (4,)], {}, []),
    "Softmax": ("Softmax", [IMAGE], {"axis": -1}, []),
    "Split": ("Split", [IMAGE], {"axis": 1}, [number(1, 3)]),
    "Squeeze": ("Squeeze", [IMAGE], {}, [number(0)]),
    "Unsqueeze": ("Unsqueeze", [IMAGE], {}, [number(2)]),
    "Reshape": ("Reshape", [IMAGE], {}, [number(2, -1, 5)]),
    "Clip": ("Clip", [IMAGE], {}, [np.float32(-0.5), np.float32(0.75)]),
    "Clip above": ("Clip", [IMAGE], {}, [None, np.float32(0.75)]),
    "Pow": ("Pow", [IMAGE], {}, [np.float32(2)]),
    **{
        f"Resize {mode} {places} {scales}": (
            "Resize",
            [IMAGE],
            {"mode": mode, "coordinate_transformation_mode": places},
            [None, np.array(scales, np.float32)],
        )
        for mode, places, scales in RESIZES
    },
    **{
        f"GridSample {mode} {aligned} {padding}": (
            "GridSample",
            [IMAGE, FIELD],
            {"mode": mode, "align_corners": aligned, "padding_mode": padding},
            [],
        )
        for mode in ("linear", "cubic")
        for aligned in (0, 1)
        for padding in ("border", "zeros")
    },
}
"""Operator, shapes of its inputs, attributes, and constants behind the inputs."""


def one_node(op, shapes, attributes, constants, *, is_varying):
    """Return a clip of a graph of one operator, whose last output's elements are the pixels of its pictures.

    If varying, the time is added to the first input.
    """
    inputs = [str(place) for place in range(len(shapes))]
    held = {f"c{place}": value for place, value in enumerate(constants) if value is not None}
    names = [f"c{place}" if f"c{place}" in held else "" for place in range(len(constants))]
    outputs = ["y", "z"] if op == "Split" else ["y"]
    given = [*(["x"] if is_varying else inputs[:1]), *inputs[1:], *names]
    node = helper.make_node(op, given, outputs, **attributes)
    count = count_of(node, shapes, held)
    head, moments = varied() if is_varying else ([], {})
    tail, colours = as_pictures(outputs[-1], count)
    topology = Topology.check(
        model(
            [*head, node, *tail],
            {"t": ["N"]} | dict(zip(inputs, shapes, strict=True)),
            {"rgb": ["N", 3, 2, count]},
            held | moments | colours,
        )
    )
    header = Header(
        width=count - count % 2,
        height=2,
        frames=8,
        rate=Fraction(25),
        continuous=True,
        settings="test",
    )
    tensors = inputs_of(op, topology.tensors)
    return Clip(header, topology, [Segment.encode(0, 8, tensors, topology.tensors)])


def varied():
    """Return nodes and constants of `x`: the first input, and a little of a batch's first time."""
    nodes = [
        helper.make_node("Gather", ["t", "first"], ["moment"]),
        helper.make_node("Mul", ["moment", "small"], ["scaled"]),
        helper.make_node("Add", ["0", "scaled"], ["x"]),
    ]
    return nodes, {"first": number(0), "small": np.float32(0.05)}


def as_pictures(name, count):
    """Return nodes and constants that make pictures of a value's elements, one for each time."""
    nodes = [
        helper.make_node("Reshape", [name, "flat"], ["line"]),
        helper.make_node("Mul", ["line", "spread"], ["weak"]),
        helper.make_node("Add", ["weak", "grey"], ["one"]),
        helper.make_node("Reshape", ["t", "ones"], ["times"]),
        helper.make_node("Mul", ["times", "nothing"], ["none"]),
        helper.make_node("Add", ["one", "none"], ["rgb"]),
    ]
    return nodes, {
        "flat": number(1, 1, 1, count),
        "spread": np.full((1, 3, 2, 1), SPREAD, np.float32),
        "grey": np.float32(0.5),
        "ones": number(-1, 1, 1, 1),
        "nothing": np.float32(0),
    }


def inputs_of(op, shapes):
    """Return random inputs of an operator, for which it is defined."""
    random = np.random.default_rng(0)
    tensors = {
        name: Quantized(integers=random.integers(-32, 33, shape, dtype=np.int32), step=STEP)
        for name, shape in shapes.items()
    }
    if op == "Sqrt":
        tensors["0"].integers[...] = np.abs(tensors["0"].integers)
    if op == "Div":  # by nothing that is near zero
        tensors["1"].integers[...] = np.where(tensors["1"].integers < 0, -24, 24)
    return tensors


def model(nodes, inputs, outputs, constants):
    """Return a model of nodes, with inputs and outputs by name and shape; None leaves a shape open."""
    values = [
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in each.items()
        ]
        for each in (inputs, outputs)
    ]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(
        helper.make_graph(nodes, "g", *values, held), opset_imports=opset, ir_version=10
    )


def count_of(node, shapes, held):
    """Return the number of elements of an operator's last output."""
    inputs = [name for name in node.input if name and name not in held]
    alone = model([node], dict(zip(inputs, shapes, strict=True)), dict.fromkeys(node.output), held)
    found = onnx.shape_inference.infer_shapes(alone, data_prop=True).graph.output[-1]
    return prod(each.dim_value for each in found.type.tensor_type.shape.dim)


def pictures(clip, times=TIMES):
    """Return the pictures (N, 3, 2, W) at some times, by ONNX Runtime."""
    reference = ReferenceDecoder(clip)
    return np.concatenate([reference.at(np.array([time])) for time in times])
