"""The video track of a file: which one it is, when its pictures are shown, and the pictures themselves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
from av.codec.context import CodecContext
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from encoder.codec.container import MAX_RATE
from encoder.codec.errors import SourceError
from encoder.media.timeline import DEFAULT_RATE, Joiner, Timeline, even_timeline, make_timeline
from encoder.media.truncation import is_truncated
from encoder.media.video import size_text

STILLS = Disposition.attached_pic | Disposition.timed_thumbnails
"""Tracks that are covers or previews."""
SEEK_SECONDS = 2
"""How much earlier than need be a seek goes: the first frames after a key frame may refer to what is before it."""
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders of transparent WebM, by codec: FFmpeg's own leave the alpha channel out."""
WEBP_HEADER, WEBP_ANIMATION = 21, 0x02
"""Bytes of a WebP file up to its flags, the last of them, and the flag of an animation."""
HIDDEN_VP8 = 0x10
"""Flag of the first byte of a VP8 frame that is shown; those without only serve others (RFC 6386, 9.1)."""


class Picture(NamedTuple):
    """A decoded picture and when it is shown."""

    frame: VideoFrame
    tick: int
    """-1 for one that is left out."""
    pixel_aspect: Fraction | None
    """Width of a pixel by its height, where the file tells."""


Pictures = Iterator[Picture]
Open = Callable[[int], Pictures]
"""Starts to decode a source from a picture on that is shown before a tick, if that can be found, or else from the first."""


@dataclass(frozen=True)
class Track:
    """What can be read."""

    timeline: Timeline
    open: Open
    name: str
    """What it is, for people."""


def open_track(path: Path, number: int | None = None) -> Track:
    """Look at all packets of a file's video track, which is picked unless it is named by its number among the video tracks.

    Raises SourceError.
    """
    _refuse_animated_webp(path)
    try:
        with _opened(path) as container:
            stream = _pick(container, path, number)
            timeline = _measure(container, stream, path)
            name = _name(stream)
            name += f", track {_number(container, stream)} of {len(container.streams.video)}"
    except FFmpegError as error:
        raise SourceError(f"cannot read {path} as a video: {error.strerror}") from None
    if is_truncated(path):
        raise SourceError(f"truncated video: {path}")
    return Track(timeline, lambda tick: _decode(path, number, timeline, tick), name)


def _opened(path: Path) -> InputContainer:
    return av.open(path.resolve())  # a colon in a relative name would be a protocol


def _refuse_animated_webp(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(WEBP_HEADER)
    if start.startswith(b"RIFF") and start[8:16] == b"WEBPVP8X" and start[-1] & WEBP_ANIMATION:
        raise SourceError(f"animated WebP cannot be read: {path} (make a GIF, a video or single images of it)")


def _pick(container: InputContainer, path: Path, number: int | None) -> VideoStream:
    """Return the video track of a number, or else the default one, of several the largest; raises SourceError."""
    # FFmpeg takes any text file for the recording of a terminal.
    tracks = () if container.format.name == "tty" else container.streams.video
    films = [stream for stream in tracks if not stream.disposition & STILLS]
    if number is not None:
        if not 0 <= number < len(tracks):
            known = "; ".join(f"{index}: {_name(stream)}" for index, stream in enumerate(tracks))
            raise SourceError(f"no video track {number} in {path}, there are: {known or 'none'}")
        return tracks[number]
    if not films:
        raise SourceError(f"not a video: {path}" + (", whose only picture is a cover" if tracks else ""))

    def rank(stream: VideoStream) -> tuple[bool, bool, int, int, int]:
        is_still, is_default = stream.frames == 1, bool(stream.disposition & Disposition.default)
        return not is_still, is_default, stream.width * stream.height, stream.frames, -stream.index

    return max(films, key=rank)


def _number(container: InputContainer, stream: VideoStream) -> int:
    return [track.index for track in container.streams.video].index(stream.index)


def _name(stream: VideoStream) -> str:
    codec = stream.codec_context.name if stream.codec_context else "an unknown codec"
    return f"{codec} of {size_text((stream.width, stream.height))}"


def _measure(container: InputContainer, stream: VideoStream, path: Path) -> Timeline:
    """Look at all packets for the times of the pictures, without decoding any; raises SourceError."""
    rates = (stream.guessed_rate, stream.average_rate, stream.base_rate)
    declared = [rate for rate in map(Fraction, filter(None, rates)) if rate <= MAX_RATE] or [DEFAULT_RATE]
    joiner = _joiner(container, stream)
    shown: list[tuple[int, int]] = []
    count = 0
    for packet in container.demux(stream):
        if packet.size:
            offset = joiner.offset(packet)
            if not packet.is_discard and not _is_hidden(stream, packet):
                count += 1
                if packet.pts is not None:
                    shown.append((packet.pts + offset, packet.duration or 0))
    if not count:
        raise SourceError(f"no frames in {path}")
    if not stream.time_base or len(shown) < count:
        return even_timeline(count, declared[0])
    times, last_duration = [time for time, _ in shown], max(shown)[1]
    try:
        return make_timeline(times, stream.time_base, declared, last_duration=last_duration, jumps=joiner.jumps)
    except SourceError as error:
        raise SourceError(f"times in {path} cannot be right: {error}") from None


def _joiner(container: InputContainer, stream: VideoStream) -> Joiner:
    may_jump = bool(container.format.flags & Flags.ts_discont.value)
    return Joiner(stream.time_base or Fraction(1), may_jump=may_jump)


def _is_hidden(stream: VideoStream, packet: "Packet[VideoStream]") -> bool:
    return stream.codec_context.name == "vp8" and not memoryview(packet)[0] & HIDDEN_VP8


def _decode(path: Path, number: int | None, timeline: Timeline, start: int) -> Pictures:
    try:
        with _opened(path) as container:
            stream = _pick(container, path, number)
            stream.thread_type = "AUTO"
            joiner = _joiner(container, stream) if timeline.jumps else None
            times = timeline.times
            if start and times is not None and joiner is None and stream.time_base:
                first = times[0] * stream.time_base
                seconds = first + start / timeline.rate - SEEK_SECONDS
                if seconds > first:  # others would be refused by some containers
                    container.seek(floor(seconds / stream.time_base), stream=stream)
            yield from _pictures(container, stream, timeline, joiner)
    except FFmpegError as error:
        raise SourceError(f"cannot decode {path}: {error.strerror}") from None


def _pictures(container: InputContainer, stream: VideoStream, timeline: Timeline, joiner: Joiner | None) -> Pictures:
    codec, aspect = stream.codec_context, stream.sample_aspect_ratio
    told = codec.sample_aspect_ratio
    if codec.name in ALPHA_DECODERS and stream.metadata.get("alpha_mode") == "1":
        codec = cast("VideoCodecContext", CodecContext.create(ALPHA_DECODERS[codec.name], "r"))
    clock = _Clock(timeline)
    for packet in container.demux(stream):
        if joiner is not None and packet.size:
            offset = joiner.offset(packet)
            packet.pts, packet.dts = (None if time is None else time + offset for time in (packet.pts, packet.dts))
        for frame in codec.decode(packet if packet.size else None):
            # The file's word counts for the whole of it, unless pictures of another shape follow.
            present = codec.sample_aspect_ratio
            yield Picture(frame, clock.tick(frame.pts), present if present and told and present != told else aspect)


class _Clock:
    """Tells the ticks of pictures as they are decoded, in the order in which they are shown."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._next = 0

    def tick(self, time: int | None) -> int:
        """Return the tick of the next picture; -1 if it is left out."""
        ticks, times = self._timeline.ticks, self._timeline.times
        index = self._next
        if times is not None and time is not None:
            found = int(np.searchsorted(times, time))
            # Of pictures of the same time each has its own place.
            index = index if found < index < len(times) and times[index] == time else min(found, len(times) - 1)
        self._next = index + 1
        return int(ticks[index]) if index < len(ticks) else -1
