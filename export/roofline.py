"""Roofline: the arithmetic, memory traffic and launches of a graph, and the machine's ceilings."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from statistics import median

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from encoder.codec.graph_limits import multiplications, with_times
from encoder.codec.graph_names import TIME
from encoder.codec.tensor_header import Shape
from export.engines.base import Engine, Network
from export.graph import OUTPUT
from export.passes.fp16 import half_precision

SIDE = 512
"""Initial rows and columns of the matrices that are multiplied."""
MAX_SIDE = 8192
"""Maximum number of rows and columns."""
LONG_SECONDS = 0.02
"""Time of a product below which rows and columns are doubled."""
MEMORY_MATRIX = (4096, 8192)
"""Rows and columns of a matrix that no cache holds."""
CHAIN = 65
"""Number of products in a chain."""
SMALL = 8
"""Rows and columns of the matrices of the chain. Their product takes hardly longer than its
launch."""
RUNS = 9
OPSET = 20
IR_VERSION = 10


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Limits of an engine on this machine."""

    flop_per_second: float
    """Arithmetic operations per second in a product of large matrices."""
    bytes_per_second: float
    """Bytes read per second for the product of a large matrix and a vector. Engines would leave out
    a mere copy."""
    launch_seconds: float
    """Time of an operator that has nothing to compute."""


def measure_ceilings(engine: Engine, *, clock: Callable[[], float] = time.perf_counter) -> Ceilings:
    """Measure the ceilings of an engine whose batch is a single frame; raises EngineError."""
    engine.wait_idle()
    engine.keeps_builds = False

    def seconds(rows: int, columns: int, inner: int, chain: int = 1) -> float:
        model = _products(rows, inner, columns, chain)
        network = engine.load(half_precision(model) if engine.precision == "fp16" else model)
        try:
            return median(_timed(network, clock) for _ in range(RUNS))
        finally:
            network.close()

    # Time of a run that computes hardly anything: its launch, and the copy of the time to the
    # device.
    least = seconds(SMALL, SMALL, SMALL)
    side = SIDE
    while (product := seconds(side, side, side)) < LONG_SECONDS and side < MAX_SIDE:
        side *= 2
    inner, columns = MEMORY_MATRIX
    width = {"fp32": 4, "bf16": 2, "fp16": 2}[engine.precision]
    memory = seconds(1, columns, inner)
    return Ceilings(
        flop_per_second=2 * side**3 / _beyond(least, product),
        bytes_per_second=width * inner * columns / _beyond(least, memory),
        launch_seconds=max(seconds(SMALL, SMALL, SMALL, CHAIN) - least, 0.0) / (CHAIN - 1),
    )


def _beyond(least: float, seconds: float) -> float:
    """Return the time of a run beyond the least.

    It is at least half of the run, since noise must not reduce it to nothing.
    """
    return max(seconds - least, seconds / 2)


def _timed(network: Network, clock: Callable[[], float]) -> float:
    began = clock()
    network.start(0, np.ones(1, np.float32))
    network.wait(0)
    return clock() - began


def _products(rows: int, inner: int, columns: int, chain: int) -> onnx.ModelProto:
    """Return a graph that multiplies a matrix (rows, inner) by one of (inner, columns), repeatedly.

    Its input and output are those of a clip's graph. The matrices have four axes, as pictures have,
    so that they get the same precision.
    """
    constants = {
        "one": np.array([0, 1, 1, 1]),
        "left": np.full((1, 1, rows, inner), 1 / inner, np.float32),
        "right": np.full((1, 1, inner, columns), 1 / inner, np.float32),
        "axes": np.array([1, 2, 3]),
    }
    nodes = [
        helper.make_node("Reshape", [TIME, "one"], ["time"]),
        helper.make_node("Mul", ["time", "left"], ["product0"]),
        *(
            helper.make_node("MatMul", [f"product{i}", "right"], [f"product{i + 1}"])
            for i in range(chain)
        ),
        helper.make_node("ReduceMax", [f"product{chain}", "axes"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], [OUTPUT], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "ceiling",
        [helper.make_tensor_value_info(TIME, TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.UINT8, ["N"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


ELEMENTWISE = frozenset(
    {
        *(
            "Abs",
            "Add",
            "Cast",
            "Ceil",
            "Clip",
            "Cos",
            "Div",
            "Erf",
            "Exp",
            "Floor",
            "Gelu",
            "LeakyRelu",
            "Log",
            "Max",
            "Min",
        ),
        *("Mul", "Neg", "Pow", "Relu", "Round", "Sigmoid", "Sin", "Sqrt", "Sub", "Tanh"),
    }
)
"""Operators that engines fuse with the operator before."""
FREE = frozenset(["Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"])
"""Operators that move no data."""


@dataclass(frozen=True)
class Work:
    """Work of one call of a graph."""

    flop: int
    """Multiplications and additions of convolutions and matrix products."""
    bytes: int
    """Bytes read and written if all operators are fused that can be. Each remaining operator reads
    and writes once."""
    launches: int
    """Number of the remaining operators."""


def count_work(model: onnx.ModelProto, times: int) -> Work:
    """Count the work of a graph for a number of times."""
    values = _values(model, times)
    sizes = {name: prod(shape) for name, (shape, _) in values.items()}
    shapes = {name: shape for name, (shape, _) in values.items()}
    stored = {name: sizes[name] * width for name, (_, width) in values.items()}
    constants = {constant.name for constant in model.graph.initializer}
    group: dict[str, int] = {}
    read: set[tuple[str, int]] = set()
    flop = 0
    for index, node in enumerate(model.graph.node):
        inputs = [name for name in node.input if name]
        flop += 2 * multiplications(node, shapes)
        made = [name for name in inputs if name in group]
        joins = node.op_type in ELEMENTWISE | FREE and made
        own = group[max(made, key=lambda name: (sizes[name], group[name]))] if joins else index
        group.update(dict.fromkeys(node.output, own))
        read.update((name, own) for name in inputs if group.get(name) != own)
    written = {name for name, _ in read} - constants | {x.name for x in model.graph.output}
    moved = sum(stored[name] for name, _ in read) + sum(
        stored[name] for name in written if name in group
    )
    return Work(flop=flop, bytes=moved, launches=len(set(group.values())))


def _values(model: onnx.ModelProto, times: int) -> Mapping[str, tuple[Shape, int]]:
    """Return the shape of each value, for a number of times, and the bytes of one element."""
    graph = infer_shapes(with_times(model, times), strict_mode=True).graph
    found = {x.name: (tuple(x.dims), x.data_type) for x in graph.initializer}
    for x in (*graph.input, *graph.value_info, *graph.output):
        kind = x.type.tensor_type
        found[x.name] = (tuple(dim.dim_value for dim in kind.shape.dim), kind.elem_type)
    return {
        name: (shape, helper.tensor_dtype_to_np_dtype(kind).itemsize)
        for name, (shape, kind) in found.items()
    }
