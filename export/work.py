"""What a graph asks of a machine: arithmetic, bytes and launches, counted from its nodes."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx
from onnx import helper
from onnx.shape_inference import infer_shapes

from encoder.codec.tensor import Shape
from export.editing import attributes

ELEMENTWISE = frozenset(
    {
        *("Abs", "Add", "Cast", "Ceil", "Clip", "Cos", "Div", "Erf", "Exp", "Floor", "Gelu", "LeakyRelu", "Log", "Max", "Min"),
        *("Mul", "Neg", "Pow", "Relu", "Round", "Sigmoid", "Sin", "Sqrt", "Sub", "Tanh"),
    }
)
"""Operators that engines compute on the way, with the operator before."""
FREE = frozenset(["Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"])
"""Operators that move nothing."""


@dataclass(frozen=True)
class Work:
    """What a call of a graph takes."""

    flop: int
    """Multiplications and additions of convolutions and matrix products."""
    bytes: int
    """Read and written where all is computed on the way that can be: each operator that is left reads and writes once."""
    launches: int
    """Operators that are left."""


def count_work(model: onnx.ModelProto, times: int) -> Work:
    """Return what a graph takes for a number of times."""
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
        flop += 2 * _products(node, shapes)
        made = [name for name in inputs if name in group]
        joins = node.op_type in ELEMENTWISE | FREE and made
        own = group[max(made, key=lambda name: (sizes[name], group[name]))] if joins else index
        group.update(dict.fromkeys(node.output, own))
        read.update((name, own) for name in inputs if group.get(name) != own)
    written = {name for name, _ in read} - constants | {x.name for x in model.graph.output}
    moved = sum(stored[name] for name, _ in read) + sum(stored[name] for name in written if name in group)
    return Work(flop=flop, bytes=moved, launches=len(set(group.values())))


def products_by_node(model: onnx.ModelProto) -> Mapping[str, int]:
    """Return the multiplications of each convolution for one frame, by what it makes."""
    shapes = {name: shape for name, (shape, _) in _values(model, 1).items()}
    return {node.output[0]: _products(node, shapes) for node in model.graph.node if node.op_type == "Conv"}


def _products(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Return the multiplications of a convolution or product of matrices, 0 of anything else."""
    made = prod(shapes[node.output[0]])
    match node.op_type:
        case "Conv":
            return made * prod(shapes[node.input[1]][1:])
        case "MatMul":
            return made * shapes[node.input[0]][-1]
        case "Gemm":
            return made * shapes[node.input[0]][0 if attributes(node).get("transA") else 1]
        case _:
            return 0


def _values(model: onnx.ModelProto, times: int) -> Mapping[str, tuple[Shape, int]]:
    """Return the shape of every value for a number of times, and the bytes of its elements."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = times
    fixed.graph.output[0].type.tensor_type.ClearField("shape")
    graph = infer_shapes(fixed, strict_mode=True).graph
    found = {x.name: (tuple(x.dims), x.data_type) for x in graph.initializer}
    for x in (*graph.input, *graph.value_info, *graph.output):
        kind = x.type.tensor_type
        found[x.name] = (tuple(dim.dim_value for dim in kind.shape.dim), kind.elem_type)
    return {name: (shape, helper.tensor_dtype_to_np_dtype(kind).itemsize) for name, (shape, kind) in found.items()}
