"""NeRV++'s comparison with NeRV and others, with the paper's recipe, beside the paper's figures.

The recipe is 300 epochs, 20 % of the weights pruned, 8 bits and Huffman's code (arXiv 2402.18305).
The paper's HNeRV is of frames of 1280x640, ours of 1280x720.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

from encoder.cli import main as encoder
from encoder.codec.clip import Clip
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.common.atomic_file import replacing
from encoder.common.errors import SettingsError
from encoder.compare.compare import RdPoint, Report, curves
from encoder.config import SIZES

PIPELINE = ("--bits", "8", "--prune", "0.2", "--coder", "huffman")
PUBLISHED = {("nerv++", "psnr_db"): -27.98, ("nerv++", "ms_ssim"): -29.99}
"""BD-rate against NeRV on Bunny in percent (table 2)."""
PUBLISHED_SPEED = {"nerv++": (0.62, 0.92)}
"""Frames per second and multiplications of a decoder against NeRV's (table 3)."""
TURNS = 7
"""Number of times that each file is decoded."""
DECODING = "decoding.json"
"""Name of the file with the frames per second of each clip."""
ANCHOR = "nerv"
QUALITIES = ("psnr_db", "ms_ssim")
POINT_COLUMNS = (
    "system",
    "rate",
    "file_bytes",
    "bits_per_pixel",
    *QUALITIES,
    "encode_seconds",
    "decode_fps",
    "macs_per_pixel",
)
"""Figures of a point that are shown."""

BdRates = Mapping[str, Mapping[str, Mapping[str, float | None]]]


def fit_networks(
    folder: Path,
    *,
    source: Path | None,
    size: str,
    epochs: int,
    presets: Sequence[str],
    device: str,
) -> int:
    """Fit the networks that a report lacks, in all sizes; return the exit code of `compare`.

    Raises SettingsError without NeRV, with which the others are compared.
    """
    if ANCHOR not in presets:
        raise SettingsError(f"the others are compared with {ANCHOR}: name it as well")
    options = {"--rates": len(SIZES), "--resize": size, "--epochs": epochs, "--device": device}
    given = [str(part) for option in options.items() for part in option]
    video = [] if source is None else [str(source)]
    networks = ("--presets", *presets, "--codecs")  # without classic codecs
    return encoder.main(["compare", *video, *networks, *given, *PIPELINE, "-o", str(folder)])


def timed(report: Report) -> list[RdPoint]:
    """Return a report's points with the decoding speeds of all files, and keep these speeds.

    Fits take hours, in which a machine becomes faster and slower. All files are therefore decoded
    in turns once they are there, by the reference decoder; a speed is the median of its turns.
    """
    decoders = [ReferenceDecoder(Clip.read(report.path(point))) for point in report.points]
    found: list[list[float]] = [[] for _ in decoders]
    for _ in range(TURNS):
        for decoder, speeds in zip(decoders, found, strict=True):
            began = time.perf_counter()
            frames = sum(1 for _ in decoder.frames())
            speeds.append(frames / (time.perf_counter() - began))
    points = [
        replace(point, decode_fps=median(speeds))
        for point, speeds in zip(report.points, found, strict=True)
    ]
    kept = {point.file: point.decode_fps for point in points}
    with replacing(report.folder / DECODING) as part:
        part.write_text(json.dumps(kept, indent=1) + "\n")
    return points


def bd_rates(rates: BdRates) -> Iterator[dict[str, object]]:
    """Yield the BD-rate of each network against NeRV: the paper's and the report's."""
    for quality in QUALITIES:
        for system, row in rates[quality].items():
            if system == ANCHOR:
                continue
            rate = row.get(ANCHOR)
            yield {
                "BD-rate against NeRV": system,
                "at equal": quality,
                "paper in %": PUBLISHED.get((system, quality), ""),
                "here in %": "under three points, or too little overlap" if rate is None else rate,
            }


def speeds(points: Sequence[RdPoint]) -> Iterator[dict[str, object]]:
    """Yield each network's decoding speed and multiplications against NeRV's, mean over sizes."""
    found = {name: {point.rate: point for point in curve} for name, curve in curves(points).items()}
    anchors = found.pop(ANCHOR, {})
    for name, sizes in found.items():
        pairs = [(sizes[rate], anchors[rate]) for rate in sizes if rate in anchors]
        if not pairs:
            continue
        fps, macs = PUBLISHED_SPEED.get(name, ("", ""))
        yield {
            "against NeRV": name,
            "fps in the paper": fps,
            "fps here": mean(a.decode_fps / b.decode_fps for a, b in pairs),
            "MACs in the paper": macs,
            "MACs here": mean((a.macs_per_pixel or 0) / (b.macs_per_pixel or 1) for a, b in pairs),
        }
