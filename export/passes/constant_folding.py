"""Constant folding: values that do not depend on the time are computed once."""

from collections.abc import Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from encoder.codec.graph_names import TIME
from encoder.common.onnx_runtime import Session
from export.passes.onnx_utils import drop_unused, set_nodes


def fold_constants(model: onnx.ModelProto) -> None:
    """Replace values that do not depend on the time, such as those of a static scene, by constants.

    Raises EngineError if they cannot be computed.
    """
    graph = model.graph
    varying = {TIME}
    still = list[onnx.NodeProto]()
    kept = list[onnx.NodeProto]()
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


def _computed(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]
) -> list[NDArray[Any]]:
    """Return the outputs of nodes that need no input."""
    used = {name for node in nodes for name in node.input}
    constants = [constant for constant in model.graph.initializer if constant.name in used]
    graph = helper.make_graph(
        nodes,
        "constants",
        [],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        constants,
    )
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return Session(part).outputs({})
