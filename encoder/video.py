"""Read videos and folders of images into memory: upright, resized, at a constant rate, as 8-bit RGB."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
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

from encoder.codec.container import MAX_SIDE
from encoder.codec.errors import SettingsError, SourceError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
DEFAULT_PIXELS = 320 * 180
"""Frames larger than this are made smaller unless the user names a size: two CPU cores fit them in minutes."""
MAX_BYTES = 16 << 30
"""Frames are held in memory; a longer clip is refused before it fills it."""
IMAGE_RATE = Fraction(25)
RESAMPLING = Interpolation.LANCZOS | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
TRUNCATION_SECONDS = 0.3
"""A stream that ends this much before its declared end is truncated."""

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
    Videos of variable frame rate come out at their average rate: a frame for each tick, repeated or left out.
    Colours are converted as FFmpeg does it (untagged YUV is BT.601), which is how the field extracts its test frames.

    Raises SourceError.
    """
    if not path.exists():
        raise SourceError(f"no such file or folder: {path}")
    pictures = _read_folder(path) if path.is_dir() else _read_file(path)
    frames: list[NDArray[np.uint8]] = []
    scaler = VideoReformatter()
    rate = IMAGE_RATE
    for frame, video_rate, tick in pictures:
        size = size or _default_size(_upright_size(frame), keep_size=keep_size)
        rate = video_rate
        _check_memory(size, tick + 1)
        frames.extend(frames[-1:] * (tick - len(frames)))
        if tick == len(frames):
            frames.append(_pixels(frame, size, scaler))
    if not frames:
        raise SourceError(f"no frames in {path}")
    return Video(np.stack(frames), rate)


Picture = tuple[VideoFrame, Fraction, int]
"""A decoded frame, the rate of its video, and the tick at which it is shown."""


def _read_folder(path: Path) -> Iterator[Picture]:
    names = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not names:
        raise SourceError(f"no images in folder {path} (known: {' '.join(sorted(IMAGE_SUFFIXES))})")
    first: Size | None = None
    for index, name in enumerate(names):
        frame, _, _ = next(_read_file(name), (None, None, None))
        if frame is None:
            raise SourceError(f"cannot read image {name}")
        first = first or _upright_size(frame)
        if _upright_size(frame) != first:
            raise SourceError(f"images differ in size: {name} is {_times(_upright_size(frame))}, not {_times(first)}")
        yield frame, IMAGE_RATE, index


def _read_file(path: Path) -> Iterator[Picture]:
    try:
        with av.open(path) as container:
            # FFmpeg takes any text file for the recording of a terminal.
            if container.format.name == "tty" or not container.streams.video:
                raise SourceError(f"not a video: {path}")
            yield from _decode(container, path)
    except FFmpegError as error:
        raise SourceError(f"cannot read {path} as a video: {error.strerror}") from None


def _decode(container: InputContainer, path: Path) -> Iterator[Picture]:
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    rate = Fraction(stream.average_rate or stream.guessed_rate or IMAGE_RATE)
    packets, frames, first, end = 0, 0, None, 0.0
    for packet in container.demux(stream):
        packets += packet.size > 0
        for frame in packet.decode():
            time = frames / rate if frame.pts is None or stream.time_base is None else frame.pts * stream.time_base
            first = time if first is None else first
            yield frame, rate, round((time - first) * rate)
            frames += 1
            end = float(time - first + 1 / rate)
    _check_complete(container, stream, path, packets=packets, end_seconds=end)


def _check_complete(container: InputContainer, stream: VideoStream, path: Path, *, packets: int, end_seconds: float) -> None:
    if packets < stream.frames:
        raise SourceError(f"truncated video: {path} holds {packets} of its {stream.frames} frames")
    declared = 0.0
    if stream.duration and stream.time_base:
        declared = float(stream.duration * stream.time_base)
    elif container.duration and len(container.streams) == 1:
        declared = container.duration / av.time_base
    if packets and end_seconds < declared - TRUNCATION_SECONDS:
        raise SourceError(f"truncated video: {path} ends after {end_seconds:.1f} of its {declared:.1f} seconds")


def _upright_size(frame: VideoFrame) -> Size:
    return (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)


def _default_size(size: Size, *, keep_size: bool) -> Size:
    width, height = size
    if keep_size or width * height <= DEFAULT_PIXELS:
        return size
    scale = sqrt(DEFAULT_PIXELS / (width * height)) / 2
    return max(2, 2 * round(width * scale)), max(2, 2 * round(height * scale))


def _check_memory(size: Size, frames: int) -> None:
    if 3 * size[0] * size[1] * frames > MAX_BYTES:
        raise SourceError(f"{frames} or more frames of {_times(size)} do not fit in {MAX_BYTES >> 30} GiB: use --resize")


def _pixels(frame: VideoFrame, size: Size, scaler: VideoReformatter) -> NDArray[np.uint8]:
    """Return the upright RGB pixels (3, H, W) of a frame at the given width and height."""
    turns = round(frame.rotation / 90) % 4
    width, height = size[::-1] if turns % 2 else size
    converted = scaler.reformat(frame, width=width, height=height, format="rgb24", interpolation=RESAMPLING)
    return np.rot90(converted.to_ndarray().astype(np.uint8, copy=False), turns).transpose(2, 0, 1)


def parse_size(text: str) -> Size:
    """Return the width and height that a text like 640x360 names; raises SettingsError."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (0 < size[0] <= MAX_SIDE and 0 < size[1] <= MAX_SIDE):
        raise SettingsError(f"a size is two numbers of 1 to {MAX_SIDE} like 640x360, got {text!r}")
    return size


def _times(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
