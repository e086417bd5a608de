"""Rewrites that merge consecutive operators: linear ones, and those that map tanh to colours."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from encoder.codec.tensor_header import Shape
from export.passes.onnx_utils import (
    PICTURE_RANK,
    add_constant,
    attributes,
    drop_unused,
    set_nodes,
    shapes_of,
)


def distribute_heads(model: onnx.ModelProto) -> None:
    """Apply a 1x1 convolution with few outputs to the terms of a sum, before they are enlarged.

    Fewer channels are then enlarged and added. The convolution is merged with the 1x1 convolutions
    that make the terms.
    """
    graph = model.graph
    finder = _Finder(graph, shapes_of(model))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        terms = finder.terms(node.input[0]) if finder.is_narrow(node) else []
        nodes += _distributed(graph, finder, node, terms) if len(terms) > 1 else [node]
    set_nodes(graph, nodes)
    drop_unused(graph)


class _Finder:
    """Index of a graph: the maker and the uses of each value."""

    def __init__(self, graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> None:
        self._shapes = shapes
        self.constants = {x.name: x for x in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._uses = Counter(name for node in graph.node for name in node.input)

    def is_narrow(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node is a 1x1 convolution that leaves at most half of the channels."""
        return (
            self._is_pointwise(node)
            and 2 * self.matrix(node).shape[0] <= self.matrix(node).shape[1]
        )

    def matrix(self, node: onnx.NodeProto) -> NDArray[np.float64]:
        """Return the weights (outputs, inputs) of a 1x1 convolution."""
        return numpy_helper.to_array(self.constants[node.input[1]])[:, :, 0, 0].astype(np.float64)

    def bias(self, node: onnx.NodeProto) -> NDArray[np.float64]:
        """Return the bias (outputs,) of a 1x1 convolution."""
        if len(node.input) == 2:  # noqa: PLR2004 (no bias among its inputs)
            return np.zeros(len(self.matrix(node)))
        return numpy_helper.to_array(self.constants[node.input[2]]).astype(np.float64)

    def terms(self, name: str) -> list[str]:
        """Return the terms of a value that is a sum and used once; otherwise, the value itself."""
        node = self.own(name)
        shape = self._shape(name)
        if node is None or node.op_type != "Add" or len(shape) != PICTURE_RANK or 0 in shape[1:]:
            return [name]
        # A term of another shape is repeated along an axis.
        if any(self._shape(part) != shape for part in node.input):
            return [name]
        return [term for part in node.input for term in self.terms(part)]

    def own(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a value, if the value is used once."""
        return self._makers.get(name) if self._uses[name] == 1 else None

    def own_pointwise(self, name: str) -> onnx.NodeProto | None:
        """Return the 1x1 convolution that makes a value, if the value is used once."""
        node = self.own(name)
        return node if node is not None and self._is_pointwise(node) else None

    def own_resize(self, name: str) -> onnx.NodeProto | None:
        """Return the node that enlarges another value to this one, if this one is used once."""
        node = self.own(name)
        if node is None or node.op_type != "Resize" or attributes(node).get("mode") != b"linear":
            return None
        if self._shape(node.input[0])[:2] != self._shape(name)[:2]:
            return None
        return (
            node
            if attributes(node).get("coordinate_transformation_mode") != b"tf_crop_and_resize"
            else None
        )

    def _shape(self, name: str) -> Shape:
        return self._shapes.get(name, ())

    def _is_pointwise(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Conv" or not all(name in self.constants for name in node.input[1:]):
            return False
        plain = {"group": 1, "strides": [1, 1], "pads": [0, 0, 0, 0], "auto_pad": b"NOTSET"}
        found = attributes(node)
        is_plain = all(found.get(name, value) == value for name, value in plain.items())
        return is_plain and list(self.constants[node.input[1]].dims[2:]) == [1, 1]


def _distributed(
    graph: onnx.GraphProto, finder: _Finder, node: onnx.NodeProto, terms: Sequence[str]
) -> Iterator[onnx.NodeProto]:
    """Yield a convolution for each term of a sum, and the additions.

    The first convolution has the bias of all.
    """
    name = node.output[0]
    weights = finder.matrix(node)
    inner = [finder.own_pointwise(term) for term in terms]
    bias = finder.bias(node) + sum(
        weights @ finder.bias(conv) for conv in inner if conv is not None
    )
    total = ""
    for index, (term, conv) in enumerate(zip(terms, inner, strict=True)):
        part = f"{name}_term{index}"
        resize = finder.own_resize(term)
        source = resize.input[0] if resize is not None else term if conv is None else conv.input[0]
        made = part if resize is None else f"{part}_small"
        matrix = weights if conv is None else weights @ finder.matrix(conv)
        inputs = [
            source,
            add_constant(graph, f"{part}_weights", matrix[:, :, None, None].astype(np.float32)),
        ]
        if index == 0:
            inputs.append(add_constant(graph, f"{part}_bias", bias.astype(np.float32)))
        yield helper.make_node("Conv", inputs, [made])
        if resize is not None:
            yield helper.make_node(
                "Resize", [made, *resize.input[1:]], [part], **attributes(resize)
            )
        if index:
            added = name if index + 1 == len(terms) else f"{name}_sum{index}"
            yield helper.make_node("Add", [total, part], [added])
            part = added
        total = part


def sigmoid_colours(model: onnx.ModelProto) -> None:
    """Replace (tanh(x) + 1) / 2 by the equal sigmoid(2x), which is known to be in 0..1."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {x.name: x for x in graph.initializer}

    def before(node: onnx.NodeProto | None, kind: str, value: float) -> onnx.NodeProto | None:
        """Return the maker of a node's first input, if `kind` and `value` match the node.

        `value` is a number, the node's second input.
        """
        if node is None or node.op_type != kind or node.input[1] not in constants:
            return None
        number = numpy_helper.to_array(constants[node.input[1]])
        return makers.get(node.input[0]) if number.size == 1 and number.item() == value else None

    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        tanh = before(before(node, "Div", 2.0), "Add", 1.0)
        if tanh is None or tanh.op_type != "Tanh":
            nodes.append(node)
            continue
        doubled = f"{node.output[0]}_doubled"
        two = add_constant(graph, f"{doubled}_two", np.float32(2))
        nodes.append(helper.make_node("Mul", [tanh.input[0], two], [doubled]))
        nodes.append(helper.make_node("Sigmoid", [doubled], list(node.output)))
    set_nodes(graph, nodes)
    drop_unused(graph)
