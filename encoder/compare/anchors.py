"""Classic codecs to compare networks with, run in this process by FFmpeg's libraries."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from encoder.common.errors import SettingsError
from encoder.media.colours import RESAMPLING
from encoder.media.video import Video

NOTES = "filter_units=remove_types=6"
"""Bitstream filter that removes x264's notes on itself (SEI), which no decoder needs."""
PIXELS = "yuv420p"
"""Pixel format with chroma at half the resolution, the usual one of these codecs."""


@dataclass(frozen=True, kw_only=True)
class Codec:
    """An encoder of FFmpeg and its settings."""

    title: str
    library: str
    form: str
    """File format with the least overhead."""
    factors: tuple[int, int]
    """Range of constant rate factors, best quality first."""
    options: dict[str, str] = field(default_factory=dict)

    def rates(self, count: int) -> list[int]:
        """Return `count` constant rate factors at even distances."""
        return [round(float(factor)) for factor in np.linspace(*self.factors, count)]


CODECS: dict[str, Codec] = {
    "x264": Codec(
        title="x264 medium",
        library="libx264",
        form="h264",
        factors=(21, 33),
        options={"preset": "medium"},
    ),
    "x265": Codec(
        title="x265 medium",
        library="libx265",
        form="hevc",
        factors=(21, 33),
        options={"preset": "medium", "x265-params": "log-level=none:info=0"},
    ),
    "svtav1": Codec(
        title="SVT-AV1 preset 6",
        library="libsvtav1",
        form="obu",
        factors=(32, 60),
        options={"preset": "6"},
    ),
}


def find_codec(name: str) -> Codec:
    """Return the codec with a name; raises SettingsError, which lists the known ones."""
    if name not in CODECS:
        raise SettingsError(f"unknown codec {name!r}, known are: {', '.join(CODECS)}")
    return CODECS[name]


def encode(video: Video, codec: Codec, factor: int) -> bytes:
    """Return the file of a video at a constant rate factor.

    4:2:0 pictures have even sizes: the last row or column of an odd one is repeated. Raises
    SettingsError for a codec that is not available, or that refuses the video.
    """
    try:
        return _encode(video, codec, factor)
    except (FFmpegError, UnknownCodecError) as error:
        raise SettingsError(f"{codec.title} cannot encode this video here: {error}") from None


def _encode(video: Video, codec: Codec, factor: int) -> bytes:
    # Errors alone; by default, SVT-AV1 writes its settings to stderr.
    os.environ.setdefault("SVT_LOG", "1")
    height, width = video.frames.shape[2:]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=codec.form) as container:
        options = codec.options | {"crf": str(factor)}
        stream = cast(VideoStream, container.add_stream(codec.library, video.rate, options=options))
        stream.height = height + height % 2
        stream.width = width + width % 2
        stream.pix_fmt = PIXELS
        for picture in video.frames:
            padded = np.pad(picture, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(padded.transpose(1, 2, 0)), format="rgb24"
            )
            frame = frame.reformat(
                format=PIXELS, dst_colorspace=Colorspace.ITU601, interpolation=RESAMPLING
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return _without_notes(buffer.getvalue()) if codec.library == "libx264" else buffer.getvalue()


def _without_notes(data: bytes) -> bytes:
    """Return an H.264 file without its encoder's notes."""
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(data), "r", format="h264") as source,
        av.open(buffer, "w", format="h264") as target,
    ):
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        notes = BitStreamFilterContext(NOTES, stream, copy)
        for packet in source.demux(stream):
            for kept in notes.filter(packet if packet.size else None):
                kept.stream = copy
                target.mux(kept)
    return buffer.getvalue()


def decode(data: bytes, codec: Codec, *, height: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the RGB frames (3, H, W) of a file, cropped to a size."""
    with av.open(io.BytesIO(data), "r", format=codec.form) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            rgb = frame.reformat(
                format="rgb24", src_colorspace=Colorspace.ITU601, interpolation=RESAMPLING
            )
            picture = cast(NDArray[np.uint8], rgb.to_ndarray())
            yield picture[:height, :width].transpose(2, 0, 1)
