"""Read videos and folders of images into memory: upright, resized, at a constant rate, as 8-bit RGB."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import sqrt
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from encoder.codec.container import MAX_DENOMINATOR, MAX_SIDE
from encoder.codec.errors import SettingsError, SourceError
from encoder.truncation import is_truncated

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
DEFAULT_PIXELS = 320 * 180
"""Frames larger than this are made smaller unless the user names a size: two CPU cores fit them in minutes."""
IMAGE_RATE = Fraction(25)
"""Frames per second of a folder of images, which does not say."""
RESAMPLING = Interpolation.LANCZOS | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
GAP_TOLERANCE = Fraction(1, 10)
"""How far from a tick a gap may end, in ticks: containers round times to milliseconds."""

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Video:
    """A clip in memory."""

    frames: NDArray[np.uint8]
    """RGB pixels, (T, 3, H, W)."""
    rate: Fraction
    """Frames per second."""


def read_video(path: Path, *, size: Size | None = None, keep_size: bool = False) -> Video:
    """Read a video file or a folder of images.

    Frames have the given width and height, or the source's own if `keep_size`, or else at most DEFAULT_PIXELS.
    Videos of variable frame rate come out at a constant one: a frame for each tick, repeated or left out.
    Colours are converted as FFmpeg does it (untagged YUV is BT.601), which is how the field extracts its test frames.

    Raises SourceError.
    """
    if not path.exists():
        raise SourceError(f"no such file or folder: {path}")
    timeline, pictures = _open_folder(path) if path.is_dir() else _open_file(path)
    frames: NDArray[np.uint8] | None = None
    scaler, filled = VideoReformatter(), 0
    for frame, tick in pictures:
        if frames is None:
            size = size or _default_size(_upright_size(frame), keep_size=keep_size)
            frames = _allocate(size, timeline.ticks)
        if filled <= tick < len(frames):
            _convert(frame, scaler, frames[tick])
            # A gap shows the picture before it; at the very start, where a decoder waits for a key frame, the one after.
            frames[filled:tick] = frames[filled - 1 if filled else tick]
            filled = tick + 1
    if frames is None:
        raise SourceError(f"no frames in {path}")
    if filled < timeline.last_tick:
        raise SourceError(f"damaged video: {path} decodes to {filled} of {timeline.ticks} frames")
    frames[filled:] = frames[filled - 1]
    return Video(frames, timeline.rate)


@dataclass(frozen=True)
class _Timeline:
    """When the frames of a source are shown."""

    rate: Fraction
    ticks: int
    """Frames that come out."""
    last_tick: int
    """Tick at which the last picture appears; it may stay for longer than one."""
    start_seconds: Fraction | None = None
    """When the first appears; None if the frames carry no times and just follow one another."""


Pictures = Iterator[tuple[VideoFrame, int]]
"""Decoded frames, and the tick at which each is shown."""


def _open_folder(path: Path) -> tuple[_Timeline, Pictures]:
    names = sorted((file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=_natural_order)
    if not names:
        raise SourceError(f"no images in folder {path} (known: {' '.join(sorted(IMAGE_SUFFIXES))})")
    return _Timeline(IMAGE_RATE, len(names), len(names) - 1), _read_images(names)


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Sort 2.png before 10.png."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _read_images(names: Sequence[Path]) -> Pictures:
    first: Size | None = None
    for index, name in enumerate(names):
        frame, _ = next(_open_file(name)[1], (None, 0))
        if frame is None:
            raise SourceError(f"cannot read image {name}")
        first = first or _upright_size(frame)
        if _upright_size(frame) != first:
            raise SourceError(f"images differ in size: {name} is {_times(_upright_size(frame))}, not {_times(first)}")
        yield frame, index


def _open_file(path: Path) -> tuple[_Timeline, Pictures]:
    try:
        with av.open(path.resolve()) as container:  # a colon in a relative name would be a protocol
            # FFmpeg takes any text file for the recording of a terminal.
            if container.format.name == "tty" or not container.streams.video:
                raise SourceError(f"not a video: {path}")
            timeline = _measure(container, container.streams.video[0])
    except FFmpegError as error:
        raise SourceError(f"cannot read {path} as a video: {error.strerror}") from None
    if is_truncated(path):
        raise SourceError(f"truncated video: {path}")
    return timeline, _decode(path, timeline)


def _measure(container: InputContainer, stream: VideoStream) -> _Timeline:
    """Look at all packets for the times of the frames, without decoding any."""
    declared = Fraction(stream.guessed_rate or stream.average_rate or IMAGE_RATE)
    unit = stream.time_base or Fraction(0)
    # Only the numbers are kept: the packets of a film are gigabytes.
    packets = [(p.pts, p.duration or 0) for p in container.demux(stream) if p.size and not p.is_discard]
    shown = sorted((pts * unit, duration * unit) for pts, duration in packets if pts is not None)
    if not unit or not packets or len(shown) < len(packets):
        return _Timeline(declared, len(packets), len(packets) - 1)
    times = [time for time, _ in shown]
    rate = _constant_rate(times, declared)
    last_tick = round((times[-1] - times[0]) * rate)
    stays = max(round(shown[-1][1] * rate), 1)
    return _Timeline(rate, last_tick + stays, last_tick, times[0])


def _constant_rate(times: Sequence[Fraction], declared: Fraction) -> Fraction:
    """Return the rate at which most frames follow one another: a whole fraction of the declared one, if that is near."""
    gaps = sorted(later - earlier for earlier, later in pairwise(times) if later > earlier)
    if not gaps:
        return declared
    gap = gaps[len(gaps) // 2]
    ticks = max(round(gap * declared), 1)
    if abs(gap * declared - ticks) <= GAP_TOLERANCE:
        return declared / ticks
    return (1 / gap).limit_denominator(MAX_DENOMINATOR)


def _decode(path: Path, timeline: _Timeline) -> Pictures:
    try:
        with av.open(path.resolve()) as container:  # a colon in a relative name would be a protocol
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for index, frame in enumerate(container.decode(stream)):
                tick = index
                if timeline.start_seconds is not None and frame.pts is not None and stream.time_base is not None:
                    tick = round((frame.pts * stream.time_base - timeline.start_seconds) * timeline.rate)
                yield frame, tick
    except FFmpegError as error:
        raise SourceError(f"cannot decode {path}: {error.strerror}") from None


def _upright_size(frame: VideoFrame) -> Size:
    return (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)


def _default_size(size: Size, *, keep_size: bool) -> Size:
    width, height = size
    if keep_size or width * height <= DEFAULT_PIXELS:
        return size
    scale = sqrt(DEFAULT_PIXELS / (width * height)) / 2
    return max(2, 2 * round(width * scale)), max(2, 2 * round(height * scale))


def _allocate(size: Size, ticks: int) -> NDArray[np.uint8]:
    width, height = size
    half_of_memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if 3 * width * height * ticks > half_of_memory:
        raise SourceError(f"{ticks} frames of {_times(size)} do not fit in half of the memory: use --resize")
    return np.empty((ticks, 3, height, width), np.uint8)


def _convert(frame: VideoFrame, scaler: VideoReformatter, target: NDArray[np.uint8]) -> None:
    """Write the upright RGB pixels of a frame into an array (3, H, W), scaled to its size."""
    turns = round(frame.rotation / 90) % 4
    height, width = target.shape[:0:-1] if turns % 2 else target.shape[1:]
    converted = scaler.reformat(frame, width=width, height=height, format="rgb24", interpolation=RESAMPLING)
    target[:] = np.rot90(converted.to_ndarray(), turns).transpose(2, 0, 1)


def parse_size(text: str) -> Size:
    """Return the width and height that a text like 640x360 names; raises SettingsError."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (0 < size[0] <= MAX_SIDE and 0 < size[1] <= MAX_SIDE):
        raise SettingsError(f"a size is two numbers of 1 to {MAX_SIDE} like 640x360, got {text!r}")
    return size


def _times(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
