"""Access to data of decoded frames that PyAV does not offer: new side data and FFmpeg's filters."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, cast

import numpy as np
from av.error import BlockingIOError as NotYetError
from av.error import EOFError as EndError
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

FIXED_POINT = 1 << 16
"""The number 1 in the fixed-point format of display matrices."""
NEW_TYPES = 16
"""Number of kinds of side data beyond those that PyAV knows, such as EXIF. PyAV cannot read the
side data of a frame that has one of them."""
Filter = tuple[str, str]
"""Name and arguments of an FFmpeg filter."""


def display_matrix(frame: VideoFrame) -> list[float] | None:
    """Return the nine numbers of a frame's display matrix, row by row; None if it has none."""
    try:
        data = _side_data(frame, Type.DISPLAYMATRIX)
    except ValueError:  # a kind that PyAV does not know
        first = max(kind.value for kind in Type) + 1
        chain = [
            ("sidedata", f"mode=delete:type={kind}") for kind in range(first, first + NEW_TYPES)
        ]
        data = _side_data(next(filtered([frame], chain)), Type.DISPLAYMATRIX)
    return None if data is None else (np.frombuffer(data, np.int32) / FIXED_POINT).tolist()


def _side_data(frame: VideoFrame, kind: Type) -> Any:
    return cast("Mapping[Type, Any]", frame.side_data).get(kind)


def filtered(frames: Sequence[VideoFrame], chain: Sequence[Filter]) -> Iterator[VideoFrame]:
    """Yield frames of one size and format, passed through a chain of FFmpeg filters.

    Raises av.FFmpegError.
    """
    graph = Graph()
    graph.threads = 1
    first = frames[0]
    unit = first.time_base or Fraction(1)
    nodes = [
        graph.add_buffer(
            width=first.width, height=first.height, format=first.format, time_base=unit
        )
    ]
    nodes += [graph.add(name, arguments) for name, arguments in chain]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    for frame in (*frames, None):
        graph.vpush(frame)
        try:
            while True:
                yield graph.vpull()
        except (NotYetError, EndError):
            continue
