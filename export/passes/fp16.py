"""Half precision as a property of the graph, as strongly typed engines need it."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from export.passes.onnx_utils import PICTURE_RANK, drop_unused

ALWAYS_FULL = {"Resize": (1, 2)}
"""Inputs that an operator takes in 32 bits, whatever the types of the others."""
FULL_OPERATORS = ("Cast", "GridSample")
"""Operators that stay in 32 bits. An engine may want grid and picture to have the same type. 16
bits are too few for sampling positions."""


def half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its pictures and feature maps in 16 bits.

    Times stay in 32 bits, as do all values computed from them until these have the shape of a
    picture. Sampling positions stay in 32 bits too. In 16 bits, neither two frames of a long
    segment nor two pixels can be distinguished. The types of input and output stay.
    """
    return _Converter(model).run()


class _Converter:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._result = onnx.ModelProto()
        self._result.CopyFrom(model)
        graph = infer_shapes(model, strict_mode=True).graph
        values = (*graph.value_info, *graph.output, *graph.input)
        self._ranks = {x.name: len(x.type.tensor_type.shape.dim) for x in values}
        self._float = {x.name for x in values if x.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._constants = {x.name: x for x in model.graph.initializer}
        self._float |= {x.name for x in model.graph.initializer if x.data_type == TensorProto.FLOAT}
        self._places = _ancestors(
            model.graph, {x.input[1] for x in model.graph.node if x.op_type == "GridSample"}
        )
        self._half: set[str] = set()
        self._casts: dict[tuple[str, int], str] = {}

    def run(self) -> onnx.ModelProto:
        graph = self._result.graph
        nodes = list(graph.node)
        del graph.node[:]
        for node in nodes:
            output = node.output[0]
            half = (
                output in self._float
                and self._ranks[output] >= PICTURE_RANK
                and output not in self._places
            )
            half = half and node.op_type not in FULL_OPERATORS
            for index, name in enumerate(node.input):
                if name in self._float and node.op_type != "Cast":
                    full = not half or index in ALWAYS_FULL.get(node.op_type, ())
                    node.input[index] = self._as(
                        name, TensorProto.FLOAT if full else TensorProto.FLOAT16
                    )
            if half:
                self._half.update(node.output)
            graph.node.append(node)
        drop_unused(graph)
        return self._result

    def _as(self, name: str, kind: int) -> str:
        """Return the name of a value in a given type; convert the value if necessary."""
        if (kind == TensorProto.FLOAT16) == (name in self._half):
            return name
        if (name, kind) not in self._casts:
            self._casts[name, kind] = self._convert(name, kind)
        return self._casts[name, kind]

    def _convert(self, name: str, kind: int) -> str:
        converted = f"{name}_{'half' if kind == TensorProto.FLOAT16 else 'full'}"
        if name in self._constants:
            values = numpy_helper.to_array(self._constants[name]).astype(np.float16)
            self._result.graph.initializer.append(numpy_helper.from_array(values, converted))
        else:
            self._result.graph.node.append(
                helper.make_node("Cast", [name], [converted], name=converted, to=kind)
            )
        return converted


def _ancestors(graph: onnx.GraphProto, names: set[str]) -> set[str]:
    """Return values and all values from which they are computed."""
    found = set(names)
    for node in reversed(graph.node):
        if found.intersection(node.output):
            found.update(node.input)
    return found
