"""What a frame of a graph takes: the size of every value, the memory and the multiplications, known before anything is run."""

from collections.abc import Mapping
from math import prod

import onnx
from onnx.shape_inference import InferenceError, infer_shapes

from encoder.codec.errors import BitstreamError, first_line
from encoder.codec.tensor import Shape

RGB = 3
"""Channels of a frame."""
MAX_VALUES_PER_PIXEL, FREE_VALUES, MAX_VALUES = 512, 1 << 22, 1 << 30
"""Largest number of elements that are needed at once for a frame: for each of its pixels, beside that, and weights and all."""
MAX_ARITHMETIC = 1 << 38
"""Largest number of multiplications for one frame."""
BATCHES = (1, 2, 256)
"""Numbers of times for which the sizes are looked at: if they grow in proportion from one to all of them, they always do, since
without an operator that tells a size they are polynomials without negative coefficients."""
WIDE = (onnx.TensorProto.INT64, onnx.TensorProto.UINT64, onnx.TensorProto.DOUBLE)
"""Types whose elements count twice."""


def check_values(model: onnx.ModelProto, frames: str) -> None:
    """Check that a graph holds together, and what its output `frames` takes; raises BitstreamError.

    The first input and the output have the number of times as their first axis.
    """
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise BitstreamError(f"topology is no valid graph: {first_line(error)}") from None
    single, *more = (_inferred(model, batch) for batch in BATCHES)
    shapes = _shapes(single)
    for batch, graph in zip(BATCHES[1:], more, strict=True):
        for name, shape in _shapes(graph).items():
            if shape not in (shapes[name], (batch * shapes[name][0], *shapes[name][1:]) if shape else None):
                raise BitstreamError(f"value {name!r} must grow with the number of times, along its first axis")
    declared = tuple(dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim[1:])
    if shapes[frames] != (1, *declared):
        raise BitstreamError(f"{frames!r} is declared to be {list(declared)}, but is {shapes[frames]}")
    kinds = {x.name: x.type.tensor_type.elem_type for x in (*single.input, *single.value_info, *single.output)}
    kinds |= {x.name: x.data_type for x in single.initializer}
    sizes = {name: prod(shape) * (2 if kinds.get(name) in WIDE else 1) for name, shape in shapes.items()}
    _check_cost(single, sizes, shapes, frames)


def _inferred(model: onnx.ModelProto, batch: int) -> onnx.GraphProto:
    """Return the graph with the size of every value for a number of times."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    fixed.graph.output[0].type.tensor_type.ClearField("shape")
    try:
        return infer_shapes(fixed, check_type=True, strict_mode=True, data_prop=True).graph
    except (InferenceError, ValueError) as error:
        raise BitstreamError(f"topology is no valid graph: {first_line(error)}") from None


def _shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    """Return the shape of every value of a graph; raises BitstreamError for one that is not known, or empty."""
    shapes: dict[str, Shape] = {x.name: tuple(x.dims) for x in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = _static_shape(value)
        if shape is not None and min(shape, default=1) > 0:
            shapes[value.name] = shape
    for name in (output for node in graph.node for output in node.output if output):
        if name not in shapes:
            raise BitstreamError(f"value {name!r} must have a size that is known, and over 0")
    return shapes


def _check_cost(graph: onnx.GraphProto, sizes: Mapping[str, int], shapes: Mapping[str, Shape], frames: str) -> None:
    """Check what is held at once if each value is dropped after its last use, and the number of multiplications."""
    last_use = {name: index for index, node in enumerate(graph.node) for name in node.input}
    weights = sum(sizes[x.name] for x in (*graph.input, *graph.initializer))
    live: dict[str, int] = {}
    peak = arithmetic = 0
    for index, node in enumerate(graph.node):
        live |= {name: sizes[name] for name in node.output if name}
        peak = max(peak, sum(live.values()))
        live = {name: size for name, size in live.items() if last_use.get(name, -1) > index}
        arithmetic += _multiplications(node, sizes, shapes)
    limit = min(MAX_VALUES_PER_PIXEL * sizes[frames] // RGB + FREE_VALUES + weights, MAX_VALUES)
    if weights + peak > limit:
        raise BitstreamError(f"a frame needs {weights + peak} values at once, over {limit}")
    if arithmetic > MAX_ARITHMETIC:
        raise BitstreamError(f"a frame needs {arithmetic} multiplications, over {MAX_ARITHMETIC}")


def _multiplications(node: onnx.NodeProto, sizes: Mapping[str, int], shapes: Mapping[str, Shape]) -> int:
    made = sum(sizes[name] for name in node.output if name)
    taken = max((sizes[name] for name in node.input if name), default=0)
    match node.op_type:
        case "Conv":
            return made * prod(shapes[node.input[1]][1:])
        case "Gemm" | "MatMul":
            return made * max(shapes[node.input[0]], default=1)
        case "AveragePool":
            return made * prod(next((a.ints for a in node.attribute if a.name == "kernel_shape"), []))
        case _:
            return max(made, taken)


def _static_shape(value: onnx.ValueInfoProto) -> Shape | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(dim.WhichOneof("value") != "dim_value" for dim in kind.shape.dim):
        return None
    return tuple(dim.dim_value for dim in kind.shape.dim)
