"""Video tracks of files: their choice, their timelines and their decoded pictures."""

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.stream import Disposition
from av.video.stream import VideoStream

from encoder.codec.container import MAX_RATE
from encoder.common.errors import SourceError
from encoder.media.decoding import Pictures, decode, opened
from encoder.media.fields import Order
from encoder.media.frame_rate import DEFAULT_RATE
from encoder.media.size import size_text
from encoder.media.timeline import PacketTimes, SourceTimeline, even_timeline, join, make_timeline
from encoder.media.truncation import is_truncated

STILLS = Disposition.attached_pic | Disposition.timed_thumbnails
"""Flags of tracks that are covers or previews."""
WEBP_HEADER = 21
"""Number of bytes of a WebP file up to its flags, which are the last of these bytes."""
WEBP_ANIMATION = 0x02
"""Flag of an animated WebP file."""
SHOWN_VP8 = 0x10
"""Flag in the first byte of a VP8 frame that is shown. Frames without it only serve others (RFC
6386, 9.1)."""
FIELD_ORDERS: Mapping[int, Order] = {2: "tff", 3: "bff", 4: "bff", 5: "tff"}
"""Field that is shown first, by FFmpeg's AVFieldOrder."""
ALPHA_TITLE = "Alpha"
"""FFmpeg's title of the second track of a transparent AVIF."""
SIGNATURE = slice(4, 12)
"""Bytes that identify the start of a file. In MP4, the bytes before them are a length."""


Open = Callable[[int], Pictures]
"""Function that starts to decode before a given tick. It starts at the first picture if it cannot
seek."""


@dataclass(frozen=True)
class Track:
    """A source of pictures, a video track or a folder of images, which can be sent to workers."""

    timeline: SourceTimeline
    open: Open
    name: str
    """Readable description."""
    seeks: bool
    """Whether decoding can start anywhere."""
    order: Order | None = None
    """Order of the fields in interlaced pictures, if the file declares it."""
    notes: tuple[str, ...] = ()
    """Readable lines about faults of the file."""
    origin: Fraction | None = None
    """The file's time of the first picture, in seconds; None if the file has no times."""


def open_track(path: Path, number: int | None = None) -> Track:
    """Read all packets of a file's video tracks, and return one of the tracks.

    `number` selects the track, from 0; without it, one is picked. Raises SourceError.
    """
    try:
        _refuse_what_decodes_wrongly(path)
        with opened(path) as container:
            packets = _read_packets(container, path)
            index = _pick(container, path, packets, number)
            stream = container.streams.video[index]
            timeline = _measure(container, stream, packets[index], path)
            name = f"{_name(stream)}, track {index} of {len(container.streams.video)}"
            times = timeline.times
            origin = None if times is None else int(times[0]) * (stream.time_base or Fraction(0))
            order = FIELD_ORDERS.get(stream.codec_context.field_order)
            notes = _what_follows(path, container, max(each.end for each in packets.values()))
    except FFmpegError as error:
        raise SourceError(f"cannot read {path} as a video: {error.strerror}") from None
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None
    if is_truncated(path):
        raise SourceError(f"truncated video: {path}")
    seeks = timeline.times is not None and timeline.packet_times is None
    return Track(
        timeline,
        partial(decode, path.absolute(), index, timeline),
        name,
        seeks,
        order,
        notes,
        origin,
    )


def _refuse_what_decodes_wrongly(path: Path) -> None:
    """Raise SourceError for a file that FFmpeg reads wrongly, OSError for an unreadable one."""
    with path.open("rb") as file:
        start = file.read(WEBP_HEADER)
    if start.startswith(b"RIFF") and start[8:16] == b"WEBPVP8X" and start[-1] & WEBP_ANIMATION:
        raise SourceError(
            f"animated WebP cannot be read: {path} (make a GIF, a video or single images of it)"
        )


@dataclass
class _Packets:
    """Data of a track's packets without their content, which for a film takes gigabytes."""

    times: list[PacketTimes] = field(default_factory=list[PacketTimes])
    """Times of each packet, in the order of the file."""
    hidden: set[int] = field(default_factory=set[int])
    """Numbers of the packets that yield no picture."""
    end: int = 0
    """Position in the file after the last packet, as far as it is known."""


def _read_packets(container: InputContainer, path: Path) -> dict[int, _Packets]:
    """Return the packets of all video tracks by the tracks' numbers; raises SourceError."""
    # FFmpeg takes any text file for a recording of a terminal.
    tracks = () if container.format.name == "tty" else container.streams.video
    if not tracks:
        raise SourceError(f"not a video: {path}")
    found = {index: _Packets() for index in range(len(tracks))}
    numbers = {track.index: index for index, track in enumerate(tracks)}
    for packet in container.demux(*tracks):
        if packet.size:
            each = found[numbers[packet.stream_index]]
            if packet.is_discard or (
                packet.stream.codec_context.name == "vp8" and not memoryview(packet)[0] & SHOWN_VP8
            ):
                each.hidden.add(len(each.times))
            each.times.append(PacketTimes(packet.pts, packet.dts, packet.duration or 0))
            each.end = max(each.end, (packet.pos or 0) + packet.size)
    return found


def _pick(
    container: InputContainer, path: Path, packets: Mapping[int, _Packets], number: int | None
) -> int:
    """Return the number of the track to read; raises SourceError."""
    tracks = container.streams.video
    if number is not None:
        if number not in packets:
            known = "; ".join(f"{index}: {_name(stream)}" for index, stream in enumerate(tracks))
            raise SourceError(f"no video track {number} in {path}, there are: {known}")
        return number
    films = [index for index, stream in enumerate(tracks) if not stream.disposition & STILLS]
    if not films:
        raise SourceError(f"not a video: {path}, whose only picture is a cover")
    if len(films) > 1 and any(
        tracks[index].metadata.get("title") == ALPHA_TITLE for index in films
    ):
        raise SourceError(f"transparent AVIF cannot be read: {path} (make a PNG of it)")

    def rank(index: int) -> tuple[bool, bool, int, int, int]:
        stream = tracks[index]
        count = len(packets[index].times)
        is_default = bool(stream.disposition & Disposition.default)
        return count > 1, is_default, stream.width * stream.height, count, -index

    return max(films, key=rank)


def _name(stream: VideoStream) -> str:
    codec = stream.codec_context.name if stream.codec_context else "an unknown codec"
    return f"{codec} of {size_text((stream.width, stream.height))}"


def _measure(
    container: InputContainer, stream: VideoStream, packets: _Packets, path: Path
) -> SourceTimeline:
    """Return the timeline of a track; raises SourceError."""
    unit = stream.time_base or Fraction(0)
    shown = [index for index in range(len(packets.times)) if index not in packets.hidden]
    if not shown:
        raise SourceError(f"no frames in {path}")
    may_jump = bool(container.format.flags & Flags.ts_discont.value)
    times, jumps = join(packets.times, unit, may_jump=may_jump)
    known = [
        (time, packets.times[index].duration)
        for index in shown
        if (time := times[index]) is not None
    ]
    declared = _declared_rates(stream)
    if not unit or len(known) < len(shown):
        return even_timeline(len(shown), declared[0])
    try:
        timeline = make_timeline(
            [time for time, _ in known], unit, declared, last_duration=max(known)[1]
        )
    except SourceError as error:
        raise SourceError(f"times in {path} cannot be right: {error}") from None
    return replace(timeline, jumps=jumps, packet_times=times) if jumps else timeline


def _declared_rates(stream: VideoStream) -> list[Fraction]:
    """Return the rates that a file declares.

    The mean rate is not among them, since FFmpeg computes it for some formats.
    """
    told = [Fraction(rate) for rate in (stream.guessed_rate, stream.base_rate) if rate]
    return [rate for rate in told if rate <= MAX_RATE] or [DEFAULT_RATE]


def _what_follows(path: Path, container: InputContainer, end: int) -> tuple[str, ...]:
    """Return a note if a second file is appended to the first, as by `cat`.

    In most formats, FFmpeg reads only the first one.
    """
    with path.open("rb") as file:
        start = file.read(SIGNATURE.stop)[SIGNATURE]
        if container.format.flags & Flags.ts_discont.value or len(set(start)) < 3 or not end:  # noqa: PLR2004 (no signature)
            return ()
        size = path.stat().st_size
        # FFmpeg takes the beginning of another IVF for a frame.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = (
                data.find(start, SIGNATURE.stop if container.format.name == "ivf" else end)
                - SIGNATURE.start
            )
    return (
        (f"only the first {at} of {size} bytes are read: behind them another file begins",)
        if at > 0
        else ()
    )
