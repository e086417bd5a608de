"""Decoded pictures of a video track, each with the tick at which it is shown."""

from collections.abc import Iterator
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
from av.codec.context import CodecContext
from av.container import InputContainer
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from encoder.common.errors import SourceError
from encoder.media.timeline import (
    SourceTimeline,
)

SEEK_SECONDS = 2
"""Time by which seeks start early. The first frames after a key frame may refer to earlier ones."""


ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders of transparent WebM, by codec. FFmpeg's own decoders drop the alpha channel."""


class Picture(NamedTuple):
    """A decoded picture with the time at which it is shown."""

    frame: VideoFrame
    tick: int
    """Tick at which the picture is shown; -1 for a picture that is left out."""
    pixel_aspect: Fraction | None
    """Width of a pixel divided by its height, if the file declares it."""


Pictures = Iterator[Picture]


def opened(path: Path) -> InputContainer:
    """Open a file of any supported container; raises FFmpegError, OSError."""
    # In a relative name, text before a colon would be read as a protocol.
    return av.open(path.resolve(), metadata_errors="replace")


def decode(path: Path, number: int, timeline: SourceTimeline, start: int) -> Pictures:
    """Yield the pictures of a video track, from 2 s before a tick on; raises SourceError."""
    try:
        with opened(path) as container:
            stream = container.streams.video[number]
            stream.thread_type = "AUTO"
            times = timeline.times
            if start and times is not None and timeline.packet_times is None and stream.time_base:
                first = times[0] * stream.time_base
                seconds = first + start / timeline.rate - SEEK_SECONDS
                if seconds > first:  # some containers refuse other times
                    container.seek(floor(seconds / stream.time_base), stream=stream)
            yield from _pictures(container, stream, timeline)
    except FFmpegError as error:
        raise SourceError(f"cannot decode {path}: {error.strerror}") from None
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None


def _pictures(container: InputContainer, stream: VideoStream, timeline: SourceTimeline) -> Pictures:
    codec = stream.codec_context
    aspect = stream.sample_aspect_ratio
    told = codec.sample_aspect_ratio
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    if codec.name in ALPHA_DECODERS and tags.get("alpha_mode") == "1":
        codec = cast("VideoCodecContext", CodecContext.create(ALPHA_DECODERS[codec.name], "r"))
    clock = _Clock(timeline)
    joined = iter(timeline.packet_times) if timeline.packet_times is not None else None
    for packet in container.demux(stream):
        if joined is not None and packet.size:
            packet.pts = next(joined, None)
            packet.dts = None  # after joining, none of the file's own times is right
        for frame in codec.decode(packet if packet.size else None):
            # The aspect ratio of the file holds, unless pictures with another one follow.
            present = codec.sample_aspect_ratio
            yield Picture(
                frame,
                clock.tick(frame.pts),
                present if present and told and present != told else aspect,
            )


class _Clock:
    """Counter that maps decoded pictures, in the order of display, to their ticks."""

    def __init__(self, timeline: SourceTimeline) -> None:
        self._timeline = timeline
        self._next = 0

    def tick(self, time: int | None) -> int:
        """Return the tick of the next picture; -1 if it is left out."""
        ticks = self._timeline.ticks
        times = self._timeline.times
        index = self._next
        if times is not None and time is not None:
            found = int(np.searchsorted(times, time))
            # Each of several pictures with the same time has its own tick.
            index = (
                index
                if found < index < len(times) and times[index] == time
                else min(found, len(times) - 1)
            )
        self._next = index + 1
        return int(ticks[index]) if index < len(ticks) else -1
