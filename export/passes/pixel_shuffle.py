"""Rewrites for engines that store feature maps with the channels of a pixel side by side."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.passes.onnx_utils import (
    PICTURE_RANK,
    add_constant,
    attributes,
    drop_unused,
    set_nodes,
    shapes_of,
)

ACTIVATIONS = frozenset({"Gelu", "Relu", "Sigmoid", "Sin", "Tanh"})
"""Operators that treat each number by itself."""
FEW_CHANNELS = 4
"""Maximum number of channels of a picture whose planes are enlarged separately."""


def shuffle_last(model: onnx.ModelProto) -> None:
    """Move activations before the PixelShuffle that they follow.

    Engines then compute them together with the convolution before.
    """
    graph = model.graph
    users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    nodes: list[onnx.NodeProto] = []
    moved: set[str] = set()
    for node in graph.node:
        if moved.intersection(node.output):
            continue
        activation = _activation(node.output[0], users) if node.op_type == "DepthToSpace" else []
        if not activation:
            nodes.append(node)
            continue
        before = node.output[0]
        after = activation[-1].output[0]
        names = {before: node.input[0]} | {
            part.output[0]: f"{part.output[0]}_unshuffled" for part in activation
        }
        for part in activation:
            inputs = [names[name] for name in part.input]
            output = names[part.output[0]]
            nodes.append(helper.make_node(part.op_type, inputs, [output], **attributes(part)))
        nodes.append(helper.make_node("DepthToSpace", [names[after]], [after], **attributes(node)))
        moved.update(part.output[0] for part in activation)
    set_nodes(graph, nodes)


def _activation(name: str, users: Mapping[str, Sequence[onnx.NodeProto]]) -> list[onnx.NodeProto]:
    """Return the nodes of an activation of a value: a single one, or x sigmoid(x).

    Returns an empty list if anything else uses the value.
    """
    kinds = {node.op_type: node for node in users[name]}
    if len(users[name]) == 1 and kinds.keys() <= ACTIVATIONS:
        return [*kinds.values()]
    if len(users[name]) == len(kinds) and kinds.keys() == {"Mul", "Sigmoid"}:
        gate = kinds["Sigmoid"]
        product = kinds["Mul"]
        if set(product.input) == {name, gate.output[0]} and len(users[gate.output[0]]) == 1:
            return [gate, product]
    return []


def whole_pixels(model: onnx.ModelProto) -> None:
    """Reorder the input channels of a PixelShuffle so that it moves whole pixels.

    Otherwise, the numbers of a pixel lie apart in the input. The weights of the convolution before
    are reordered.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {x.name: x for x in graph.initializer}
    uses: dict[str, int] = defaultdict(int)
    for node in graph.node:
        for name in {*node.input}:
            uses[name] += 1
    for node in graph.node:
        if node.op_type != "DepthToSpace" or attributes(node).get("mode") != b"CRD":
            continue
        conv = _convolution(node.input[0], makers, uses)
        if conv is None or not all(name in constants for name in conv.input[1:]):
            continue
        parts = attributes(node)["blocksize"] ** 2
        for index in range(1, len(conv.input)):
            values = numpy_helper.to_array(constants[conv.input[index]])
            order = np.arange(len(values)).reshape(-1, parts).T.ravel()
            conv.input[index] = add_constant(
                graph, f"{node.output[0]}_ordered{index}", values[order]
            )
        node.CopyFrom(
            helper.make_node(
                "DepthToSpace", node.input, node.output, **attributes(node) | {"mode": "DCR"}
            )
        )
    drop_unused(graph)


def _convolution(
    name: str, makers: Mapping[str, onnx.NodeProto], uses: Mapping[str, int], users: int = 1
) -> onnx.NodeProto | None:
    """Return the convolution before a value that has `users` users.

    Only activations may lie between both. Returns None if there is no such convolution.
    """
    node = makers.get(name)
    if node is None or uses[name] != users:
        return None
    if node.op_type in ACTIVATIONS:
        return _convolution(node.input[0], makers, uses)
    if node.op_type == "Mul":
        gate = next(
            (
                makers[part]
                for part in node.input
                if part in makers and makers[part].op_type == "Sigmoid"
            ),
            None,
        )
        if (
            gate is not None
            and set(node.input) == {*gate.input, *gate.output}
            and uses[gate.output[0]] == 1
        ):
            return _convolution(gate.input[0], makers, uses, users=2)
    return node if node.op_type == "Conv" and attributes(node).get("group", 1) == 1 else None


def single_planes(model: onnx.ModelProto) -> None:
    """Enlarge the planes of a picture as pictures of their own.

    With three channels per pixel, vectors would be half empty.
    """
    shapes = shapes_of(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        name = node.output[0]
        before = shapes.get(node.input[0], ())
        after = shapes.get(node.output[0], ())
        is_picture = (
            len(before) == len(after) == PICTURE_RANK
            and before[1] == after[1]
            and 0 not in after[1:]
        )
        if node.op_type != "Resize" or not is_picture or not 1 < before[1] <= FEW_CHANNELS:
            nodes.append(node)
            continue
        apart = add_constant(model.graph, f"{name}_apart", np.array([-1, 1, *before[2:]]))
        together = add_constant(model.graph, f"{name}_together", np.array([-1, *after[1:]]))
        nodes += [
            helper.make_node("Reshape", [node.input[0], apart], [f"{name}_planes"]),
            helper.make_node(
                "Resize",
                [f"{name}_planes", *node.input[1:]],
                [f"{name}_enlarged"],
                **attributes(node),
            ),
            helper.make_node("Reshape", [f"{name}_enlarged", together], [name]),
        ]
    set_nodes(model.graph, nodes)
