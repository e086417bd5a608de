"""Tables and plots of the figures that `benchmarks gpu` measured."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.points import Point
from encoder.common.atomic_file import replacing
from encoder.compare.report import markdown

COLUMNS: Mapping[str, tuple[str, str]] = {
    "preset": ("network", "{}"),
    "size": ("size", "{}"),
    "frame": ("frame", "{}"),
    "source": ("source", "{}"),
    "engine": ("engine", "{}"),
    "kind": ("kind", "{}"),
    "recorded": ("CUDA graph", "{}"),
    "precision": ("precision", "{}"),
    "mode": ("mode", "{}"),
    "batch": ("batch", "{}"),
    "lambda": ("lambda", "{:g}"),
    "epochs": ("epochs", "{}"),
    "operator": ("operator", "{}"),
    "provider": ("runs on", "{}"),
    "milliseconds": ("ms", "{:.3f}"),
    "decode_fps": ("decoding in fps", "{:.1f}"),
    "fps": ("with the copy, in fps", "{:.1f}"),
    "p95_ms": ("p95 in ms", "{:.1f}"),
    "gflop": ("GFLOP a frame", "{:.2f}"),
    "floor_ms": ("floor in ms", "{:.3f}"),
    "share": ("share of the floor's speed", "{:.1%}"),
    "bound": ("bound by", "{}"),
    "steps_per_second": ("steps a second", "{:.1f}"),
    "gflop_per_step": ("GFLOP a step", "{:.0f}"),
    "peak_gflops": ("peak in GFLOP/s", "{:,.0f}"),
    "share_of_peak": ("share of the peak", "{:.1%}"),
    "fit_seconds": ("fit in s", "{:.1f}"),
    "epoch_seconds": ("epoch in s", "{:.2f}"),
    "bytes": ("bytes", "{:,}"),
    "psnr_db": ("PSNR in dB", "{:.2f}"),
    "largest_difference": ("largest difference, RGB", "{}"),
    "largest_difference_i420": ("largest difference, I420", "{}"),
    "psnr_between_db": ("PSNR against the reference", "{:.1f}"),
    "holds": ("holds", "{}"),
    "refused": ("refused", "{}"),
}
"""Shown figures by name: title and format, in their order."""
GROUPS: Mapping[str, str] = {
    "peak arithmetic": "Peak arithmetic",
    "steps": "Steps of fits",
    "fit": "Fits",
    "networks": "Networks of papers",
    "decode": "Decoding",
    "verify": "Differences from the reference decoder",
    "profile": "Operators of a step that take the most time",
    "operators": "Operators of decoding that take the most time, a frame at a time",
}
"""Titles of the tables, by the beginning of the names of their jobs."""


def write_gpu_report(path: Path) -> None:
    """Write a table (.md) and a plot (.svg) beside a file of figures; a file without none."""
    found = json.loads(path.read_text())
    points = found.pop("points")
    lines = [f"{name}: {value}  " for name, value in found.items()]
    for start, title in GROUPS.items():
        group = [point for point in points if point["job"].startswith(f"{start}")]
        if group:
            lines += ["", f"## {title}", "", *markdown(list(_rows(group)))]
    with replacing(path.with_suffix(".md")) as part:
        part.write_text("\n".join(lines) + "\n")
    _plot(points, path.with_suffix(".svg"))


def _rows(points: Sequence[Point]) -> Iterator[Sequence[str]]:
    points = [{"preset": point["job"]} | point for point in points]  # a failed job has no more
    names = [name for name in COLUMNS if any(point.get(name) is not None for point in points)]
    yield [COLUMNS[name][0] for name in names]
    for point in points:
        yield [
            "" if (value := point.get(name)) is None else COLUMNS[name][1].format(value)
            for name in names
        ]


def _plot(points: Sequence[Point], path: Path) -> None:
    """Draw a bar for each speed: steps a second, or decoded frames a second."""
    speeds = [point for point in points if _speed(point) is not None]
    if not speeds:
        path.unlink(missing_ok=True)
        return
    names = [_label(point) for point in speeds]
    figure = Figure(figsize=(9, 1 + 0.22 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.barh(names, [_speed(point) or 0.0 for point in speeds], color="#4477aa")
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.grid(axis="x", alpha=0.4)
    is_fit = "steps_per_second" in speeds[0]
    axes.set_xlabel("steps per second" if is_fit else "decoded frames per second")
    with replacing(path) as part:
        figure.savefig(part, format="svg")


def _speed(point: Point) -> float | None:
    return point.get("steps_per_second", point.get("decode_fps"))


def _label(point: Point) -> str:
    parts = ("preset", "frame", "engine", "kind", "precision", "mode", "batch")
    return ", ".join(str(point[name]) for name in parts if name in point)
