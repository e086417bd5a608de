"""Sampling grids of a camera as two matrix products."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper

from encoder.codec.tensor_header import Shape
from export.passes.onnx_utils import add_constant, attributes, drop_unused, set_nodes, shapes_of

CORNERS = (2, 2)
"""Rows and columns of the corners between which a camera's sampling positions lie."""


def multiply_places(model: onnx.ModelProto) -> None:
    """Compute a camera's sampling positions by two products of matrices.

    They replace the enlargement of a picture of the corners. Its result would be stored channel by
    channel and would have to be transposed.
    """
    shapes = shapes_of(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        enlarged = _enlarged_corners(node, makers, shapes)
        nodes += (
            [node]
            if enlarged is None
            else _places(model.graph, node, enlarged, shapes[node.output[0]])
        )
    set_nodes(model.graph, nodes)
    drop_unused(model.graph)


def _enlarged_corners(
    node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], shapes: Mapping[str, Shape]
) -> onnx.NodeProto | None:
    """Return the node that enlarges corners (N, 2, 2, 2) to the positions (N, H, W, 2) of `node`.

    Returns None if `node` makes something else.
    """
    if node.op_type != "Transpose" or attributes(node).get("perm") != [0, 2, 3, 1]:
        return None
    resize = makers.get(node.input[0])
    if (
        resize is None
        or resize.op_type != "Resize"
        or shapes.get(resize.input[0], ())[1:] != (2, *CORNERS)
    ):
        return None
    if 0 in shapes[node.output[0]][1:] or shapes[node.output[0]][-1] != len(CORNERS):
        return None
    wanted = {"mode": b"linear", "coordinate_transformation_mode": b"align_corners"}
    return resize if wanted.items() <= attributes(resize).items() else None


def _places(
    graph: onnx.GraphProto, node: onnx.NodeProto, resize: onnx.NodeProto, shape: Shape
) -> Iterator[onnx.NodeProto]:
    """Yield nodes that compute the positions (N, H, W, 2) from the corners."""
    _, height, width, pair = shape
    name = node.output[0]
    down, across = (np.linspace(0, 1, side, dtype=np.float32) for side in (height, width))
    rows = np.stack([1 - down, down], 1)[None]  # (1, H, 2)
    columns = np.kron(
        np.stack([1 - across, across]), np.eye(pair, dtype=np.float32)
    )  # (2 * 2, W * 2)
    tables = {
        "rows": rows,
        "columns": columns,
        "flat": np.array([0, 2, 2 * pair]),
        "grid": np.array([0, height, width, pair]),
    }
    inputs = {key: add_constant(graph, f"{name}_{key}", value) for key, value in tables.items()}
    yield helper.make_node(
        "Transpose", [resize.input[0]], [f"{name}_corners"], perm=[0, 2, 3, 1]
    )  # (N, 2, 2, 2)
    yield helper.make_node(
        "Reshape", [f"{name}_corners", inputs["flat"]], [f"{name}_sides"]
    )  # (N, 2, 2 * 2)
    yield helper.make_node(
        "MatMul", [f"{name}_sides", inputs["columns"]], [f"{name}_edges"]
    )  # (N, 2, W * 2)
    yield helper.make_node(
        "MatMul", [inputs["rows"], f"{name}_edges"], [f"{name}_all"]
    )  # (N, H, W * 2)
    yield helper.make_node("Reshape", [f"{name}_all", inputs["grid"]], [name])
