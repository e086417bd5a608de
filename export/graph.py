"""ONNX graphs of a clip's segments: networks with weights, and a tail that makes 8-bit pictures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.shape_inference import InferenceError

from encoder.codec.clip import SegmentModels
from encoder.codec.container import Header
from encoder.codec.graph_limits import RGB
from encoder.codec.graph_names import FRAMES
from encoder.common.errors import EngineError, first_line
from export.passes.camera_grid import multiply_places
from export.passes.constant_folding import fold_constants
from export.passes.fp16 import half_precision
from export.passes.i420 import (
    CHROMA,
    CHROMA_OFFSET,
    FARTHEST,
    LUMA,
    LUMA_OFFSET,
    MAX_STEP,
    UV_PLANES,
    Y_PLANE,
    split_colours,
)
from export.passes.onnx_utils import add_constant, attributes
from export.passes.pixel_shuffle import shuffle_last, single_planes, whole_pixels
from export.passes.pointwise import distribute_heads, sigmoid_colours
from export.passes.sine import polynomial_sines

Picture = NDArray[np.uint8]
PixelFormat = Literal["i420", "rgb"]
Precision = Literal["fp32", "bf16", "fp16"]
"""Precision of a network's feature maps. With bf16, the graph is in fp32, and the engine computes
in bfloat16."""
TOLERANCE_STEPS: Mapping[Precision, int] = {"fp32": 1, "bf16": 4, "fp16": 4}
"""Largest difference from the reference decoder, in 8-bit steps, that counts as rounding."""
OUTPUT = "frames"
"""Name of the output of an exported graph."""

Rewrite = Callable[[onnx.ModelProto], None]
REWRITES: tuple[Rewrite, ...] = (
    fold_constants,
    distribute_heads,
    sigmoid_colours,
    shuffle_last,
    whole_pixels,
    single_planes,
)
"""Passes over a network that make it faster and leave its pictures the same, in their order."""
AVERAGING = (b"linear", b"bilinear")
"""Modes of GridSample that stay between the values of pixels. Versions of the operator name one
mode differently."""


def build_graph(
    models: SegmentModels,
    segment: int,
    *,
    pixels: PixelFormat = "i420",
    precision: Precision = "fp32",
    polynomials: bool = False,
    products: bool = False,
    rewrites: Sequence[Rewrite] = REWRITES,
) -> onnx.ModelProto:
    """Return the graph that maps times `t`, float32 (N,), to `frames`, uint8.

    Times count frames since the segment's start. As I420, frames are (N, H * 3 / 2, W) with the
    planes Y, U and V one after the other. H and W are rounded up to even numbers. As RGB, frames
    are (N, 3, H, W). With `polynomials`, sines are computed as polynomials. With `products`, the
    places of a camera are products of matrices, which must not be rounded to less than fp32.
    `rewrites` are the passes over the network. Raises BitstreamError for damaged weights,
    EngineError for a network that cannot be rewritten.
    """
    model = models.model(segment)
    try:
        if pixels == "i420" and rewrites and models.header.even_size == _size(model):
            split_colours(model)
        for rewrite in (multiply_places, *rewrites) if products else rewrites:
            rewrite(model)
        return _finished(model, models.header, pixels, precision, polynomials=polynomials)
    except (InferenceError, ValueError) as error:
        raise EngineError(f"the network cannot be rewritten: {first_line(error)}") from None


def _finished(
    model: onnx.ModelProto,
    header: Header,
    pixels: PixelFormat,
    precision: Precision,
    *,
    polynomials: bool,
) -> onnx.ModelProto:
    if polynomials:
        polynomial_sines(model)
    tail = _Tail(model.graph)
    if pixels == "i420":
        tail.i420(*header.even_size)
    else:
        tail.rgb(header.height, header.width)
    return half_precision(model) if precision == "fp16" else model


def _size(model: onnx.ModelProto) -> tuple[int, ...]:
    """Return the height and width of a network's pictures."""
    return tuple(dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim[2:])


def black(header: Header, pixels: PixelFormat) -> NDArray[np.uint8]:
    """Return a black picture (1, ...) with the shape and colours of the graphs' frames."""
    if pixels == "rgb":
        return np.zeros((1, 3, header.height, header.width), np.uint8)
    height, width = header.even_size
    picture = np.full((1, height * 3 // 2, width), CHROMA_OFFSET, np.uint8)
    picture[:, :height] = LUMA_OFFSET
    return picture


class _Tail:
    """Builder that appends nodes to a graph and makes the last one its output."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph

    def i420(self, height: int, width: int) -> None:
        shape = (height * 3 // 2, width)
        if [output.name for output in self._graph.output] == [Y_PLANE, UV_PLANES]:
            planes = (
                self._flat(Y_PLANE, (height, width)),
                self._flat(UV_PLANES, (height // 2, width)),  # U above V
            )
            self._finish(self._limited(self._node("Concat", "planes", planes, axis=1)), shape)
            return
        x, is_limited = self._picture(height, width)
        if not is_limited:
            x = self._clip("colours", x, -FARTHEST, FARTHEST)
        # At half the size, each sample lies between four pixels and is their mean. Engines pool
        # only pictures that are stored pixel by pixel.
        scales = self._constant("half", np.array([1, 1, 0.5, 0.5], np.float32))
        halves = self._node("Resize", "halves", [x, "", scales], mode="linear")  # (N, 3, H/2, W/2)
        y = self._convert("luma", x, [LUMA], LUMA_OFFSET, (height, width))
        uv = self._convert(
            "chroma", halves, CHROMA, CHROMA_OFFSET, (height // 2, width)
        )  # U above V
        planes = self._node("Concat", "planes", [y, uv], axis=1)
        self._finish(planes if is_limited else self._limited(planes), shape)

    def rgb(self, height: int, width: int) -> None:
        x, is_limited = self._picture(height, width)
        scaled = self._node(
            "Mul", "scaled", [x, self._constant("white", np.array(255, np.float32))]
        )
        self._finish(scaled if is_limited else self._limited(scaled), (3, height, width))

    def _picture(self, height: int, width: int) -> tuple[str, bool]:
        """Return the network's output without its padding, and whether it is known in 0..1."""
        size = self._graph.output[0].type.tensor_type.shape.dim[2:]
        x = FRAMES
        if [dim.dim_value for dim in size] != [height, width]:
            bounds = [
                self._constant(name, np.array(values))
                for name, values in (
                    ("crop_from", [0, 0]),
                    ("crop_to", [height, width]),
                    ("crop_axes", [2, 3]),
                )
            ]
            x = self._node("Slice", "cropped", [x, *bounds])
        makers = {name: node for node in self._graph.node for name in node.output}
        return x, _is_colour(FRAMES, makers)

    def _limited(self, x: str) -> str:
        """Return values in 8-bit steps, limited to those that 8 bits have."""
        return self._clip("limited", x, 0, MAX_STEP)

    def _clip(self, name: str, x: str, lowest: float, highest: float) -> str:
        limits = [
            self._constant(f"{name}_{end}", np.array(value, np.float32))
            for end, value in (("lowest", lowest), ("highest", highest))
        ]
        return self._node("Clip", name, [x, *limits])

    def _flat(self, x: str, plane: tuple[int, int]) -> str:
        """Return planes (N, C, h, w) one above the other, (N, *plane)."""
        return self._node(
            "Reshape", f"{x}_flat", [x, self._constant(f"{x}_shape", np.array([0, *plane]))]
        )

    def _convert(
        self,
        name: str,
        x: str,
        rows: Sequence[Sequence[float]],
        offset: float,
        plane: tuple[int, int],
    ) -> str:
        """Return weighted sums of the channels, one above the other, (N, *plane).

        Engines would rearrange pixels in memory for a convolution, so this is a product of
        matrices.
        """
        flat = self._node(
            "Reshape",
            f"{name}_pixels",
            [x, self._constant(f"{name}_pixels_shape", np.array([0, RGB, -1]))],
        )
        factors = self._constant(f"{name}_factors", np.array(rows, np.float32)[None])
        total = self._node("MatMul", f"{name}_sums", [factors, flat])  # (N, rows, pixels)
        moved = self._node(
            "Add", f"{name}_values", [total, self._constant(f"{name}_offset", np.float32(offset))]
        )
        return self._node(
            "Reshape", name, [moved, self._constant(f"{name}_shape", np.array([0, *plane]))]
        )

    def _finish(self, x: str, shape: Sequence[int]) -> None:
        # TensorRT supports uint8 only at its inputs and outputs: the cast comes last.
        rounded = self._node("Round", "rounded", [x])
        self._graph.node.append(
            helper.make_node("Cast", [rounded], [OUTPUT], name=OUTPUT, to=onnx.TensorProto.UINT8)
        )
        del self._graph.output[:]
        self._graph.output.append(
            helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.UINT8, ["N", *shape])
        )

    def _node(self, kind: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"tail_{name}"
        self._graph.node.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        return add_constant(self._graph, f"tail_{name}", value)


def _is_colour(name: str, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Tell whether a value is known to be in 0..1.

    Such a value is a sigmoid, possibly rearranged or interpolated between its pixels.
    """
    while (node := makers.get(name)) is not None and node.op_type != "Sigmoid":
        if (
            node.op_type == "GridSample"
            and attributes(node).get("mode", AVERAGING[0]) not in AVERAGING
        ):
            return False
        if node.op_type not in ("GridSample", "DepthToSpace", "Slice"):
            return False
        name = node.input[0]
    return node is not None
