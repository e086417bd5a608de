"""Limits on a graph: the size of every value, and a frame's memory and multiplications.

All are computed without running the graph. A value's size is its number of elements.
"""

from collections import Counter
from collections.abc import Mapping
from math import prod

import onnx
from onnx.shape_inference import InferenceError, infer_shapes

from encoder.codec.tensor_header import Shape
from encoder.common.errors import BitstreamError, first_line

RGB = 3
"""Number of channels of a frame."""
KINDS: dict[int, int] = {
    onnx.TensorProto.FLOAT: 1,
    onnx.TensorProto.INT32: 1,
    onnx.TensorProto.INT64: 2,
}
"""Allowed types of values, and the number that one element counts as: 2 for 64-bit types."""
MAX_VALUES_PER_PIXEL = 512
"""Elements that a frame may need at once for each of its pixels."""
FREE_VALUES = 1 << 22
"""Elements that a frame of any size may need in addition."""
MAX_VALUES = 1 << 30
"""Largest number of elements needed at once for a frame, weights included."""
MAX_ARITHMETIC_PER_PIXEL = 1 << 19
"""Multiplications that a frame may need for each of its pixels."""
FREE_ARITHMETIC = 1 << 32
"""Multiplications that a frame of any size may need in addition."""
MAX_ARITHMETIC = 1 << 40
"""Largest number of multiplications for a frame."""
TOUCHED = 16
"""Multiplications counted for each element that an operator other than a product reads or writes.

A sine takes as many.
"""
BATCHES = (1, 2, 256)
"""Numbers of times for which sizes are inferred.

If the sizes grow in proportion over these numbers, they do so over all numbers.
No allowed operator returns a size, so sizes are polynomials without negative coefficients.
"""


def check_values(model: onnx.ModelProto, frames: str) -> int:
    """Check a graph and return the number of elements needed at once for one frame.

    That number includes the weights. `frames` is the name of the output.
    The first input and the output have the number of times as their first axis.
    Raises BitstreamError if the graph is invalid or exceeds a limit.
    """
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise BitstreamError(f"topology is no valid graph: {first_line(error)}") from None
    declared = tuple(dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim[1:])
    graphs = [_inferred(model, batch) for batch in BATCHES]
    shapes, *more = (_shapes(graph) for graph in graphs)
    for batch, grown in zip(BATCHES, (shapes, *more), strict=True):
        for name, shape in grown.items():
            first = shapes.get(name)  # may have fewer axes, or be absent
            if shape != first and (not first or shape != (batch * first[0], *first[1:])):
                raise BitstreamError(
                    f"value {name!r} must grow with the number of times, along its first axis"
                )
        if grown[frames] != (batch, *declared):
            raise BitstreamError(
                f"{frames!r} is declared to be {[batch, *declared]}, but is {list(grown[frames])}"
            )
    kinds = _kinds(graphs[0])
    sizes = {name: prod(shape) * KINDS[kinds[name]] for name, shape in shapes.items()}
    return _check_cost(graphs[0], sizes, shapes, frames)


def with_times(model: onnx.ModelProto, times: int) -> onnx.ModelProto:
    """Return a copy of a graph for a fixed number of times. Its sizes are still to be inferred."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = times
    fixed.graph.output[0].type.tensor_type.ClearField("shape")
    return fixed


def _inferred(model: onnx.ModelProto, batch: int) -> onnx.GraphProto:
    """Return the graph with the shape of every value for a number of times."""
    try:
        # Data propagation is off: it may take any amount of memory, and misses integer overflow.
        return infer_shapes(
            with_times(model, batch), check_type=True, strict_mode=True, data_prop=False
        ).graph
    except (InferenceError, ValueError) as error:
        raise BitstreamError(f"topology is no valid graph: {first_line(error)}") from None


def _shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    """Return the shape of every value of a graph.

    Raises BitstreamError if a shape is unknown or empty.
    """
    shapes: dict[str, Shape] = {x.name: tuple(x.dims) for x in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = _static_shape(value)
        if shape is not None and min(shape, default=1) > 0:
            shapes[value.name] = shape
    for name in (output for node in graph.node for output in node.output if output):
        if name not in shapes:
            raise BitstreamError(f"value {name!r} must have a size that is known, and over 0")
    return shapes


def _kinds(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the type of every value of a graph. Raises BitstreamError if one is not allowed."""
    kinds = {
        x.name: x.type.tensor_type.elem_type
        for x in (*graph.input, *graph.value_info, *graph.output)
    }
    kinds |= {x.name: x.data_type for x in graph.initializer}
    for name, kind in kinds.items():
        if kind not in KINDS:
            raise BitstreamError(
                f"value {name!r} must be float32, int32 or int64, "
                f"got {onnx.TensorProto.DataType.Name(kind)}"
            )
    return kinds


def _check_cost(
    graph: onnx.GraphProto, sizes: Mapping[str, int], shapes: Mapping[str, Shape], frames: str
) -> int:
    """Check a frame's memory and multiplications; return the elements held at once.

    A value is dropped after its last use.
    Values that do not depend on the time are kept, because runtimes compute them once.
    Raises BitstreamError if the graph exceeds a limit.
    """
    last_use = {
        name: index for index, node in enumerate(graph.node) for name in (*node.output, *node.input)
    }
    last_use[frames] = len(graph.node)
    weights = sum(sizes[x.name] for x in (*graph.input, *graph.initializer))
    varying = {graph.input[0].name}
    dropped: Counter[int] = Counter()
    held = peak = arithmetic = 0
    for index, node in enumerate(graph.node):
        made = [name for name in node.output if name]
        if not varying.isdisjoint(node.input):
            varying.update(made)
            for name in made:
                dropped[last_use[name]] += sizes[name]
        held += sum(sizes[name] for name in made)
        peak = max(peak, held)
        held -= dropped[index]
        arithmetic += _arithmetic(node, sizes, shapes)
    pixels = sizes[frames] // RGB
    limit = min(MAX_VALUES_PER_PIXEL * pixels + FREE_VALUES + weights, MAX_VALUES)
    if weights + peak > limit:
        raise BitstreamError(f"a frame needs {weights + peak} values at once, over {limit}")
    limit = min(MAX_ARITHMETIC_PER_PIXEL * pixels + FREE_ARITHMETIC, MAX_ARITHMETIC)
    if arithmetic > limit:
        raise BitstreamError(f"a frame needs {arithmetic} multiplications, over {limit}")
    return weights + peak


def multiplications(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Return the multiplications of a convolution or matrix product; 0 for any other operator."""
    made = prod(shapes[node.output[0]])
    match node.op_type:
        case "Conv":
            return made * prod(shapes[node.input[1]][1:])
        case "MatMul":
            return made * shapes[node.input[0]][-1]
        case "Gemm":
            transposed = any(
                attribute.name == "transA" and attribute.i for attribute in node.attribute
            )
            return made * shapes[node.input[0]][0 if transposed else 1]
        case _:
            return 0


def _arithmetic(node: onnx.NodeProto, sizes: Mapping[str, int], shapes: Mapping[str, Shape]) -> int:
    """Return the number of multiplications that a node counts as."""
    if products := multiplications(node, shapes):
        return products
    made = sum(sizes[name] for name in node.output if name)
    if node.op_type == "AveragePool":
        return made * prod(next((a.ints for a in node.attribute if a.name == "kernel_shape"), []))
    return TOUCHED * (made + sum(sizes[name] for name in node.input if name))


def _static_shape(value: onnx.ValueInfoProto) -> Shape | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(
        dim.WhichOneof("value") != "dim_value" for dim in kind.shape.dim
    ):
        return None
    return tuple(dim.dim_value for dim in kind.shape.dim)
