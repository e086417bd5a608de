"""Comparison of networks and classic codecs on one video: encode, decode, measure, and record."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, isnan
from pathlib import Path
from typing import Any, get_type_hints

from encoder.common.atomic_file import replacing
from encoder.common.errors import SettingsError
from encoder.compare.bd_rate import bd_rate
from encoder.compare.contenders import Contender, Show
from encoder.compare.evaluation import FrameQuality, frame_quality, mean_quality
from encoder.media.video import Video

RESULTS = "results.json"
"""Name of the results in a report's folder."""
FILES = "files"
"""Name of the folder of compared files in a report's folder."""
QUALITIES = ("psnr_db", "psnr_yuv_db", "ms_ssim")
"""Fields of a point by which systems are compared."""


@dataclass(frozen=True, kw_only=True)
class RdPoint:
    """A point of a rate-distortion curve: a file with its size and quality."""

    system: str
    """Preset or codec."""
    rate: str
    """Setting that decides on the file's size: a network size, lambda, or constant rate factor."""
    file: str
    """Name of the file."""
    file_bytes: int
    bits_per_pixel: float
    psnr_db: float
    """PSNR of the RGB pixels, mean over frames."""
    psnr_yuv_db: float
    """PSNR of luma and both chroma planes, weighted 6:1:1, mean over frames.

    The planes are those of BT.601, without subsampling.
    """
    ms_ssim: float | None
    """MS-SSIM of the RGB pixels, mean over frames; None for frames too small for it."""
    encode_seconds: float
    decode_fps: float
    """Frames per second of decoding the whole file to 8-bit RGB, including all preparation."""
    macs_per_pixel: float | None
    """Multiplications of the network per pixel; None for a classic codec."""


class Report:
    """A folder with the results and files of a comparison."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Open a folder with its earlier results; raises SettingsError if the settings differ."""
        self.folder = folder
        self.settings = settings
        self.points: list[RdPoint] = []
        (folder / FILES).mkdir(parents=True, exist_ok=True)
        if not (folder / RESULTS).exists():
            return
        before, points = read_results(folder)
        if before != settings:
            changed = sorted(
                key for key in before | settings if before.get(key) != settings.get(key)
            )
            raise SettingsError(
                f"{folder} holds a comparison of another {' and '.join(changed)}: "
                "name another folder"
            )
        self.points = points

    def path(self, point: RdPoint) -> Path:
        """Return the path of a point's file."""
        return self.folder / FILES / point.file

    def has_file(self, point: RdPoint) -> bool:
        """Return whether a point's file exists and has the recorded size."""
        path = self.path(point)
        return path.is_file() and path.stat().st_size == point.file_bytes

    def find(self, system: str, rate: str) -> RdPoint | None:
        """Return the point of a system and rate, if it has been measured and its file exists."""
        found = (point for point in self.points if (point.system, point.rate) == (system, rate))
        return next(filter(self.has_file, found), None)

    def add(self, point: RdPoint, data: bytes) -> None:
        """Write a point's file, and the results with the new point."""
        with replacing(self.path(point)) as part:
            part.write_bytes(data)
        same = (point.system, point.rate)
        self.points = [*(old for old in self.points if (old.system, old.rate) != same), point]
        kept = {
            "settings": self.settings,
            "points": list(map(asdict, self.points)),
            "bd_rate": self.bd_rates(),
        }
        with replacing(self.folder / RESULTS) as part:
            part.write_text(json.dumps(kept, indent=1) + "\n")

    def bd_rates(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Return the BD-rates between systems in percent, by quality, system and anchor.

        A BD-rate is None if the curves do not determine it.
        """
        return {quality: _bd_rates(self.points, quality) for quality in QUALITIES}


def read_results(folder: Path) -> tuple[dict[str, Any], list[RdPoint]]:
    """Return the settings and points of a comparison.

    Raises SettingsError for a folder without valid results.
    """
    try:
        kept = json.loads((folder / RESULTS).read_text())
        return dict(kept["settings"]), [_checked(RdPoint(**point)) for point in kept["points"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise SettingsError(f"{folder / RESULTS} is no result of a comparison") from None


def _checked(point: RdPoint) -> RdPoint:
    """Return a point as it was read; raises ValueError for wrong types, NaN or a path as a name."""
    for name, kind in get_type_hints(RdPoint).items():
        value = getattr(point, name)
        if not isinstance(value, kind) or (isinstance(value, float) and not isfinite(value)):
            raise ValueError(name)
    if Path(point.file).name != point.file:
        raise ValueError(point.file)
    return point


def _bd_rates(points: Sequence[RdPoint], quality: str) -> dict[str, dict[str, float | None]]:
    found = {
        name: [
            (point.bits_per_pixel, getattr(point, quality))
            for point in curve
            if getattr(point, quality) is not None
        ]
        for name, curve in curves(points).items()
    }
    rates = {
        test: {anchor: bd_rate(found[anchor], found[test]) for anchor in found if anchor != test}
        for test in found
    }
    return {
        test: {anchor: None if isnan(rate) else rate for anchor, rate in row.items()}
        for test, row in rates.items()
    }


def curves(points: Sequence[RdPoint]) -> dict[str, list[RdPoint]]:
    """Return the points of each system, from the smallest file to the largest."""
    names = dict.fromkeys(point.system for point in points)
    ordered = sorted(points, key=lambda point: point.file_bytes)
    return {name: [point for point in ordered if point.system == name] for name in names}


def measure(
    system: Contender, rate: str, video: Video, held_out: Video | None, show: Show
) -> tuple[RdPoint, bytes]:
    """Encode a video at a rate, decode the file and measure it; return the point and the file.

    With `held_out` frames, which lie between the video's, those are decoded and measured instead.
    """
    began = time.perf_counter()
    file = system.encode(video, rate, show)
    encode_seconds = time.perf_counter() - began
    originals = video.frames if held_out is None else held_out.frames
    qualities: list[FrameQuality] = []
    began = time.perf_counter()
    if held_out is None:
        frames = system.decode(file.data, video)
    else:
        frames = system.at(file.data, video, [index + 0.5 for index in range(len(originals))])
    decode_seconds = time.perf_counter() - began
    for original in originals:
        began = time.perf_counter()
        decoded = next(frames)
        decode_seconds += time.perf_counter() - began
        qualities.append(frame_quality(decoded, original))
    mean = mean_quality(qualities)
    point = RdPoint(
        system=system.name,
        rate=rate,
        file=system.file_name(rate),
        file_bytes=len(file.data),
        bits_per_pixel=8 * len(file.data) / video.frames[:, 0].size,
        psnr_db=mean.psnr_db,
        psnr_yuv_db=mean.psnr_yuv_db,
        ms_ssim=mean.ms_ssim,
        encode_seconds=encode_seconds,
        decode_fps=len(qualities) / decode_seconds,
        macs_per_pixel=file.macs_per_pixel,
    )
    return point, file.data


def halves(video: Video) -> tuple[Video, Video]:
    """Return the even frames of a video, and the odd ones that lie between them."""
    return Video(video.frames[::2], video.rate / 2), Video(video.frames[1:-1:2], video.rate / 2)


def compare(
    systems: Sequence[Contender],
    video: Video,
    report: Report,
    *,
    is_held_out: bool = False,
    show: Show = lambda _: None,
) -> Iterator[RdPoint]:
    """Measure each point that the report lacks, and yield it.

    `is_held_out` fits networks to the even frames and measures them on the odd ones in between.
    """
    held_out = None
    if is_held_out:
        video, held_out = halves(video)
    for system in systems:
        for rate in system.rates:
            if report.find(system.name, rate) is None:
                report.add(*measure(system, rate, video, held_out, show))
                yield report.points[-1]
