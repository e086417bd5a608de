"""Videos as cameras, broadcasts, phones and screens make them, small and from nothing."""

import io
import struct
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[Any]
"""RGB pixels (H, W, 3) of 0..255."""
LUMA = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""Weights of red and blue in luma, by the code of the matrix (ITU-T H.273)."""
LOSSLESS: Mapping[str, Mapping[str, str]] = {
    "libx264": {"qp": "0"},
    "libx265": {"x265-params": "lossless=1:log-level=none"},
    "mpeg2video": {"qmin": "1", "qmax": "1"},
}
PALETTE = np.array(
    [[210, 40, 50], [40, 170, 60], [50, 70, 200], [220, 200, 50], [30, 150, 160], [160, 40, 140]]
    + [[grey] * 3 for grey in (12, 60, 120, 180, 225, 250)],
    np.uint8,
)


def patches(width: int = 96, height: int = 64) -> Picture:
    """Return twelve patches of one colour each."""
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 4 // width
    return PALETTE[rows[:, None] * 4 + columns]


def flat(picture: Picture) -> NDArray[np.float64]:
    """Return the middle of each of twelve patches (3, H, W) -> (12, 3), where no colour of another reaches."""
    _, height, width = picture.shape
    rows, columns = (2 * np.arange(3) + 1) * height // 6, (2 * np.arange(4) + 1) * width // 8
    return picture[:, rows[:, None], columns].reshape(3, -1).T.astype(np.float64)


def corners(width: int = 96, height: int = 64) -> Picture:
    """Return a picture that no turn and no mirror leaves as it is."""
    picture = np.full((height, width, 3), 128, np.uint8)
    picture[: height // 2, : width // 2] = (200, 30, 30)
    picture[height // 2 :, : width // 2] = (30, 30, 200)
    picture[: height // 2, width // 2 :] = (30, 200, 30)
    return picture


def numbered(count: int, width: int = 32, height: int = 32, step: int = 5) -> list[Picture]:
    """Return pictures whose brightness is their number."""
    return [np.full((height, width, 3), step * index, np.uint8) for index in range(count)]


def yuv(
    rgb: Picture,
    *,
    matrix: int = 1,
    full: bool = False,
    bits: int = 8,
    halved: tuple[int, int] = (2, 2),
) -> av.VideoFrame:
    """Return a picture as planes, by the formulas of the standards; `halved` are the factors of chroma's width and height."""
    red, blue = LUMA[matrix]
    r, g, b = np.moveaxis(rgb.astype(np.float64) / 255, -1, 0)
    luma = red * r + (1 - red - blue) * g + blue * b
    planes = [luma, (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)]
    unit, top = 1 << (bits - 8), (1 << bits) - 1
    if full:
        planes = [planes[0] * top, *(plane * top + 128 * unit for plane in planes[1:])]
    else:
        planes = [
            unit * (219 * planes[0] + 16),
            *(unit * (224 * plane + 128) for plane in planes[1:]),
        ]
    names = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (4, 1): "411"}
    height, width = luma.shape
    frame = av.VideoFrame(width, height, f"yuv{names[halved]}p{'' if bits == 8 else f'{bits}le'}")
    kind = np.uint8 if bits == 8 else np.uint16
    for number, (plane, values) in enumerate(zip(frame.planes, planes, strict=True)):
        across, down = halved if number else (1, 1)
        small = values.reshape(height // down, down, width // across, across).mean((1, 3))
        samples = np.frombuffer(plane, kind).reshape(plane.height, -1)
        samples[:, : plane.width] = np.clip(np.rint(small), 0, top)
    return frame


def write(
    path: Path,
    frames: Sequence[av.VideoFrame],
    codec: str = "libx264",
    *,
    form: str | None = None,
    rate: Fraction | int = 25,
    times: Sequence[int] | None = None,
    unit: Fraction | None = None,
    options: Mapping[str, str] | None = None,
    muxing: Mapping[str, str] | None = None,
    **told: Any,
) -> Path:
    """Write frames as a video; what it is told to be are attributes of PyAV's codec context."""
    with av.open(path, "w", format=form, options=dict(muxing or {})) as container:
        stream = container.add_stream(
            codec, rate, options={**LOSSLESS.get(codec, {}), **(options or {})}
        )
        stream.width, stream.height, stream.pix_fmt = (
            frames[0].width,
            frames[0].height,
            frames[0].format.name,
        )
        if unit:
            stream.codec_context.time_base = unit
        for name, value in told.items():
            setattr(stream.codec_context, name, value)
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = (
                index if times is None else times[index],
                unit or 1 / Fraction(rate),
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def jpeg(picture: Picture, **how: Any) -> bytes:
    """Return a picture as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95, **how)
    return buffer.getvalue()


def write_jpegs(
    path: Path,
    pictures: Iterable[Picture],
    milliseconds: Sequence[int],
    *,
    rate: Fraction | int = 25,
) -> Path:
    """Write pictures that are shown at some times; each stands alone."""
    pictures = list(pictures)
    with av.open(path, "w") as container:
        stream = container.add_stream("mjpeg", rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuvj420p"
        for index, (picture, time) in enumerate(zip(pictures, milliseconds, strict=True)):
            packet = av.Packet(jpeg(picture))
            packet.stream, packet.pts, packet.dts, packet.time_base = (
                stream,
                time,
                time,
                Fraction(1, 1000),
            )
            packet.is_keyframe = True
            packet.duration = (
                milliseconds[index + 1] - time
                if index + 1 < len(milliseconds)
                else round(1000 / rate)
            )
            container.mux(packet)
    return path


def recording(
    folder: Path, start: int, count: int = 10, size: tuple[int, int] = (32, 32), **told: Any
) -> bytes:
    """Return a broadcast of so many pictures that begins at a time, in ticks of 90 kHz; more may be put behind it."""
    times = [start + index * 3600 for index in range(count)]
    frames = [yuv(picture) for picture in numbered(count, *size)]
    path = write(
        folder / "recording.ts",
        frames,
        times=times,
        unit=Fraction(1, 90000),
        options={"g": "5", "bf": "0", "x264-params": "repeat-headers=1"},
        muxing={"mpegts_copyts": "1"},
        **told,
    )
    return path.read_bytes()


def with_matrix(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Return an MP4 file whose track is shown by a matrix a, b, c, d: x' = a x + c y, y' = b x + d y."""

    def box(a: int, b: int, c: int, d: int) -> bytes:
        return struct.pack(">9i", *(value << 16 for value in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)

    at = data.rindex(box(1, 0, 0, 1))
    return data[:at] + box(*matrix) + data[at + 36 :]


def with_cover(data: bytes, picture: bytes) -> bytes:
    """Return an MP4 file with a cover picture; its index is at the end."""

    def box(kind: bytes, *content: bytes) -> bytes:
        body = b"".join(content)
        return struct.pack(">I", len(body) + 8) + kind + body

    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    cover = box(b"covr", box(b"data", struct.pack(">II", 13, 0) + picture))
    metadata = box(b"udta", box(b"meta", bytes(4), handler, box(b"ilst", cover)))
    at = data.rindex(b"moov") - 4
    index = data[at + 8 :]
    old = index.find(b"udta")
    return data[:at] + box(b"moov", index if old < 0 else index[: old - 4], metadata)


def write_tracks(path: Path, tracks: Sequence[tuple[Sequence[av.VideoFrame], bool]]) -> Path:
    """Write several video tracks, each with whether it is the default one."""
    with av.open(path, "w") as container:
        packets = []
        for frames, is_default in tracks:
            stream = container.add_stream("libx264", 25, options={"qp": "0", "bf": "0"})
            stream.width, stream.height, stream.pix_fmt = (
                frames[0].width,
                frames[0].height,
                "yuv420p",
            )
            stream.disposition = Disposition.default if is_default else Disposition(0)
            for index, frame in enumerate(frames):
                frame.pts, frame.time_base = index, Fraction(1, 25)
                packets += stream.encode(frame)
            packets += stream.encode(None)
        container.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


def write_sound(path: Path, codec: str = "aac") -> Path:
    """Write a tone."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, 44100, layout="mono")
        tone = (8000 * np.sin(np.arange(8820) / 16)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, "s16", "mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
