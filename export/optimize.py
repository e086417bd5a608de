"""Rewrites of a graph, before any engine sees it, into one that makes the same pictures in less time."""

from collections.abc import Iterator, Mapping, Sequence
from math import pi
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from encoder.codec.names import TIME
from encoder.codec.runtime import Session
from encoder.codec.tensor import Shape
from export.editing import PICTURE_RANK, add_constant, attributes, drop_unused, set_nodes, shapes_of

SINE_TERMS = 6
"""Terms of the polynomial that stands for a sine: it is off by less than single precision is in the usual ranges."""
SINE_NODES = 4096
"""Places at which the polynomial is fitted."""
CORNERS = (2, 2)
"""Rows and columns of the corners that a camera's places lie between."""


def fold_constants(model: onnx.ModelProto) -> None:
    """Compute once what does not depend on the time, such as what is made of a scene that stands still.

    Raises EngineError where it cannot be computed.
    """
    graph = model.graph
    varying, still, kept = {TIME}, list[onnx.NodeProto](), list[onnx.NodeProto]()
    for node in graph.node:
        if varying.isdisjoint(node.input):
            still.append(node)
        else:
            varying.update(node.output)
            kept.append(node)
    made = {name for node in still for name in node.output}
    wanted = dict.fromkeys(name for node in kept for name in node.input if name in made)
    if wanted:
        for name, value in zip(wanted, _computed(model, still, list(wanted)), strict=True):
            graph.initializer.append(numpy_helper.from_array(value, name))
    set_nodes(graph, kept)
    drop_unused(graph)


def _computed(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[NDArray[Any]]:
    """Return what nodes make that need no input."""
    used = {name for node in nodes for name in node.input}
    constants = [constant for constant in model.graph.initializer if constant.name in used]
    graph = helper.make_graph(
        nodes, "constants", [], [helper.make_empty_tensor_value_info(name) for name in outputs], constants
    )
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return Session(part).outputs({})


def multiply_places(model: onnx.ModelProto) -> None:
    """Find the places that a camera looks at by two products of matrices, not by enlarging a picture of its corners.

    That would lie in memory channel by channel, and have to be transposed.
    """
    shapes, makers = shapes_of(model), {name: node for node in model.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        enlarged = _enlarged_corners(node, makers, shapes)
        nodes += [node] if enlarged is None else _places(model.graph, node, enlarged, shapes[node.output[0]])
    set_nodes(model.graph, nodes)
    drop_unused(model.graph)


def _enlarged_corners(
    node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], shapes: Mapping[str, Shape]
) -> onnx.NodeProto | None:
    """Return what enlarges the corners (N, 2, 2, 2) of which a node makes places (N, H, W, 2), if it does."""
    if node.op_type != "Transpose" or attributes(node).get("perm") != [0, 2, 3, 1]:
        return None
    resize = makers.get(node.input[0])
    if resize is None or resize.op_type != "Resize" or shapes.get(resize.input[0], ())[1:] != (2, *CORNERS):
        return None
    if 0 in shapes[node.output[0]][1:] or shapes[node.output[0]][-1] != len(CORNERS):
        return None
    wanted = {"mode": b"linear", "coordinate_transformation_mode": b"align_corners"}
    return resize if wanted.items() <= attributes(resize).items() else None


def _places(graph: onnx.GraphProto, node: onnx.NodeProto, resize: onnx.NodeProto, shape: Shape) -> Iterator[onnx.NodeProto]:
    """Yield nodes that make the places (N, H, W, 2) that one makes of enlarged corners."""
    _, height, width, pair = shape
    name = node.output[0]
    down, across = (np.linspace(0, 1, side, dtype=np.float32) for side in (height, width))
    rows = np.stack([1 - down, down], 1)[None]  # (1, H, 2)
    columns = np.kron(np.stack([1 - across, across]), np.eye(pair, dtype=np.float32))  # (2 * 2, W * 2)
    tables = {"rows": rows, "columns": columns, "flat": np.array([0, 2, 2 * pair]), "grid": np.array([0, height, width, pair])}
    inputs = {key: add_constant(graph, f"{name}_{key}", value) for key, value in tables.items()}
    yield helper.make_node("Transpose", [resize.input[0]], [f"{name}_corners"], perm=[0, 2, 3, 1])  # (N, 2, 2, 2)
    yield helper.make_node("Reshape", [f"{name}_corners", inputs["flat"]], [f"{name}_sides"])  # (N, 2, 2 * 2)
    yield helper.make_node("MatMul", [f"{name}_sides", inputs["columns"]], [f"{name}_edges"])  # (N, 2, W * 2)
    yield helper.make_node("MatMul", [inputs["rows"], f"{name}_edges"], [f"{name}_all"])  # (N, H, W * 2)
    yield helper.make_node("Reshape", [f"{name}_all", inputs["grid"]], [name])


def polynomial_sines(model: onnx.ModelProto) -> None:
    """Replace the sines of feature maps by polynomials, for engines that compute sines one by one."""
    shapes = shapes_of(model)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type != "Sin" or len(shapes.get(node.output[0], ())) < PICTURE_RANK:
            nodes.append(node)
            continue
        if not constants:
            values = {"turn": 1 / (2 * pi)} | {f"term{index}": term for index, term in enumerate(_sine_terms())}
            constants = {key: add_constant(model.graph, f"sine_{key}", np.float32(value)) for key, value in values.items()}
        nodes += _sine(node.input[0], node.output[0], constants)
    set_nodes(model.graph, nodes)


def _sine_terms() -> list[float]:
    """Return the factors of x, x^3, ... whose sum is closest to the sine of x turns, for x in -1/2..1/2."""
    x = np.cos(pi * (np.arange(SINE_NODES) + 0.5) / SINE_NODES) / 2  # the nodes of Chebyshev's polynomials
    powers = x[:, None] ** np.arange(1, 2 * SINE_TERMS, 2)
    return np.linalg.lstsq(powers, np.sin(2 * pi * x), rcond=None)[0].tolist()


def _sine(x: str, name: str, constants: Mapping[str, str]) -> Iterator[onnx.NodeProto]:
    """Yield nodes that compute a sine: the part of a turn that is left of whole ones, and Horner's scheme."""
    yield helper.make_node("Mul", [x, constants["turn"]], [f"{name}_turns"])
    yield helper.make_node("Round", [f"{name}_turns"], [f"{name}_whole"])
    yield helper.make_node("Sub", [f"{name}_turns", f"{name}_whole"], [f"{name}_part"])
    yield helper.make_node("Mul", [f"{name}_part", f"{name}_part"], [f"{name}_square"])
    total = constants[f"term{SINE_TERMS - 1}"]
    for index in reversed(range(SINE_TERMS - 1)):
        yield helper.make_node("Mul", [total, f"{name}_square"], [f"{name}_product{index}"])
        total = f"{name}_sum{index}"
        yield helper.make_node("Add", [f"{name}_product{index}", constants[f"term{index}"]], [total])
    yield helper.make_node("Mul", [total, f"{name}_part"], [name])
