"""Names of values in a stored graph: references relative to the place of use.

Repeated stages of a network then become the same bytes. docs/reference/bitstream.md has the rules.
"""

import re

import onnx

from encoder.common.errors import BitstreamError

TIME = "t"
"""Name of a graph's input."""
FRAMES = "rgb"
"""Name of a graph's output."""
BEFORE = "-"
"""Start of a reference to an earlier value, counted back from the latest."""
NEXT = "+"
"""Start of a reference to a coded tensor.

Its number counts from the tensor after the last one that was referred to.
"""
CONSTANT = "c"
"""Start of a reference to a constant."""
MADE = "_"
"""Stored name of a node's output, unless it is the graph's output."""

NUMBER = re.compile("-?[0-9]{1,5}")
MAX_SHOWN = 20
"""Number of characters of an invalid reference in a message."""


def to_refs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose names are references.

    Raises BitstreamError if a name is undefined or defined twice.
    """
    packed = onnx.ModelProto()
    packed.CopyFrom(model)
    graph = packed.graph
    tensors = [value.name for value in graph.input[1:]]
    constants = [constant.name for constant in graph.initializer]
    names = [
        TIME,
        *tensors,
        *constants,
        *(name for node in graph.node for name in node.output if name),
    ]
    if len(set(names)) < len(names):
        raise BitstreamError("two values have the same name")
    writer = _Writer(tensors, constants)
    for node in graph.node:
        node.input[:] = [writer.place(name) if name else "" for name in node.input]
        node.output[:] = [writer.make(name) if name else "" for name in node.output]
    for value in (*graph.input[1:], *graph.initializer):
        value.ClearField("name")
    return packed


class _Writer:
    """Writer of references in place of names, node by node."""

    def __init__(self, tensors: list[str], constants: list[str]) -> None:
        self._tensors = {name: index for index, name in enumerate(tensors)}
        self._constants = {name: index for index, name in enumerate(constants)}
        self._made = {TIME: 0}
        self._next = 0

    def place(self, name: str) -> str:
        """Return the reference to a node's input."""
        if name in self._tensors:
            ahead = self._tensors[name] - self._next
            self._next = self._tensors[name] + 1
            return f"{NEXT}{ahead or ''}"
        if name in self._constants:
            return f"{CONSTANT}{self._constants[name]}"
        if name in self._made:
            return f"{BEFORE}{len(self._made) - self._made[name]}"
        raise BitstreamError(f"topology is no valid graph: nothing is called {name!r}")

    def make(self, name: str) -> str:
        """Register a node's output and return its stored name."""
        self._made[name] = len(self._made)
        return FRAMES if name == FRAMES else MADE


def from_refs(packed: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose values have unique names.

    Raises BitstreamError if a reference is invalid.
    """
    model = onnx.ModelProto()
    model.CopyFrom(packed)
    graph = model.graph
    for index, value in enumerate(graph.input[1:]):
        value.name = str(index)
    for index, constant in enumerate(graph.initializer):
        constant.name = f"{CONSTANT}{index}"
    reader = _Reader(
        [value.name for value in graph.input[1:]], [constant.name for constant in graph.initializer]
    )
    for node in graph.node:
        # protobuf returns bytes if a text is not UTF-8.
        node.input[:] = [reader.find(str(place)) if place else "" for place in node.input]
        node.output[:] = [reader.make(name) if name else "" for name in node.output]
    return model


class _Reader:
    """Reader of names from references, node by node."""

    def __init__(self, tensors: list[str], constants: list[str]) -> None:
        self._tensors = tensors
        self._constants = constants
        self._made = [TIME]
        self._next = 0

    def find(self, place: str) -> str:
        """Return the name of a node's input."""
        if place.startswith(NEXT):
            index = self._next + _number(place[1:] or "0")
            self._next = index + 1
            return _item(self._tensors, index, place)
        if place.startswith(CONSTANT):
            return _item(self._constants, _number(place[1:]), place)
        return _item(self._made, len(self._made) + _number(place), place)

    def make(self, name: str) -> str:
        """Register a node's output and return its new name.

        Raises BitstreamError if its stored name is invalid.
        """
        if name not in (MADE, FRAMES):
            raise BitstreamError(
                f"topology has an output {name[:MAX_SHOWN]!r}, which must be {MADE!r} or {FRAMES!r}"
            )
        self._made.append(FRAMES if name == FRAMES else f"v{len(self._made)}")
        return self._made[-1]


def _number(text: str) -> int:
    if not NUMBER.fullmatch(text):
        raise BitstreamError(f"topology has a reference {text[:MAX_SHOWN]!r} that is no number")
    return int(text)


def _item(names: list[str], index: int, place: str) -> str:
    if not 0 <= index < len(names):
        raise BitstreamError(f"topology refers to {place[:MAX_SHOWN]!r}, where nothing is")
    return names[index]
