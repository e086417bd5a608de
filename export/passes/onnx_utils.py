"""Common tools for rewriting graphs: shapes, attributes, constants and nodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.shape_inference import infer_shapes

from encoder.codec.tensor_header import Shape

PICTURE_RANK = 4
"""Rank of the tensors that hold pictures and feature maps."""


def shapes_of(model: onnx.ModelProto) -> dict[str, Shape]:
    """Return the shapes of a graph's values; the length of a variable axis is 0."""
    graph = infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {x.name: tuple(dim.dim_value for dim in x.type.tensor_type.shape.dim) for x in values}


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def add_constant(graph: onnx.GraphProto, name: str, value: Any) -> str:
    """Add a constant to a graph; return its name."""
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def set_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Replace the nodes of a graph; drop those that no output needs."""
    needed = {x.name for x in graph.output}
    kept = list[onnx.NodeProto]()
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            kept.append(node)
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drop the constants that no node needs, about which engines complain."""
    used = {name for node in graph.node for name in node.input}
    constants = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
