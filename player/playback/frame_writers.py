"""Writers of decoded frames: video files, pipes and PNG images."""

import errno
import logging
import os
import shutil
import stat
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import IO, cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    ColorTrc,
    Interpolation,
    VideoReformatter,
)
from av.video.stream import VideoStream
from numpy.typing import NDArray

from encoder.codec.container import Header
from encoder.common.atomic_file import replacing
from encoder.common.errors import SettingsError
from encoder.media.colours import HD_HEIGHT, HD_WIDTH, RESAMPLING
from encoder.media.size import Size, size_text
from export.engines.base import Frames
from export.graph import PixelFormat
from player.playback.excerpt import Excerpt
from player.playback.extras_writer import ExtrasWriter
from player.rtc.i420 import i420_frame

STANDARD_OUTPUT = "-"

Write = Callable[[Frames], None]
"""A function that takes a batch of frames."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The properties of a video that is written."""

    size: Size
    """Width and height of its pictures, in pixels; both are even for 4:2:0."""
    pixel_aspect: Fraction
    """Width of a pixel divided by its height."""
    rate: Fraction
    """Frames per second."""
    excerpt: Excerpt | None = None
    """Sound, subtitles and metadata that belong to them."""


@dataclass(frozen=True)
class Writer:
    """A way to write frames."""

    pixels: PixelFormat
    """Format of the frames that it takes."""
    open: Callable[[Path, Shape], AbstractContextManager[Write]]
    """Function that starts a file or folder."""
    has_extras: bool = False
    """Whether it writes sound, subtitles and metadata as well."""


def pick_writer(output: str) -> Writer:
    """Return the writer for an output.

    Raises SettingsError for an unknown kind of output and for a folder that is not empty.
    """
    path = Path(output).resolve()
    kind = path.suffix.lower()
    if output == STANDARD_OUTPUT or is_pipe(path):
        if output == STANDARD_OUTPUT and sys.stdout is None:
            raise SettingsError("standard output is closed")
        if output == STANDARD_OUTPUT and sys.stdout.isatty():
            raise SettingsError("standard output is a terminal: pipe it, like | ffmpeg -i -")
        if kind not in ("", ".y4m") and output != STANDARD_OUTPUT:
            raise SettingsError(f"a pipe takes only Y4M: name it OUT.y4m, got {output}")
        return VIDEOS[".y4m"]
    if output.endswith("/") or path.is_dir() or not kind:
        if path.exists() and not path.is_dir():
            raise SettingsError(f"{path} is a file, not a folder")
        if path.is_dir() and any(path.iterdir()):
            raise SettingsError(f"folder {path} is not empty")
        return Writer("rgb", _pngs)
    if kind not in VIDEOS:
        raise SettingsError(
            f"output must be {', '.join(f'OUT{name}' for name in VIDEOS)}, FOLDER/ or -, "
            f"got {output}"
        )
    return VIDEOS[kind]


def is_pipe(path: Path) -> bool:
    """Return whether a path is a pipe or a device, which is written in place."""
    return path.exists() and any(
        test(path.stat().st_mode) for test in (stat.S_ISFIFO, stat.S_ISCHR, stat.S_ISSOCK)
    )


def shape_of(header: Header, rate: Fraction, size: Size | None, *, even: bool) -> Shape:
    """Return the properties of a video that a clip is written to.

    A size of another aspect ratio makes pixels that are not square, so the picture keeps its
    shape on the screen. Raises SettingsError for odd sizes if they must be even.
    """
    if size is None:
        height, width = header.even_size if even else (header.height, header.width)
        return Shape(size=(width, height), pixel_aspect=Fraction(1), rate=rate)
    if even and (size[0] % 2 or size[1] % 2):
        raise SettingsError(f"videos of 4:2:0 have even sizes, got {size_text(size)}")
    aspect = Fraction(header.width * size[1], header.height * size[0])
    return Shape(size=size, pixel_aspect=aspect, rate=rate)


def resized(frames: Frames, size: Size, pixels: PixelFormat, scaler: VideoReformatter) -> Frames:
    """Resize RGB frames (N, 3, H, W).

    Return RGB frames (N, 3, h, w) or I420 frames (N, h * 3 / 2, w).
    """
    made = [_resized(frame, size, pixels, scaler) for frame in frames]
    return np.stack(made)


def _resized(
    picture: NDArray[np.uint8], size: Size, pixels: PixelFormat, scaler: VideoReformatter
) -> NDArray[np.uint8]:
    width, height = size
    frame = av.VideoFrame.from_ndarray(
        np.ascontiguousarray(picture.transpose(1, 2, 0)), format="rgb24"
    )
    made = scaler.reformat(
        frame,
        width=width,
        height=height,
        format="rgb24" if pixels == "rgb" else "yuv420p",
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=ColorRange.JPEG if pixels == "rgb" else ColorRange.MPEG,
        interpolation=RESAMPLING | Interpolation.FULL_CHR_H_INP,
    )
    array = cast(NDArray[np.uint8], made.to_ndarray())
    return array.transpose(2, 0, 1) if pixels == "rgb" else array


@contextmanager
def _video(
    form: str, codec: str, options: Mapping[str, str], path: Path, shape: Shape
) -> Generator[Write]:
    try:
        with replacing(path) as part, av.open(part, "w", format=form) as container:
            settings = {**options, "chroma_sample_location": "center"}
            stream = cast("VideoStream", container.add_stream(codec, shape.rate, options=settings))
            stream.width, stream.height = shape.size
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.sample_aspect_ratio = shape.pixel_aspect
            context.colorspace = Colorspace.ITU601
            context.color_range = ColorRange.MPEG
            context.color_primaries = ColorPrimaries.BT709
            context.color_trc = ColorTrc.BT709
            extras = None if shape.excerpt is None else ExtrasWriter(container, shape.excerpt)
            count = 0

            def write(frames: Frames) -> None:
                nonlocal count
                for picture in frames:
                    count += 1
                    if extras is not None:
                        extras.write(count / shape.rate)
                    container.mux(stream.encode(i420_frame(picture)))

            yield write
            container.mux(stream.encode(None))
    except FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def _y4m(path: Path, shape: Shape) -> Generator[Write]:
    width, height = shape.size
    rate = shape.rate
    aspect = shape.pixel_aspect
    if height >= HD_HEIGHT or width >= HD_WIDTH:
        logger.info(
            "Y4M cannot tell that its colours are BT.601, which players take for BT.709 in HD: "
            "prefer OUT.mkv"
        )
    with _opened(path) as file:
        file.write(
            f"YUV4MPEG2 W{width} H{height} F{rate.numerator}:{rate.denominator} Ip "
            f"A{aspect.numerator}:{aspect.denominator} C420jpeg XCOLORRANGE=LIMITED\n".encode()
        )

        def write(frames: Frames) -> None:
            for picture in frames:
                file.write(b"FRAME\n" + picture.tobytes())

        yield write
        file.flush()


@contextmanager
def _naming(path: Path) -> Generator[None]:
    """Add the file's name to errors of the body: errors of writing do not have it."""
    try:
        yield
    except OSError as error:
        if error.errno in (None, errno.EPIPE) or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def _opened(path: Path) -> Generator[IO[bytes]]:
    """Open a file that takes its place when it is whole, or a pipe."""
    with _naming(path), ExitStack() as stack:
        if str(path) == STANDARD_OUTPUT:
            try:
                yield sys.stdout.buffer
            except OSError:
                # The rest of the buffer could not be written at the end of the process either.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise
        elif is_pipe(path):
            yield stack.enter_context(path.open("wb"))
        else:
            yield stack.enter_context(stack.enter_context(replacing(path)).open("wb"))


@contextmanager
def _pngs(path: Path, _shape: Shape) -> Generator[Write]:
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
        with _naming(path):
            yield write
        if path.is_dir():
            path.rmdir()
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write an RGB picture (3, H, W)."""
    frame = av.VideoFrame.from_ndarray(
        np.ascontiguousarray(picture.transpose(1, 2, 0)), format="rgb24"
    )
    context = av.CodecContext.create("png", "w")
    context.width = frame.width
    context.height = frame.height
    context.pix_fmt = "rgb24"
    context.time_base = Fraction(1)
    path.write_bytes(
        b"".join(bytes(packet) for packet in (*context.encode(frame), *context.encode(None)))
    )


X264 = {"crf": "12"}
VP9 = {"crf": "18", "b": "0", "row-mt": "1", "cpu-used": "5"}
"""Options of FFmpeg's encoders for visually lossless quality: the clip has lost enough."""
VIDEOS: Mapping[str, Writer] = {
    ".mp4": Writer("i420", partial(_video, "mp4", "libx264", X264), has_extras=True),
    ".mkv": Writer("i420", partial(_video, "matroska", "libx264", X264), has_extras=True),
    ".webm": Writer("i420", partial(_video, "webm", "libvpx-vp9", VP9), has_extras=True),
    ".y4m": Writer("i420", _y4m),
}
"""Writers by suffix.

Pictures of 4:2:0 have even sizes: the last row or column of an odd picture is repeated.
"""
