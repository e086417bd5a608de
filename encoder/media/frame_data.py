"""What PyAV does not hand out of a decoded frame by itself: side data of new kinds, and frames through a filter of FFmpeg's."""

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
"""One, in the numbers of a display matrix."""
NEW_TYPES = 16
"""Kinds of side data beyond those that PyAV knows, such as EXIF: with one of them a frame's side data cannot be read."""
Filter = tuple[str, str]
"""Name and arguments of one of FFmpeg's filters."""


def display_matrix(frame: VideoFrame) -> list[float] | None:
    """Return the nine numbers of a frame's display matrix, row by row; None if it has none."""
    try:
        data = _side_data(frame, Type.DISPLAYMATRIX)
    except ValueError:  # there is a kind that PyAV does not know
        first = max(kind.value for kind in Type) + 1
        chain = [
            ("sidedata", f"mode=delete:type={kind}") for kind in range(first, first + NEW_TYPES)
        ]
        data = _side_data(next(filtered([frame], chain)), Type.DISPLAYMATRIX)
    return None if data is None else (np.frombuffer(data, np.int32) / FIXED_POINT).tolist()


def _side_data(frame: VideoFrame, kind: Type) -> Any:
    return cast("Mapping[Type, Any]", frame.side_data).get(kind)


def filtered(frames: Sequence[VideoFrame], chain: Sequence[Filter]) -> Iterator[VideoFrame]:
    """Yield frames of the same size and format as they come out of a chain of FFmpeg's filters; raises av.FFmpegError."""
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
