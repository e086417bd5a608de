"""Read video files and folders of images run by run: upright, resized, at a constant rate, as 8-bit RGB."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from math import floor, sqrt
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from encoder.codec.container import MAX_DENOMINATOR
from encoder.codec.errors import SourceError
from encoder.media.truncation import is_truncated
from encoder.media.video import THUMBNAIL, Size, Video, check_memory, size_text

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
DEFAULT_PIXELS = 320 * 180
"""Frames larger than this are made smaller unless the user names a size: two CPU cores fit them in minutes."""
SEEK_FRAMES, SEEK_SECONDS = 250, 2
"""Frames ahead that are not worth a seek, and how much earlier than it should be one goes."""
IMAGE_RATE = Fraction(25)
"""Frames per second of a folder of images, which does not say."""
RESAMPLING = Interpolation.LANCZOS | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
GAP_TOLERANCE = Fraction(1, 10)
"""How far from a tick a gap may end, in ticks: containers round times to milliseconds."""


def read_video(path: Path, *, size: Size | None = None, keep_size: bool = False) -> Video:
    """Read all of a video file or of a folder of images, as `Source` has its frames; raises SourceError."""
    source = Source(path, size=size, keep_size=keep_size)
    check_memory(source.count, source.size)
    return Video(source.read(range(source.count)), source.rate)


class Source:
    """A video file or a folder of images, read run by run, forwards at best.

    Frames have the given width and height, or the source's own if `keep_size`, or else at most DEFAULT_PIXELS.
    Videos of variable frame rate come out at a constant one: a frame for each tick, repeated or left out.
    Colours are converted as FFmpeg does it (untagged YUV is BT.601), which is how the field extracts its test frames.
    """

    def __init__(self, path: Path, *, size: Size | None = None, keep_size: bool = False) -> None:
        """Look at the packets' times and at the first frame; raises SourceError."""
        if not path.exists():
            raise SourceError(f"no such file or folder: {path}")
        self.path = path
        """Of the file or folder."""
        self._timeline, self._open = _open_folder(path) if path.is_dir() else _open_file(path)
        self._scaler = VideoReformatter()
        self._seek(0)
        if self._next is None:
            raise SourceError(f"no frames in {path}")
        self.size: Size = size or _default_size(_upright_size(self._next[0]), keep_size=keep_size)
        """Width and height of the frames."""

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        return self._timeline.rate

    @property
    def count(self) -> int:
        """Number of frames."""
        return self._timeline.ticks

    def thumbnails(self) -> "Source":
        """Return the same frames, made small."""
        scale = min(THUMBNAIL / max(self.size), 1.0)
        width, height = (max(round(side * scale), 2) for side in self.size)
        return Source(self.path, size=(width, height))

    def read(self, run: range) -> NDArray[np.uint8]:
        """Return a run of frames (T, 3, H, W); raises SourceError where the source turns out to be damaged."""
        if not self._reached <= run.start < self._reached + SEEK_FRAMES:
            self._seek(run.start)
        width, height = self.size
        frames = np.empty((len(run), 3, height, width), np.uint8)
        filled = 0
        while filled < len(run):
            _convert(self._shown(run.start + filled), self._scaler, frames[filled])
            # A gap shows the picture before it.
            stop = min(self._stays, run.stop) - run.start
            frames[filled + 1 : stop] = frames[filled]
            filled = stop
        return frames

    def _seek(self, tick: int) -> None:
        """Go on reading somewhere before a tick."""
        self._pictures = self._open(tick)
        self._current: VideoFrame | None = None
        self._reached = 0
        """Tick of the current picture."""
        self._next = self._pull(-1)
        if tick and (self._next is None or self._next[1] > tick):
            self._seek(0)  # a container of which only the start is found

    def _shown(self, tick: int) -> VideoFrame:
        """Return the picture that is shown at a tick, which is not before the one that was asked for last."""
        while self._next is not None and self._next[1] <= tick:
            self._current, self._reached = self._next
            self._next = self._pull(self._reached)
        if tick >= self._stays:
            raise SourceError(f"damaged video: {self.path} decodes to {self._reached + 1} of {self.count} frames")
        if self._current is None:
            # At the very start, where a decoder waits for a key frame, the first that there is.
            assert self._next is not None  # or there would be no source
            return self._next[0]
        return self._current

    @property
    def _stays(self) -> int:
        """Tick up to which the current picture is shown."""
        if self._next is not None:
            return self._next[1]
        whole = self._reached + 1 >= self._timeline.last_tick
        return self.count if whole else self._reached + 1

    def _pull(self, after: int) -> tuple[VideoFrame, int] | None:
        """Return the next picture of a tick later than another."""
        return next((found for found in self._pictures if after < found[1] < self.count), None)


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
Open = Callable[[int], Pictures]
"""Starts to decode a source from a frame on that is shown before a tick, if that can be found, or else from the first."""


def _open_folder(path: Path) -> tuple[_Timeline, Open]:
    names = sorted((file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=_natural_order)
    if not names:
        raise SourceError(f"no images in folder {path} (known: {' '.join(sorted(IMAGE_SUFFIXES))})")
    return _Timeline(IMAGE_RATE, len(names), len(names) - 1), partial(_read_images, names)


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Sort 2.png before 10.png."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _read_images(names: Sequence[Path], start: int) -> Pictures:
    first: Size | None = None
    for index, name in enumerate(names[start:], start):
        frame, _ = next(_open_file(name)[1](0), (None, 0))
        if frame is None:
            raise SourceError(f"cannot read image {name}")
        first = first or _upright_size(frame)
        if _upright_size(frame) != first:
            raise SourceError(f"images differ in size: {name} is {size_text(_upright_size(frame))}, not {size_text(first)}")
        yield frame, index


def _open_file(path: Path) -> tuple[_Timeline, Open]:
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
    return timeline, partial(_decode, path, timeline)


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


def _decode(path: Path, timeline: _Timeline, start: int) -> Pictures:
    try:
        with av.open(path.resolve()) as container:  # a colon in a relative name would be a protocol
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if start and timeline.start_seconds is not None and stream.time_base:
                # Earlier than need be: the first frames after a key frame may refer to what is before it.
                seconds = timeline.start_seconds + start / timeline.rate - SEEK_SECONDS
                if seconds > timeline.start_seconds:  # others would be refused by some containers
                    container.seek(floor(seconds / stream.time_base), stream=stream)
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


def _convert(frame: VideoFrame, scaler: VideoReformatter, target: NDArray[np.uint8]) -> None:
    """Write the upright RGB pixels of a frame into an array (3, H, W), scaled to its size."""
    turns = round(frame.rotation / 90) % 4
    height, width = target.shape[:0:-1] if turns % 2 else target.shape[1:]
    converted = scaler.reformat(frame, width=width, height=height, format="rgb24", interpolation=RESAMPLING)
    target[:] = np.rot90(converted.to_ndarray(), turns).transpose(2, 0, 1)
