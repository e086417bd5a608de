"""Report of a comparison: tables in Markdown, and one self-contained HTML page.

The page has plots, crops and error maps as well.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log
from operator import attrgetter
from pathlib import Path

import numpy as np
from matplotlib import image
from matplotlib.figure import Figure
from numpy.typing import NDArray

from encoder.common.atomic_file import replacing
from encoder.compare.compare import QUALITIES, RdPoint, Report, curves
from encoder.compare.contenders import frame_at
from encoder.media.video import Video

MARKDOWN = "report.md"
PAGE = "report.html"
PUBLISHED = Path(__file__).parents[1] / "data" / "published.json"
CROP = 128
"""Height and width of a crop, in pixels; smaller frames are shown whole."""
ERROR_GAIN = 4
"""Factor of the differences in an error map."""
LABELS = ("PSNR of RGB in dB", "PSNR of YUV 6:1:1 in dB", "MS-SSIM")
"""Labels of QUALITIES."""
COLUMNS = {
    "system": "{0.system}",
    "rate": "{0.rate}",
    "bytes": "{0.file_bytes:,}",
    "bits per pixel": "{0.bits_per_pixel:.4f}",
    "PSNR RGB": "{0.psnr_db:.2f}",
    "PSNR YUV": "{0.psnr_yuv_db:.2f}",
    "encoding in s": "{0.encode_seconds:.1f}",
    "decoding in fps": "{0.decode_fps:.0f}",
}
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; \
padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #8884; \
white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { display: inline-block; margin: .5rem; vertical-align: top; } \
figcaption { font-size: .85rem; max-width: 16rem; }
img { image-rendering: pixelated; width: 16rem; } \
svg { background: white; max-width: 100%; height: auto; }
"""

Rows = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Table:
    """A table with a title and an explanation."""

    title: str
    text: str
    rows: Rows
    """Rows of cells; the first is the head."""


def write_report(report: Report, video: Video, frame: int, *, is_held_out: bool = False) -> None:
    """Write the tables and the page of a report, with pictures of one frame of the video."""
    tables = [points_table(report), *bd_tables(report), published_table(report)]
    settings = ", ".join(
        f"{key.replace('_', ' ')}: {value}" for key, value in report.settings.items()
    )
    with replacing(report.folder / MARKDOWN) as part:
        sections = (
            ["", f"## {table.title}", "", table.text, "", *markdown(table.rows)] for table in tables
        )
        part.write_text(
            "\n".join(
                ["# Comparison", "", settings, *(line for section in sections for line in section)]
            )
            + "\n"
        )
    body = ["<h1>Comparison</h1>", f"<p>{escape(settings)}</p>"]
    body += [plot(report, label, name) for label, name in zip(LABELS, QUALITIES, strict=True)]
    body += [f"<h2>Frame {frame}</h2>", *pictures(report, video, frame, is_held_out=is_held_out)]
    for table in tables:
        body += [f"<h2>{table.title}</h2>", f"<p>{table.text}</p>", *html(table.rows)]
    with replacing(report.folder / PAGE) as part:
        head = (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            f"<title>Comparison</title><style>{STYLE}</style>"
        )
        part.write_text("\n".join([head, *body]) + "\n")


def points_table(report: Report) -> Table:
    """Return the table of all points."""
    rows = [[*COLUMNS, "MS-SSIM", "MAC per pixel"]]
    for curve in curves(report.points).values():
        for point in curve:
            similarity = "" if point.ms_ssim is None else f"{point.ms_ssim:.4f}"
            complexity = "" if point.macs_per_pixel is None else f"{point.macs_per_pixel:,.0f}"
            rows.append(
                [*(form.format(point) for form in COLUMNS.values()), similarity, complexity]
            )
    text = (
        "Sizes are those of the files; qualities are of what was decoded from them, "
        "after 8-bit rounding, mean over frames. "
        "Decoding is to RGB on the CPU, of all frames or of those held out: "
        "networks by the reference decoder, classic codecs (4:2:0) by FFmpeg."
    )
    return Table("Files", text, rows)


def bd_tables(report: Report) -> list[Table]:
    """Return the tables of the BD-rates between systems, one for each quality."""
    text = (
        "How many more bytes a row takes than a column at equal quality; "
        "below zero, the row is smaller. "
        "Empty where curves have little of their range in common, or under three points."
    )
    tables: list[Table] = []
    for quality, label in zip(QUALITIES, LABELS, strict=True):
        rates = report.bd_rates()[quality]
        cells = {
            test: [_percent(row.get(anchor)) for anchor in rates] for test, row in rates.items()
        }
        rows = [["", *rates], *([test, *row] for test, row in cells.items())]
        tables.append(Table(f"BD-rate at equal {label.removesuffix(' in dB')}", text, rows))
    return tables


def published_table(report: Report) -> Table:
    """Return the table of published results, next to this comparison's for the same system."""
    here = {
        name: ", ".join(_pair(p.bits_per_pixel, p.psnr_db) for p in curve)
        for name, curve in curves(report.points).items()
    }
    rows = [["system", "here, bits per pixel: dB", "published, bits per pixel: dB", "of", "source"]]
    for entry in json.loads(PUBLISHED.read_text()):
        points = entry.get("text") or ", ".join(_pair(*point) for point in entry["points"])
        rows.append(
            [
                entry["name"],
                here.get(entry.get("system"), ""),
                points,
                entry["clip"],
                entry["source"],
            ]
        )
    text = (
        "Mostly of other videos, sizes and machines, "
        "their bits per pixel estimated and not those of a file."
    )
    return Table("Published", text, rows)


def _pair(rate: float, quality: float) -> str:
    return f"{rate:.4f}: {quality:.2f}"


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{rate:+.1f} %"


def markdown(rows: Rows) -> list[str]:
    """Return the lines of a table in Markdown."""
    shown = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in row] for row in rows]
    head, *rest = [f"| {' | '.join(row)} |" for row in shown]
    return [head, "|" + "---|" * len(rows[0]), *rest]


def html(rows: Rows) -> list[str]:
    """Return the lines of a table in HTML."""
    tags = ["th", *["td"] * (len(rows) - 1)]
    lines = (
        "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
        for tag, row in zip(tags, rows, strict=True)
    )
    return ["<table>", *(f"<tr>{line}</tr>" for line in lines), "</table>"]


def plot(report: Report, label: str, name: str) -> str:
    """Return a plot of a quality over the bits per pixel, as SVG."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for system, curve in curves(report.points).items():
        points = [point for point in curve if getattr(point, name) is not None]
        rates = map(attrgetter("bits_per_pixel"), points)
        qualities = map(attrgetter(name), points)
        axes.plot(list(rates), list(qualities), marker="o", label=system.replace("$", r"\$"))
    axes.set(xlabel="bits per pixel", ylabel=label, xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    text = io.StringIO()
    figure.savefig(text, format="svg")
    return text.getvalue()[text.getvalue().index("<svg") :]


def pictures(report: Report, video: Video, frame: int, *, is_held_out: bool) -> list[str]:
    """Return the figures of a frame as HTML: crops of the source and of each system.

    The systems' points have similar bits per pixel. Each has a map of its errors.
    """
    original = video.frames[frame]
    lines = [_figure(original, "source")]
    for name, point in _alike(curves(list(filter(report.has_file, report.points)))).items():
        time = frame / 2 if is_held_out else frame  # such files have the even frames alone
        decoded = frame_at(point.system, report.path(point).read_bytes(), video, time)
        errors = np.abs(decoded.astype(np.int16) - original) * ERROR_GAIN
        lines.append(
            _figure(
                decoded,
                f"{name}, {point.rate}: {point.bits_per_pixel:.4f} bits per pixel, "
                f"{point.psnr_db:.2f} dB",
            )
        )
        lines.append(
            _figure(errors.clip(0, 255).astype(np.uint8), f"{name}: error, {ERROR_GAIN} times")
        )
    return lines


def _alike(found: Mapping[str, Sequence[RdPoint]]) -> dict[str, RdPoint]:
    """Return the point of each curve whose bits per pixel are nearest to the median of all."""
    middle = float(
        np.median([log(point.bits_per_pixel) for curve in found.values() for point in curve])
    )
    return {
        name: min(curve, key=lambda point: abs(log(point.bits_per_pixel) - middle))
        for name, curve in found.items()
    }


def _figure(picture: NDArray[np.uint8], caption: str) -> str:
    _, height, width = picture.shape
    top = max(height - CROP, 0) // 2
    left = max(width - CROP, 0) // 2
    cropped = picture[:, top : top + CROP, left : left + CROP]
    buffer = io.BytesIO()
    image.imsave(buffer, np.ascontiguousarray(cropped.transpose(1, 2, 0)), format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    text = escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
