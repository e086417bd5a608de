"""Sampling grids of a camera or a displacement field as two matrix products."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from encoder.codec.tensor_header import Shape
from export.passes.onnx_utils import add_constant, attributes, drop_unused, set_nodes, shapes_of

PAIR = 2
"""Coordinates of a position."""
ENLARGEMENT = 4
"""Smallest factor from nodes to positions at which an enlargement becomes products."""
MAX_NODES = 128
"""Largest number of rows or columns of nodes.

It bounds the matrices and their products, which grow faster than an enlargement does.
"""


def multiply_places(model: onnx.ModelProto) -> None:
    """Compute the sampling positions of a camera, or of a field, by two products of matrices.

    They replace the enlargement of a picture of the nodes, which are the corners for a camera. Its
    result would be stored channel by channel and would have to be transposed.
    """
    shapes = shapes_of(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        enlarged = _enlarged_nodes(node, makers, shapes)
        nodes += (
            [node]
            if enlarged is None
            else _places(model.graph, node, enlarged, shapes[enlarged][2:], shapes[node.output[0]])
        )
    set_nodes(model.graph, nodes)
    drop_unused(model.graph)


def _enlarged_nodes(
    node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], shapes: Mapping[str, Shape]
) -> str | None:
    """Return the nodes (N, 2, h, w) that are enlarged to the positions (N, H, W, 2) of `node`.

    Returns None if `node` makes something else.
    """
    if node.op_type != "Transpose" or attributes(node).get("perm") != [0, 2, 3, 1]:
        return None
    resize = makers.get(node.input[0])
    if resize is None or resize.op_type != "Resize":
        return None
    wanted = {"mode": b"linear", "coordinate_transformation_mode": b"align_corners"}
    if not wanted.items() <= attributes(resize).items():
        return None
    before = shapes.get(resize.input[0], ())[1:]
    after = shapes[node.output[0]][1:]
    if 0 in (*before, *after) or before[0] != PAIR:
        return None
    is_small = max(before[1:]) <= MAX_NODES and all(
        ENLARGEMENT * b <= a for b, a in zip(before[1:], after[:2], strict=True)
    )
    return resize.input[0] if is_small else None


def _places(
    graph: onnx.GraphProto, node: onnx.NodeProto, source: str, small: Shape, shape: Shape
) -> Iterator[onnx.NodeProto]:
    """Yield nodes that compute the positions (N, H, W, 2) from nodes (N, 2, h, w)."""
    _, height, width, pair = shape
    rows, columns = small
    name = node.output[0]
    tables = {
        "rows": _between(rows, height)[None],  # (1, H, h)
        "columns": np.kron(_between(columns, width).T, np.eye(pair, dtype=np.float32)),
        "flat": np.array([0, rows, columns * pair]),
        "grid": np.array([0, height, width, pair]),
    }
    inputs = {key: add_constant(graph, f"{name}_{key}", value) for key, value in tables.items()}
    yield helper.make_node(
        "Transpose", [source], [f"{name}_nodes"], perm=[0, 2, 3, 1]
    )  # (N, h, w, 2)
    yield helper.make_node(
        "Reshape", [f"{name}_nodes", inputs["flat"]], [f"{name}_sides"]
    )  # (N, h, w * 2)
    yield helper.make_node(
        "MatMul", [f"{name}_sides", inputs["columns"]], [f"{name}_edges"]
    )  # (N, h, W * 2)
    yield helper.make_node(
        "MatMul", [inputs["rows"], f"{name}_edges"], [f"{name}_all"]
    )  # (N, H, W * 2)
    yield helper.make_node("Reshape", [f"{name}_all", inputs["grid"]], [name])


def _between(nodes: int, places: int) -> NDArray[np.float32]:
    """Return the weights (places, nodes) of linear interpolation, ends upon ends."""
    positions = np.linspace(0, nodes - 1, places)[:, None]
    return np.maximum(1 - np.abs(positions - np.arange(nodes)), 0).astype(np.float32)
