"""Tables of docs/explanation/results.md, made from the measured points."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isnan, log10

import numpy as np

from benchmarks.points import CLIPS, Point
from encoder.compare.bd_rate import bd_rate

CURVES = {
    "ours": "nervcast, {} s",
    "ladder": "nervcast, ladder, {} s + {} s",
    "paper": "papers' pipeline, {} s",
}
"""Names of the curves of some measurements, with the seconds of a fit and half of them."""
OWN = "nervcast"
"""Beginning of the names of our curves."""
UNSTEERED = "preset's rate"
"""Part of the name of fits that are not steered to a size."""
IN_PROSE = ("overhead", "workers", "large", "film", "integers")
"""Measurements that the page states in its text."""

Table = list[str]
"""Lines of a table in Markdown."""


def tables(points: Sequence[Point]) -> Iterator[Table]:
    """Yield the tables of the page in their order."""
    for clip in CLIPS:
        curves = _curves([point for point in points if point["clip"] == clip])
        yield _curve_table(curves)
        yield _bd_rate_table(curves, "PSNR", lambda point: point["psnr_db"])
        yield _bd_rate_table(curves, "MS-SSIM", _ms_ssim_db)
    yield _time_table(_of(points, "times"))
    yield _ladder_table(points)
    yield _technique_table(_of(points, "ablations"))
    yield _target_table(_of(points, "targets"))
    yield _motion_table(_of(points, "motion"))
    yield _speed_table(_of(points, "speed"))
    yield _operator_table(_of(points, "operators"))
    yield _length_table(_of(points, "lengths"))
    steered = [p for p in _of(points, "scenes") if UNSTEERED not in p["shares"]]
    yield _evenness_table(steered)
    yield _evenness_table(_of(points, "keys"))
    yield _decoding_table(_of(points, "decoding"))
    yield _unseen_table(_of(points, "interpolation"))
    yield _unseen_table(_of(points, "inpainting"))


def others(points: Iterable[Point]) -> list[Point]:
    """Return the points that the page states in its text instead of in a table."""
    return [p for p in points if p["measurement"] in IN_PROSE or UNSTEERED in p.get("shares", "")]


def _of(points: Iterable[Point], measurement: str) -> list[Point]:
    return [point for point in points if point["measurement"] == measurement]


def _table(columns: str, rows: Iterable[str]) -> Table:
    """Return a table of columns, separated by bars, and of rows of cells."""
    return [f"| {columns} |".replace("|  |", "| |"), "|---" * (columns.count("|") + 1) + "|", *rows]


def _curves(points: Iterable[Point]) -> dict[str, list[Point]]:
    """Return the points of each curve by its name, from the smallest file to the largest."""
    curves: dict[str, list[Point]] = {}
    for point in points:
        if point["measurement"] in (*CURVES, "codecs"):
            seconds = point["seconds"]
            name = point.get("codec") or CURVES[point["measurement"]].format(seconds, seconds // 2)
            curves.setdefault(name, []).append(point)
    return {name: _ordered(curve) for name, curve in curves.items()}


def _ordered(curve: Iterable[Point]) -> list[Point]:
    return sorted(curve, key=lambda point: point["bytes"])


def _listed(curve: Iterable[Point]) -> str:
    points = _ordered(curve)
    sizes = ", ".join(f"{point['bytes']:,}: {point['psnr_db']:.2f}" for point in points)
    weights = [point["bits_per_weight"] for point in points if "bits_per_weight" in point]
    return f"{sizes} | {', '.join(f'{bits:.2f}' for bits in weights)}"


def _curve_table(curves: dict[str, list[Point]]) -> Table:
    rows = (f"| {name} | {_listed(curve)} |" for name, curve in curves.items())
    return _table(" | bytes: PSNR in dB | bits per weight", rows)


def _ms_ssim_db(point: Point) -> float | None:
    """Return the MS-SSIM of a point in decibels; None if it was not measured."""
    return -10 * log10(1 - point["ms_ssim"]) if "ms_ssim" in point else None


def _bd_rate_table(
    curves: dict[str, list[Point]], measure: str, quality: Callable[[Point], float | None]
) -> Table:
    """Return the table of the BD-rates of our curves against each other one, by a quality.

    Curves with points that lack the quality are left out.
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    for name, curve in curves.items():
        found = [(point["bytes"], value) for point in curve if (value := quality(point))]
        if len(found) == len(curve):
            pairs[name] = found
    anchors = [name for name in pairs if not name.startswith(OWN)]
    rows: list[str] = []
    for name, curve in pairs.items():
        if name.startswith(OWN):
            rates = [_percent(bd_rate(pairs[anchor], curve)) for anchor in anchors]
            rows.append(f"| {name} | {' | '.join(rates)} |")
    return _table(f"BD-rate by {measure} against | {' | '.join(anchors)}", rows)


def _percent(rate: float) -> str:
    return "too little in common" if isnan(rate) else f"{rate:+.1f} %"


def _time_table(points: Sequence[Point]) -> Table:
    """Return the table of the files of fits of several times."""
    limits = sorted({point["fit_seconds"] for point in points})
    rows: list[str] = []
    for clip in dict.fromkeys(point["clip"] for point in points):
        reached = {p["fit_seconds"]: p for p in points if p["clip"] == clip}
        cells = [
            _listed([reached[each]]).split(" | ")[0] if each in reached else "" for each in limits
        ]
        rows.append(f"| {clip} | {' | '.join(cells)} |")
    return _table(f"bytes: PSNR in dB | {' | '.join(f'{each} s' for each in limits)}", rows)


def _ladder_table(points: Sequence[Point]) -> Table:
    """Return the table of rungs against separate fits.

    Between two separate fits, the quality is taken as linear in the logarithm of the bytes.
    """
    rows: list[str] = []
    for rung in _of(points, "ladder"):
        same = {"measurement": "ours", "clip": rung["clip"], "seconds": rung["seconds"]}
        own = _ordered(point for point in points if same.items() <= point.items())
        if not own:
            continue
        sizes = np.log([point["bytes"] for point in own])
        qualities = [point["psnr_db"] for point in own]
        gain = rung["psnr_db"] - np.interp(np.log(rung["bytes"]), sizes, qualities)
        rows.append(
            f"| {rung['clip']}, {rung['seconds']} s | {rung['target']} | {rung['bytes']:,} "
            f"| {rung['psnr_db']:.2f} | {gain:+.2f} |"
        )
    columns = "bits per pixel asked for | bytes | PSNR in dB | against a fit of its own"
    return _table(f"clip, seconds | {columns}", rows)


def _technique_table(points: Sequence[Point]) -> Table:
    """Return the table of the contribution of each technique."""
    whole = [point for point in points if point["without"] == "nothing"]
    rows: list[str] = []
    for name in dict.fromkeys(point["without"] for point in points):
        curve = [point for point in points if point["without"] == name]
        more = "" if name == "nothing" else f"{100 * (_excess(whole, curve) - 1):+.0f} %"
        rows.append(f"| {name} | {_listed(curve)} | {more} |")
    return _table("left out | bytes: PSNR in dB | bits per weight | bytes at equal PSNR", rows)


def _excess(whole: Sequence[Point], other: Sequence[Point]) -> float:
    """Return the ratio of two curves' bytes at the PSNR in their middle.

    The logarithm of the bytes is taken as linear in the PSNR, with the slope of `whole`.
    """
    middle = np.mean([point["psnr_db"] for point in (*whole, *other)])
    qualities = [point["psnr_db"] for point in whole]
    slope, _ = np.polyfit(qualities, np.log([point["bytes"] for point in whole]), 1)
    at = [
        np.mean([np.log(p["bytes"]) + slope * (middle - p["psnr_db"]) for p in curve])
        for curve in (other, whole)
    ]
    return float(np.exp(at[0] - at[1]))


def _target_table(points: Sequence[Point]) -> Table:
    """Return the table of the wanted and the reached sizes."""
    rows: list[str] = []
    for point in points:
        after = f" after {point['after_bytes']:,}" if "after_bytes" in point else ""
        off = 100 * (point["bytes"] / point["target_bytes"] - 1)
        reached = f"{point['bytes']:,}: {point['psnr_db']:.2f}"
        rows.append(f"| {point['target_bytes']:,}{after} | {reached} | {off:+.1f} % |")
    return _table("asked for | bytes: PSNR in dB | off by", rows)


def _motion_table(points: Sequence[Point]) -> Table:
    """Return the table of clips at several speeds, with the latents for low and high motion."""
    rows: dict[tuple[str, int], list[str]] = {}
    for point in points:
        name = point["clip"].capitalize()
        cells = rows.setdefault((name, point["every"]), [f"{point['unsteadiness']:.2f}"])
        cells.append(f"{point['bytes']:,}: {point['psnr_db']:.2f}")
    return _table(
        "clip | frames | error | latents for low motion | for high motion",
        (
            f"| {name} | {'all' if every == 1 else f'every {every}'} | {' | '.join(cells)} |"
            for (name, every), cells in rows.items()
        ),
    )


def _unseen_table(points: Sequence[Point]) -> Table:
    """Return the table of frames or pixels that networks were not fitted to."""
    rows: list[str] = []
    for point in points:
        name = f"{point['preset']}, {point['mask']}" if "mask" in point else point["preset"]
        quality = f"{point['psnr_db']:.2f} | {point['psnr_unseen_db']:.2f}"
        rows.append(f"| {name} | {point['bytes']:,} | {quality} |")
    return _table(" | bytes | PSNR in dB | of what was not fitted to", rows)


def _speed_table(points: Sequence[Point]) -> Table:
    """Return the table of our fits beside those of the papers' recipes."""
    rows: list[str] = []
    for point in points:
        name = point["preset"]
        if "speedup" in point:
            name += f", against {point['against']}"
        rows.append(
            f"| {point['clip']} | {name} | {point['fit_seconds']:,.1f} | {point['bytes']:,} "
            f"| {point['psnr_db']:.2f} | {point.get('speedup', 1)} |"
        )
    return _table("clip | network | seconds | bytes | PSNR in dB | times as fast", rows)


def _operator_table(points: Sequence[Point]) -> Table:
    """Return a row for each clip, with a fit by torch's operators and shorter compiled ones."""
    seconds = sorted({p["fit_seconds"] for p in points if p["operators"] == "compiled"})
    whole = max((p["fit_seconds"] for p in points), default=0)
    columns = [f"{whole} s, torch", *(f"{each} s, compiled" for each in seconds)]
    rows = [
        f"| {clip} | "
        + " | ".join(
            f"{p['psnr_db']:.2f} dB, {p['bytes']:,}"
            for p in sorted(own, key=lambda p: (p["operators"] != "torch", p["fit_seconds"]))
        )
        + " |"
        for clip in CLIPS
        if (own := [p for p in points if p["clip"] == clip])
    ]
    return _table(" | ".join(["clip", *columns]), rows)


def _length_table(points: Sequence[Point]) -> Table:
    """Return the table of the time of a frame in videos of several lengths."""
    rows = (
        f"| {p['frames']:,} | {p['prepared_seconds']:.1f} "
        f"| {p['milliseconds_per_frame']:.1f} | {p['peak_megabytes']:,.0f} |"
        for p in points
    )
    columns = "seconds before the fit | then milliseconds per frame | peak of memory in MB"
    return _table(f"frames | {columns}", rows)


def _evenness_table(points: Sequence[Point]) -> Table:
    """Return the table of the quality of each segment."""
    rows: list[str] = []
    for point in points:
        name = point.get("shares") or f"a key's share times {point['key_share']}"
        qualities = point["segments_psnr_db"]
        segments = ", ".join(f"{quality:.1f}" for quality in qualities)
        rows.append(
            f"| {name} | {point['bytes']:,} | {point['psnr_db']:.2f} "
            f"| {segments} | {np.std(qualities):.2f} |"
        )
    return _table(" | bytes | PSNR in dB | of each segment | standard deviation", rows)


def _decoding_table(points: Sequence[Point]) -> Table:
    """Return the table of the speed of decoding, with multiples of ONNX Runtime's."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for point in points:
        network = (f"{point['preset']} {point['size']}", point["frame"])
        found.setdefault(network, {})[point["decoder"]] = point["fps"]
    rows: list[str] = []
    for (network, frame), fps in found.items():
        plain = fps["ONNX Runtime"]
        eager, *engines = (
            f"{fps[name]:.1f} ({fps[name] / plain:.1f})"
            for name in ("PyTorch", "onnxruntime-cpu", "openvino")
        )
        cells = " | ".join((eager, f"{plain:.1f}", *engines))
        rows.append(f"| {network} | {frame} | {cells} |")
    return _table("network | frames | PyTorch | ONNX Runtime | onnxruntime-cpu | openvino", rows)
