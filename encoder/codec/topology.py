"""The topology of a clip: the ONNX graph of its network.

Input `t` is float32 (N,): the time in frames since the segment's start.
Each further input is a coded tensor, float32 of fixed shape.
Output `rgb` is float32 (N, 3, H, W) in 0..1. H and W are at least the frame's.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import prod
from typing import Self

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from encoder.codec.container import VERSION
from encoder.codec.graph_limits import RGB, check_values
from encoder.codec.graph_names import FRAMES, TIME, from_refs, to_refs
from encoder.codec.tensor_header import Shape
from encoder.common.errors import BitstreamError

MAX_BYTES = 1 << 20
"""Largest size of an unpacked topology, in bytes."""
MAX_NODES = 4096
"""Largest number of nodes."""
MAX_TENSORS = 1024
"""Largest number of coded tensors."""
MAX_WEIGHTS = 1 << 25
"""Largest number of weights of a segment."""
OPERATORS = frozenset(
    {
        "Abs",
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Cast",
        "Ceil",
        "Clip",
        "Concat",
        "Constant",
        "Conv",
        "Cos",
        "DepthToSpace",
        "Div",
        "Erf",
        "Exp",
        "Expand",
        "Floor",
        "Gather",
        "Gelu",
        "Gemm",
        "GlobalAveragePool",
        "GridSample",
        "InstanceNormalization",
        "LayerNormalization",
        "LeakyRelu",
        "Log",
        "MatMul",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "Pad",
        "Pow",
        "ReduceMean",
        "Relu",
        "Reshape",
        "Resize",
        "Sigmoid",
        "Sin",
        "Slice",
        "Softmax",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that a graph may have. None has a subgraph, reads a file or keeps state."""
ATTRIBUTES = frozenset(
    {
        onnx.AttributeProto.FLOAT,
        onnx.AttributeProto.FLOATS,
        onnx.AttributeProto.INT,
        onnx.AttributeProto.INTS,
        onnx.AttributeProto.STRING,
        onnx.AttributeProto.TENSOR,
    }
)
"""Kinds of attributes that a node may have. None of them is a graph."""
OPSETS = range(18, 24)
IR_VERSIONS = range(8, 13)


@cache
def dictionary(version: int = VERSION) -> bytes:
    """Return the preset dictionary of a topology's DEFLATE stream, a part of the format."""
    return files("encoder.codec").joinpath(f"dictionary{version}.bin").read_bytes()


@dataclass(frozen=True)
class Topology:
    """A checked graph."""

    model: onnx.ModelProto
    tensors: Mapping[str, Shape]
    """Name and shape of each coded tensor, in the order of the bitstream."""
    peak_values: int
    """Largest number of elements needed at once for one frame, weights included."""
    packed: bytes
    """Payload of the topology chunk.

    It is kept as read, because another DEFLATE may pack the same graph differently.
    """
    version: int = VERSION
    """Version of the file, which tells the dictionary that the graph is packed with."""

    @classmethod
    def check(cls, model: onnx.ModelProto) -> Self:
        """Check a graph and return its topology, in which its values have other names.

        Raises BitstreamError if the graph breaks a rule.
        """
        packer = zlib.compressobj(9, wbits=-15, memLevel=9, zdict=dictionary())
        return cls.parse(
            packer.compress(to_refs(model).SerializeToString(deterministic=True)) + packer.flush()
        )

    @classmethod
    def parse(cls, data: bytes, version: int = VERSION) -> Self:
        """Read the payload of a topology chunk of a file of a version.

        Raises BitstreamError if it is invalid.
        """
        unpacker = zlib.decompressobj(wbits=-15, zdict=dictionary(version))
        try:
            unpacked = unpacker.decompress(data, MAX_BYTES + 1)
        except zlib.error as error:
            raise BitstreamError(f"topology cannot be unpacked: {error}") from None
        if not unpacker.eof or unpacker.unused_data or len(unpacked) > MAX_BYTES:
            raise BitstreamError(
                f"topology is cut off, followed by something, or larger than {MAX_BYTES} bytes"
            )
        places = onnx.ModelProto()
        try:
            places.ParseFromString(unpacked)
        except DecodeError:
            raise BitstreamError("topology is not an ONNX model") from None
        model = from_refs(places)
        _check_model(model)
        for node in model.graph.node:
            _check_node(node)
        return cls(model, _tensors(model.graph), check_values(model, FRAMES), data, version)

    @property
    def weights(self) -> int:
        """Number of coded weights of a segment."""
        return sum(prod(shape) for shape in self.tensors.values())

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Height and width of the frames that the graph declares: at least the clip's."""
        *_, height, width = self.model.graph.output[0].type.tensor_type.shape.dim
        return height.dim_value, width.dim_value

    def bind(self, weights: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
        """Return the model with the coded tensors as initializers and `t` as its only input."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.input[1:]
        model.graph.initializer.extend(
            numpy_helper.from_array(weights[name], name) for name in self.tensors
        )
        return model


def _check_model(model: onnx.ModelProto) -> None:
    graph = model.graph
    if (
        len(model.opset_import) != 1
        or model.opset_import[0].domain
        or model.opset_import[0].version not in OPSETS
    ):
        raise BitstreamError(
            f"topology must use ONNX's own operators, of version {OPSETS[0]} to {OPSETS[-1]}"
        )
    if model.ir_version not in IR_VERSIONS:
        raise BitstreamError(
            f"topology must be of ONNX's format {IR_VERSIONS[0]} to {IR_VERSIONS[-1]}, "
            f"got {model.ir_version}"
        )
    if model.functions or model.training_info or graph.sparse_initializer or graph.value_info:
        raise BitstreamError(
            "topology has functions, training steps, sparse tensors or sizes of inner values"
        )
    if len(graph.node) > MAX_NODES:
        raise BitstreamError(f"topology has {len(graph.node)} nodes, over {MAX_NODES}")
    for constant in graph.initializer:
        _check_constant(constant)
    if [x.name for x in graph.output] != [FRAMES] or [x.name for x in graph.input[:1]] != [TIME]:
        raise BitstreamError(f"topology must map {TIME!r} to {FRAMES!r}")
    time = graph.input[0].type.tensor_type
    frames = graph.output[0].type.tensor_type
    if (
        time.elem_type != onnx.TensorProto.FLOAT
        or len(time.shape.dim) != 1
        or time.shape.dim[0].dim_value
    ):
        raise BitstreamError(f"{TIME!r} must be float32 of shape (N,)")
    channels = [dim.dim_value for dim in frames.shape.dim[1:-2]]
    batch = frames.shape.dim[0].dim_value if frames.shape.dim else 0
    if frames.elem_type != onnx.TensorProto.FLOAT or channels != [RGB] or batch:
        raise BitstreamError(f"{FRAMES!r} must be float32 of shape (N, 3, H, W)")


def _check_node(node: onnx.NodeProto) -> None:
    if node.domain or node.op_type not in OPERATORS:
        raise BitstreamError(
            f"operator {node.domain}{'.' * bool(node.domain)}{node.op_type} is not allowed"
        )
    if not all(node.output):
        # ONNX Runtime crashes on some operators with an output left out.
        raise BitstreamError(f"operator {node.op_type} leaves an output out")
    for attribute in node.attribute:
        if attribute.type not in ATTRIBUTES:
            raise BitstreamError(
                f"attribute {attribute.name} of {node.op_type} is of a kind that is not allowed"
            )
        if attribute.type == onnx.AttributeProto.TENSOR:
            _check_constant(attribute.t)


def _check_constant(tensor: onnx.TensorProto) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise BitstreamError(f"constant {tensor.name!r} lies outside the clip")
    if min(tensor.dims, default=1) < 0 or prod(tensor.dims) > MAX_BYTES:
        raise BitstreamError(f"constant {tensor.name!r} must have at most {MAX_BYTES} elements")


def _tensors(graph: onnx.GraphProto) -> dict[str, Shape]:
    inputs = graph.input[1:]
    if not 0 < len(inputs) <= MAX_TENSORS:
        raise BitstreamError(
            f"topology must have 1..{MAX_TENSORS} coded tensors, got {len(inputs)}"
        )
    tensors: dict[str, Shape] = {}
    for value in inputs:
        kind = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in kind.shape.dim)
        if kind.elem_type != onnx.TensorProto.FLOAT or not shape or min(shape) < 1:
            raise BitstreamError(
                f"coded tensor {value.name!r} must be float32 of fixed shape, got {shape}"
            )
        tensors[value.name] = shape
    if sum(prod(shape) for shape in tensors.values()) > MAX_WEIGHTS:
        raise BitstreamError(f"topology has over {MAX_WEIGHTS} weights")
    return tensors
