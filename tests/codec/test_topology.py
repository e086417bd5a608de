import contextlib
import time
import zlib

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from encoder.codec.graph_names import to_refs
from encoder.codec.topology import MAX_BYTES, OPERATORS, Topology, dictionary
from encoder.common.errors import BitstreamError
from encoder.common.onnx_runtime import Session
from encoder.jobs.trace import trace
from encoder.models.base import VideoShape
from encoder.presets import PRESETS


def make_model(**changes) -> onnx.ModelProto:
    """Return a graph that makes every pixel of a 2x2 frame t times a coded weight."""
    parts = {
        "time": helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N"]),
        "weight": helper.make_tensor_value_info("0", TensorProto.FLOAT, [1, 3, 2, 2]),
        "frames": helper.make_tensor_value_info("rgb", TensorProto.FLOAT, ["N", 3, 2, 2]),
        "nodes": [
            helper.make_node("Reshape", ["t", "shape"], ["time"]),
            helper.make_node("Mul", ["time", "0"], ["rgb"]),
        ],
        "constants": [numpy_helper.from_array(np.array([-1, 1, 1, 1]), "shape")],
        "opset": helper.make_opsetid("", 20),
        "said": [],
        "version": 10,
    } | changes
    inputs, outputs = [parts["time"], parts["weight"]], [parts["frames"]]
    graph = helper.make_graph(
        parts["nodes"], "g", inputs, outputs, parts["constants"], value_info=parts["said"]
    )
    return helper.make_model(graph, opset_imports=[parts["opset"]], ir_version=parts["version"])


def pack(data: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15, zdict=dictionary())
    return packer.compress(data) + packer.flush()


def test_round_trip():
    topology = Topology.check(make_model())
    again = Topology.parse(topology.packed)
    assert again.model == topology.model
    assert again.tensors == {"0": (1, 3, 2, 2)}
    assert (again.weights, again.frame_shape) == (12, (2, 2))


def test_bound_model_runs():
    weights = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    model = Topology.check(make_model()).bind({"0": weights})
    onnx.checker.check_model(model, full_check=True)
    frames = Session(model).run({"t": np.array([0, 2], np.float32)})
    assert np.array_equal(frames, np.concatenate([0 * weights, 2 * weights]))


@pytest.mark.parametrize(
    ("preset", "size", "margin"),
    [
        *((preset, (180, 320), None) for preset in PRESETS),
        ("fast", (720, 1280), (14, 10)),
        pytest.param("fast", (288, 352), None, marks=pytest.mark.soak),
        pytest.param("nerv++", (720, 1280), None, marks=pytest.mark.soak),
        ("hnerv-boost", (720, 1280), None),
    ],
)
def test_topologies_of_the_presets_are_small_and_allowed(preset, size, margin):
    frames = PRESETS[preset].group_frames or 132
    topology = trace(
        PRESETS[preset].network(
            VideoShape(height=size[0], width=size[1], frames=frames, margin=margin), "S"
        )
    )
    assert Topology.parse(topology.packed).tensors == topology.tensors
    assert len(topology.packed) < 1000
    assert {node.op_type for node in topology.model.graph.node} <= OPERATORS
    onnx.checker.check_model(topology.model, full_check=True)


EXTERNAL = numpy_helper.from_array(np.array([-1, 1, 1, 1]), "shape")
EXTERNAL.data_location = TensorProto.EXTERNAL
EXTERNAL.external_data.add(key="location", value="/etc/passwd")
OUTPUT = [
    helper.make_node("Reshape", ["t", "shape"], ["time"]),
    helper.make_node("Mul", ["time", "0"], ["rgb"]),
]
"""What makes a good output, behind nodes that are not."""
PARTIAL = [helper.make_node("Split", ["0"], ["part", ""], axis=0, num_outputs=2), *OUTPUT]
ENLARGING = [
    helper.make_node(
        "Constant", [], ["sizes"], value=numpy_helper.from_array(np.array([1, 3, 60_000, 60_000]))
    ),
    helper.make_node("Resize", ["0", "", "", "sizes"], ["huge"]),
    *OUTPUT,
]
DEPENDENT = [
    helper.make_node("Cast", ["t"], ["sizes"], to=TensorProto.INT64),
    helper.make_node("Reshape", ["0", "sizes"], ["any"]),
    helper.make_node("Mul", ["any", "0"], ["rgb"]),
]
NEGATIVE = [
    helper.make_node(
        "Constant",
        [],
        ["pads"],
        value=numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 0, -(1 << 40)])),
    ),
    helper.make_node("Pad", ["0", "pads"], ["less"]),
    helper.make_node("Mul", ["0", "0"], ["rgb"]),
]
SQUARED = [
    helper.make_node("Reshape", ["t", "column"], ["tall"]),
    helper.make_node("Mul", ["t", "tall"], ["square"]),
    helper.make_node("Reshape", ["t", "shape"], ["time"]),
    helper.make_node("Mul", ["time", "0"], ["rgb"]),
]
# Of a single time, the axis of times goes as well.
SQUEEZED = [helper.make_node("Squeeze", ["t"], ["v1"]), *OUTPUT]
COLUMN = [
    numpy_helper.from_array(np.array(x), name)
    for name, x in (("column", [-1, 1]), ("shape", [-1, 1, 1, 1]))
]
LABORIOUS = [
    helper.make_node(
        "Constant", [], ["sizes"], value=numpy_helper.from_array(np.array([1, 3, 1000, 1000]))
    ),
    helper.make_node("Resize", ["0", "", "", "sizes"], ["large"]),
    helper.make_node("AveragePool", ["large"], ["pooled"], kernel_shape=[500, 500]),
    *OUTPUT,
]
DOUBLING = [
    helper.make_node("Concat", [f"{'x' * count}shape"] * 2, [f"{'x' * (count + 1)}shape"], axis=0)
    for count in range(40)
] + OUTPUT
OVERFLOWING = [
    helper.make_node("Constant", [], ["negative"], value=numpy_helper.from_array(np.array([-5]))),
    helper.make_node("Cast", ["negative"], ["wrapped"], to=TensorProto.UINT16),
    helper.make_node("Cast", ["wrapped"], ["large"], to=TensorProto.INT64),
    helper.make_node("Constant", [], ["six"], value=numpy_helper.from_array(np.array([6]))),
    helper.make_node("Add", ["large", "six"], ["sizes"]),
    helper.make_node("Expand", ["t", "sizes"], ["expanded"]),
    *OUTPUT,
]
LARGE = [
    helper.make_node(
        "Constant", [], ["sizes"], value=numpy_helper.from_array(np.array([1, 3, 500, 500]))
    ),
    helper.make_node("Resize", ["0", "", "", "sizes"], ["large"]),
]
VARIADIC = [*LARGE, helper.make_node("Max", ["large"] * 400, ["largest"]), *OUTPUT]
KEPT = [
    *LARGE,
    *(helper.make_node("Neg", ["large"], [f"minus{index}"]) for index in range(8)),
    *OUTPUT,
]
TEXT = [helper.make_node("Cast", ["t"], ["text"], to=TensorProto.STRING), *OUTPUT]
SAID = [helper.make_tensor_value_info("any", TensorProto.FLOAT, [1, 3, 2, 2])]
BRANCH = helper.make_graph([], "branch", [], [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": [helper.make_node("Loop", ["t"], ["rgb"])]}, "operator Loop is not allowed"),
        (
            {"nodes": [helper.make_node("Mul", ["t", "0"], ["rgb"], domain="evil")]},
            r"operator evil\.Mul",
        ),
        (
            {"nodes": [helper.make_node("Add", ["t", "0"], ["rgb"], body=BRANCH)]},
            "attribute body of Add is of a kind that is not allowed",
        ),
        (
            {"nodes": [helper.make_node("Constant", [], ["rgb"], value=EXTERNAL)]},
            "outside the clip",
        ),
        ({"constants": [EXTERNAL]}, "outside the clip"),
        ({"constants": [TensorProto(name="shape", dims=[1 << 40])]}, "at most 1048576 elements"),
        ({"constants": [TensorProto(name="shape", dims=[-1])]}, "at most 1048576 elements"),
        ({"nodes": [helper.make_node("Add", ["t"], ["rgb"])]}, "no valid graph"),
        ({"nodes": [helper.make_node("Mul", ["t", "nothing"], ["rgb"])]}, "no valid graph"),
        (
            {"frames": helper.make_tensor_value_info("rgb", TensorProto.FLOAT, ["N", 3, 4, 4])},
            r"declared to be \[1, 3, 4, 4\], but is \[1, 3, 2, 2\]",
        ),
        ({"nodes": ENLARGING}, r"needs 108\d{8} values at once, over 41"),
        ({"nodes": LABORIOUS}, r"needs \d{12} multiplications, over 4297"),
        ({"nodes": DOUBLING}, r"needs \d{14} values at once"),
        ({"nodes": OVERFLOWING}, "a size that is known"),
        ({"nodes": VARIADIC}, r"needs 48\d{8} multiplications, over 4297"),
        ({"nodes": KEPT}, r"needs 67500\d\d values at once, over 4196"),
        ({"nodes": TEXT}, "must be float32, int32 or int64, got STRING"),
        (
            {"nodes": [helper.make_node("Mul", ["0", "0"], ["rgb"])]},
            r"to be \[2, 3, 2, 2\], but is \[1, 3, 2, 2\]",
        ),
        (
            {"frames": helper.make_tensor_value_info("rgb", TensorProto.FLOAT, [1, 3, 2, 2])},
            "float32 of shape",
        ),
        ({"nodes": DEPENDENT, "said": SAID}, "sizes of inner values"),
        ({"nodes": DEPENDENT}, "a size that is known"),
        ({"nodes": NEGATIVE}, r"value 'v\d' must have a size that is known, and over 0"),
        (
            {"nodes": SQUARED, "constants": COLUMN},
            r"value 'v\d' must grow with the number of times, along its first axis",
        ),
        (
            {"nodes": SQUEEZED},
            r"value 'v\d' must grow with the number of times, along its first axis",
        ),
        ({"nodes": PARTIAL}, "operator Split leaves an output out"),
        (
            {
                "constants": [
                    numpy_helper.from_array(np.array([-1, 1, 1, 1]), name)
                    for name in ("shape", "0")
                ]
            },
            "the same name",
        ),
        ({"version": 13}, "format 8 to 12, got 13"),
        ({"time": helper.make_tensor_value_info("t", TensorProto.FLOAT, [7])}, "float32 of shape"),
        ({"opset": helper.make_opsetid("", 99)}, "ONNX's own operators"),
        ({"opset": helper.make_opsetid("com.microsoft", 1)}, "ONNX's own operators"),
        (
            {"time": helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])},
            "must map 't' to 'rgb'",
        ),
        (
            {"time": helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N", 1])},
            "float32 of shape",
        ),
        (
            {"frames": helper.make_tensor_value_info("rgb", TensorProto.FLOAT, ["N", 4, 2, 2])},
            "float32 of shape",
        ),
        (
            {"weight": helper.make_tensor_value_info("0", TensorProto.FLOAT, ["K", 3])},
            "fixed shape",
        ),
        ({"weight": helper.make_tensor_value_info("0", TensorProto.INT64, [3])}, "fixed shape"),
        ({"weight": helper.make_tensor_value_info("t", TensorProto.FLOAT, [3])}, "the same name"),
        ({"weight": helper.make_tensor_value_info("0", TensorProto.FLOAT, [1 << 30])}, "weights"),
    ],
)
def test_forbidden(changes, message):
    with pytest.raises(BitstreamError, match=message):
        Topology.check(make_model(**changes))


def test_work_of_a_check_does_not_grow_with_the_square_of_a_graph():
    outputs = [f"part{index}" for index in range(30_000)]
    sizes = numpy_helper.from_array(np.array([1, 3, 100, 100]))
    nodes = [
        helper.make_node("Constant", [], ["sizes"], value=sizes),
        helper.make_node("Resize", ["0", "", "", "sizes"], ["large"]),
        helper.make_node("Reshape", ["large", "flat"], ["row"]),
        helper.make_node("Split", ["row"], outputs, axis=0, num_outputs=len(outputs)),
        *(helper.make_node("Neg", [f"part{index}"], [f"minus{index}"]) for index in range(4000)),
        *OUTPUT,
    ]
    constants = [
        numpy_helper.from_array(np.array(x), name)
        for name, x in (("flat", [30_000]), ("shape", [-1, 1, 1, 1]))
    ]
    packed = pack(to_refs(make_model(nodes=nodes, constants=constants)).SerializeToString())
    start = time.process_time()
    Topology.parse(packed)
    assert time.process_time() - start < 5


def test_values_that_are_needed_at_once():
    model = make_model()
    # The weight and the shape (of 64 bits), the time in its two shapes, and the frame.
    assert Topology.check(model).peak_values == 12 + 2 * 4 + 1 + 1 + 12


def test_graph_without_coded_tensors():
    model = make_model(nodes=[helper.make_node("Reshape", ["t", "shape"], ["rgb"])])
    del model.graph.input[1]
    with pytest.raises(BitstreamError, match=r"must have 1\.\.1024 coded tensors, got 0"):
        Topology.check(model)


def test_something_after_the_graph():
    with pytest.raises(BitstreamError, match="followed by something"):
        Topology.parse(pack(to_refs(make_model()).SerializeToString()) + b"x")


def test_functions_are_forbidden():
    model = make_model()
    model.functions.add(name="f")
    with pytest.raises(BitstreamError, match="functions"):
        Topology.check(model)


def test_bomb_is_not_unpacked():
    with pytest.raises(BitstreamError, match=f"larger than {MAX_BYTES}"):
        Topology.parse(pack(bytes(100 * MAX_BYTES)))


def test_truncated():
    data = Topology.check(make_model()).packed
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            Topology.parse(data[:length])


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_graph_never_crashes(sample_clip, data):
    damaged = bytearray(to_refs(sample_clip.topology.model).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BitstreamError):
        assert Topology.parse(pack(bytes(damaged))).weights > 0


@given(st.binary(max_size=200))
def test_garbage_never_crashes(data):
    for payload in (data, pack(data)):
        with contextlib.suppress(BitstreamError):
            assert Topology.parse(payload).weights > 0
