"""I420 pictures: BT.601's conversion of colours, and networks that make luma and chroma apart."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from encoder.codec.graph_limits import RGB
from encoder.codec.graph_names import FRAMES
from encoder.codec.tensor_header import Shape
from export.passes.onnx_utils import add_constant, attributes, drop_unused, set_nodes, shapes_of

# BT.601, limited range, for RGB in 0..1. FFmpeg and browsers assume it for video that declares no
# colours, such as VP8.
LUMA = (65.481, 128.553, 24.966)
CHROMA = ((-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
LUMA_OFFSET = 16.0
CHROMA_OFFSET = 128.0
MAX_STEP = 255
"""Largest value of 8 bits."""
Y_PLANE = "y_plane"
UV_PLANES = "uv_planes"
"""Names of the values of planes, (N, 1, H, W) and (N, 2, H / 2, W / 2), in 8-bit steps."""
TOLERANCE = 0.05
"""Largest value of another plane by a chroma channel of 1, in 8-bit steps, to be left out."""

FARTHEST = 16.0
"""Largest colour, since sums of infinite ones would be no numbers; planes end long before."""
INPUTS = 2
"""Inputs of a convolution without a bias."""
PLAIN: Mapping[str, object] = {
    "auto_pad": b"NOTSET",
    "dilations": [1, 1],
    "group": 1,
    "pads": [0, 0, 0, 0],
    "strides": [1, 1],
}
"""Attributes of a convolution that maps each pixel by itself."""

Picture = NDArray[np.uint8]
Scale = float | NDArray[np.float64]


def planes_of(colours: NDArray[np.float32]) -> tuple[Picture, Picture, Picture]:
    """Convert RGB (3, H, W) of even size, 0..1 for black to white, to Y (H, W), U and V (H/2, W/2).

    This is the tail of exported graphs in numpy, for comparisons. Colours out of range are not
    clipped to it: whoever shows the picture clips the RGB that they convert it to.
    """
    _, height, width = colours.shape
    colours = colours.clip(-FARTHEST, FARTHEST)
    halves = colours.reshape(3, height // 2, 2, width // 2, 2).mean((2, 4))
    sources = (
        (LUMA, colours, LUMA_OFFSET),
        (CHROMA[0], halves, CHROMA_OFFSET),
        (CHROMA[1], halves, CHROMA_OFFSET),
    )
    y, u, v = (
        np.rint(np.tensordot(row, pixels, 1) + offset).clip(0, MAX_STEP).astype(np.uint8)
        for row, pixels, offset in sources
    )
    return y, u, v


@dataclass(frozen=True)
class _Colours:
    """Parts of a picture: RGB is the luma plus enlarged differences of its colours from it."""

    luma: str
    """Name of the luma (N, 1, H, W)."""
    chroma: str
    """Name of the chroma (N, 2, H / 2, W / 2)."""
    scale: NDArray[np.float64]
    """Factors (2,) from the chroma to U and V, in 8-bit steps."""


def split_colours(model: onnx.ModelProto) -> None:
    """Make Y_PLANE and UV_PLANES the outputs of a network that adds up its RGB from such planes.

    Other networks are left as they are. RGB would be made at the full size, and its chroma be
    enlarged first and reduced again by the conversion.
    """
    shapes = shapes_of(model)
    found = _find(model.graph, shapes)
    if found is None:
        return
    _, _, height, width = shapes[FRAMES]
    graph = model.graph
    factor = add_constant(graph, f"{Y_PLANE}_factor", np.float32(sum(LUMA)))
    offset = add_constant(graph, f"{Y_PLANE}_offset", np.float32(LUMA_OFFSET))
    graph.node.extend(
        [
            helper.make_node("Mul", [found.luma, factor], [f"{Y_PLANE}_scaled"]),
            helper.make_node("Add", [f"{Y_PLANE}_scaled", offset], [Y_PLANE]),
        ]
    )
    rows = _average(graph, found.chroma, f"{UV_PLANES}_rows", axis=2, length=height // 2)
    scale = found.scale.reshape(1, 2, 1, 1)
    mean = _average(graph, rows, f"{UV_PLANES}_mean", axis=3, length=width // 2, scale=scale)
    middle = add_constant(graph, f"{UV_PLANES}_offset", np.float32(CHROMA_OFFSET))
    graph.node.append(helper.make_node("Add", [mean, middle], [UV_PLANES]))
    del graph.output[:]
    for name, shape in ((Y_PLANE, (1, height, width)), (UV_PLANES, (2, height // 2, width // 2))):
        graph.output.append(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *shape])
        )
    set_nodes(graph, list(graph.node))
    drop_unused(graph)


def _find(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> _Colours | None:
    """Return the parts of a network's picture, if it has such parts."""
    makers = {name: node for node in graph.node for name in node.output}
    _, _, height, width = shapes[FRAMES]
    add = makers[FRAMES]
    if add.op_type != "Add":
        return None
    luma, enlarged = sorted(add.input, key=lambda name: shapes.get(name, ())[1:])
    small = _enlarged(makers.get(enlarged))
    is_made_so = (
        shapes.get(luma) == (0, 1, height, width)
        and shapes.get(enlarged) == (0, RGB, height, width)
        and shapes.get(small) == (0, RGB, height / 2, width / 2)
        and small in makers
    )
    differences = _matrix(makers[small], graph) if is_made_so else None
    if differences is None:
        return None
    planes = np.array([LUMA, *CHROMA]) @ differences  # Y, U and V by both channels
    scale = np.diag(planes[1:])
    if np.abs(planes - [[0, 0], [scale[0], 0], [0, scale[1]]]).max() > TOLERANCE:
        return None
    return _Colours(luma, makers[small].input[0], scale)


def _enlarged(node: onnx.NodeProto | None) -> str:
    """Return the value that a node enlarges, corners upon corners; "" for another node."""
    wanted = {"mode": b"linear", "coordinate_transformation_mode": b"align_corners"}
    if node is None or node.op_type != "Resize" or not wanted.items() <= attributes(node).items():
        return ""
    return node.input[0]


def _matrix(node: onnx.NodeProto, graph: onnx.GraphProto) -> NDArray[np.float64] | None:
    """Return the weights (3, 2) of a 1x1 convolution without a bias; None for another node."""
    constants = {x.name: x for x in graph.initializer}
    if node.op_type != "Conv" or len(node.input) != INPUTS or node.input[1] not in constants:
        return None
    found = attributes(node)
    if any(found.get(name, value) != value for name, value in PLAIN.items()):
        return None
    weights = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
    return weights[:, :, 0, 0] if weights.shape == (RGB, 2, 1, 1) else None


def _average(
    graph: onnx.GraphProto, source: str, result: str, *, axis: int, length: int, scale: Scale = 1.0
) -> str:
    """Average pairs of samples of an enlargement to twice the size, corners upon corners.

    With a step s = (L - 1) / (2L - 1) in the source, samples 2i and 2i + 1 of the enlargement lie
    w = i / (2L - 1) before sample i of the source, and s - w behind it. Their mean is
    w / 2 x[i - 1] + (1 - s / 2) x[i] + (s - w) / 2 x[i + 1]. At both ends, the sample that is
    missing has no weight. The averages are multiplied by `scale`.
    """
    step = (length - 1) / (2 * length - 1)
    before = np.arange(length) / (2 * length - 1)
    shape = [1, 1, 1, 1]
    shape[axis] = length
    weights = {
        "before": before.reshape(shape) / 2,
        "here": np.full((1, 1, 1, 1), 1 - step / 2),
        "behind": (step - before).reshape(shape) / 2,
    }
    # TensorRT for RTX fails at a Pad and a Slice in their place where a side is odd.
    parts = {"here": source}
    for name, move in (("before", -1), ("behind", 1)):
        places = np.clip(np.arange(length) + move, 0, length - 1)
        parts[name] = f"{result}_{name}"
        inputs = [source, add_constant(graph, f"{result}_{name}_places", places)]
        graph.node.append(helper.make_node("Gather", inputs, [parts[name]], axis=axis))
    for name, weight in weights.items():
        values = (weight * scale).astype(np.float32)
        inputs = [parts[name], add_constant(graph, f"{result}_{name}_weight", values)]
        graph.node.append(helper.make_node("Mul", inputs, [f"{result}_{name}_part"]))
    near = f"{result}_near"
    sides = [f"{result}_before_part", f"{result}_behind_part"]
    graph.node.append(helper.make_node("Add", sides, [near]))
    graph.node.append(helper.make_node("Add", [near, f"{result}_here_part"], [result]))
    return result
