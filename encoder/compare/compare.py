"""The yardstick: fit networks and run classic codecs on one video, decode their files, measure, and keep what was measured."""

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
FILES = "files"
"""Names in a report's folder: of the results, and of the folder of the files that are compared."""
QUALITIES = ("psnr_db", "psnr_yuv_db", "ms_ssim")
"""Of a point, by which systems are compared."""


@dataclass(frozen=True, kw_only=True)
class RdPoint:
    """A file and what it is worth."""

    system: str
    """Preset or codec."""
    rate: str
    """What decides on the size: the network's, the weight of a bit, or a constant rate factor."""
    file: str
    """Name of the file."""
    file_bytes: int
    bits_per_pixel: float
    psnr_db: float
    """Of the RGB pixels, mean over frames."""
    psnr_yuv_db: float
    """Of luma and both chroma planes (BT.601, not subsampled), weighted 6:1:1, mean over frames."""
    ms_ssim: float | None
    """Of the RGB pixels, mean over frames."""
    encode_seconds: float
    decode_fps: float
    """Frames per second of decoding the whole file to 8-bit RGB, all that it takes included."""
    macs_per_pixel: float | None
    """Multiplications of the network for a pixel; None where there is no network."""


class Report:
    """A folder of results."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Go on with a folder's results; raises SettingsError for those of other settings."""
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
                f"{folder} holds a comparison of another {' and '.join(changed)}: name another folder"
            )
        self.points = points

    def path(self, point: RdPoint) -> Path:
        """Return where the file of a point is."""
        return self.folder / FILES / point.file

    def has_file(self, point: RdPoint) -> bool:
        """Tell whether the file of a point is there."""
        path = self.path(point)
        return path.is_file() and path.stat().st_size == point.file_bytes

    def find(self, system: str, rate: str) -> RdPoint | None:
        """Return a point if it has been measured, and its file is there."""
        found = (point for point in self.points if (point.system, point.rate) == (system, rate))
        return next(filter(self.has_file, found), None)

    def add(self, point: RdPoint, data: bytes) -> None:
        """Keep a file and what it is worth."""
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
        """Return the BD-rate of each system against each other in percent, by the quality, the system and the anchor."""
        return {quality: _bd_rates(self.points, quality) for quality in QUALITIES}


def read_results(folder: Path) -> tuple[dict[str, Any], list[RdPoint]]:
    """Return the settings and points of a comparison; raises SettingsError for a folder that holds none."""
    try:
        kept = json.loads((folder / RESULTS).read_text())
        return dict(kept["settings"]), [_checked(RdPoint(**point)) for point in kept["points"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise SettingsError(f"{folder / RESULTS} is no result of a comparison") from None


def _checked(point: RdPoint) -> RdPoint:
    """Return a point as it was read, if its values are what they should be; raises ValueError."""
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
    """Make a file, decode it and measure it, on the frames between the video's if these are given."""
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
    """Measure what the report does not have yet, yielding each point.

    With the odd frames held out, networks are fitted to the even ones, and measured on the odd ones in between.
    """
    held_out = None
    if is_held_out:
        video, held_out = halves(video)
    for system in systems:
        for rate in system.rates:
            if report.find(system.name, rate) is None:
                report.add(*measure(system, rate, video, held_out, show))
                yield report.points[-1]
