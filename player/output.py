"""Write decoded frames to a video file or to PNG images."""

import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from encoder.codec.console import replacing
from encoder.codec.container import MAX_FRAMES, MAX_RATE, Header
from encoder.codec.errors import SettingsError
from export.engine import Frames
from export.graph import PixelFormat

CONSTANT_RATE_FACTOR = "12"
"""x264's quality: visually lossless, since the clip has lost enough already."""

Write = Callable[[Frames], None]
"""Take a batch of frames."""


@dataclass(frozen=True)
class Writer:
    """A way to write frames."""

    pixels: PixelFormat
    """What frames it takes."""
    open: Callable[[Path, Header, Fraction], AbstractContextManager[Write]]
    """Start a file or folder for a clip, at a number of frames per second."""


def frame_times(header: Header, rate: Fraction | None) -> NDArray[np.float64]:
    """Return the times to decode for a number of frames per second (None: the clip's), in frames since the start.

    Raises SettingsError for a rate out of range, one that makes too many frames, and one that the clip has no pictures for.
    """
    if rate is None or rate == header.rate:
        return np.arange(header.frames, dtype=np.float64)
    if not 0 < rate <= MAX_RATE:
        raise SettingsError(f"fps must be over 0 and at most {MAX_RATE}, got {float(rate):g}")
    if not header.continuous:
        raise SettingsError("this clip has no pictures between its frames: leave --fps out")
    step = header.rate / rate
    count = max(round(header.frames / step), 1)
    if count > MAX_FRAMES:
        raise SettingsError(f"fps of {float(rate):g} make {count} frames of this clip, over {MAX_FRAMES}")
    return float(step) * np.arange(count, dtype=np.float64)


def pick_writer(output: str) -> Writer:
    """Return the writer for an output; raises SettingsError, also for a folder that is not empty."""
    path = Path(output).resolve()
    if output.endswith("/") or path.is_dir() or not path.suffix:
        if path.exists() and not path.is_dir():
            raise SettingsError(f"{path} is a file, not a folder")
        if path.is_dir() and any(path.iterdir()):
            raise SettingsError(f"folder {path} is not empty")
        return Writer("rgb", _pngs)
    if path.suffix not in VIDEOS:
        raise SettingsError(f"output must be OUT.mp4, OUT.y4m or FOLDER/, got {output}")
    return VIDEOS[path.suffix]


@contextmanager
def _mp4(path: Path, header: Header, rate: Fraction) -> Generator[Write]:
    with replacing(path) as part, av.open(part, "w") as container:
        stream = container.add_stream("libx264", rate, options={"crf": CONSTANT_RATE_FACTOR})
        stream.height, stream.width = header.even_size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = Colorspace.ITU601
        stream.codec_context.color_range = ColorRange.MPEG

        def write(frames: Frames) -> None:
            for picture in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))

        yield write
        container.mux(stream.encode(None))


@contextmanager
def _y4m(path: Path, header: Header, rate: Fraction) -> Generator[Write]:
    height, width = header.even_size
    with replacing(path) as part, part.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{rate.numerator}:{rate.denominator} Ip A1:1 C420jpeg\n".encode())

        def write(frames: Frames) -> None:
            for picture in frames:
                file.write(b"FRAME\n" + picture.tobytes())

        yield write


@contextmanager
def _pngs(path: Path, _header: Header, _rate: Fraction) -> Generator[Write]:
    path = path.resolve()
    if not path.parent.is_dir():
        raise SettingsError(f"no such folder: {path.parent}")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.mkdir()
    count = 0

    def write(frames: Frames) -> None:
        nonlocal count
        for picture in frames:
            count += 1
            _write_png(part / f"{count:05}.png", picture)

    try:
        yield write
        if path.is_dir():
            path.rmdir()
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write an RGB picture (3, H, W)."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture.transpose(1, 2, 0)), format="rgb24")
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt = frame.width, frame.height, "rgb24"
    context.time_base = Fraction(1)
    path.write_bytes(b"".join(bytes(packet) for packet in (*context.encode(frame), *context.encode(None))))


VIDEOS: Mapping[str, Writer] = {".mp4": Writer("i420", _mp4), ".y4m": Writer("i420", _y4m)}
"""Writers by suffix. 4:2:0 pictures have even sizes: of an odd one the last row or column is there twice."""
