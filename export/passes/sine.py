"""Sines of feature maps as polynomials."""

from collections.abc import Iterator, Mapping
from math import pi

import numpy as np
import onnx
from onnx import helper

from export.passes.onnx_utils import PICTURE_RANK, add_constant, set_nodes, shapes_of

SINE_TERMS = 6
"""Number of terms of the polynomial that replaces a sine. In the usual ranges, its error is below
that of single precision."""


SINE_NODES = 4096
"""Number of points at which the polynomial is fitted."""


def polynomial_sines(model: onnx.ModelProto) -> None:
    """Replace the sines of feature maps by polynomials.

    This suits engines that compute sines one by one.
    """
    shapes = shapes_of(model)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type != "Sin" or len(shapes.get(node.output[0], ())) < PICTURE_RANK:
            nodes.append(node)
            continue
        if not constants:
            values = {"turn": 1 / (2 * pi)} | {
                f"term{index}": term for index, term in enumerate(_sine_terms())
            }
            constants = {
                key: add_constant(model.graph, f"sine_{key}", np.float32(value))
                for key, value in values.items()
            }
        nodes += _sine(node.input[0], node.output[0], constants)
    set_nodes(model.graph, nodes)


def _sine_terms() -> list[float]:
    """Return the factors of x, x^3, ... that best fit the sine of x turns, for x in -1/2..1/2."""
    # Nodes of Chebyshev's polynomials.
    x = np.cos(pi * (np.arange(SINE_NODES) + 0.5) / SINE_NODES) / 2
    powers = x[:, None] ** np.arange(1, 2 * SINE_TERMS, 2)
    return np.linalg.lstsq(powers, np.sin(2 * pi * x), rcond=None)[0].tolist()


def _sine(x: str, name: str, constants: Mapping[str, str]) -> Iterator[onnx.NodeProto]:
    """Yield nodes that compute a sine by Horner's scheme, after subtracting whole turns."""
    yield helper.make_node("Mul", [x, constants["turn"]], [f"{name}_turns"])
    yield helper.make_node("Round", [f"{name}_turns"], [f"{name}_whole"])
    yield helper.make_node("Sub", [f"{name}_turns", f"{name}_whole"], [f"{name}_part"])
    yield helper.make_node("Mul", [f"{name}_part", f"{name}_part"], [f"{name}_square"])
    total = constants[f"term{SINE_TERMS - 1}"]
    for index in reversed(range(SINE_TERMS - 1)):
        yield helper.make_node("Mul", [total, f"{name}_square"], [f"{name}_product{index}"])
        total = f"{name}_sum{index}"
        yield helper.make_node(
            "Add", [f"{name}_product{index}", constants[f"term{index}"]], [total]
        )
    yield helper.make_node("Mul", [total, f"{name}_part"], [name])
