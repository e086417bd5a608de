"""Print the tables of docs/explanation/results.md, made of the points that results.py measured: `python benchmarks/tables.py`."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from encoder.compare.bd_rate import bd_rate

RESULTS = Path(__file__).with_name("results.json")
CLIPS = {"bunny": (320, 180), "carphone": (176, 144)}
"""Width and height of each clip. Bunny is the bundled sample; of the others the source is named."""

Point = dict[str, Any]


def tables() -> str:
    """Return the tables in Markdown."""
    points = load()
    lines: list[str] = []
    for clip in CLIPS:
        curves = curves_of([point for point in points if point["clip"] == clip])
        lines += [
            f"## {clip.capitalize()}",
            "",
            "| | bytes: PSNR in dB | bits per weight |",
            "|---|---|---|",
        ]
        for name, curve in curves.items():
            lines.append(f"| {name} | {listed(curve)} | {bits_of(curve)} |")
        anchors = [name for name in curves if not name.startswith("nervcast")]
        lines += [
            "",
            f"| BD-rate against | {' | '.join(anchors)} |",
            f"|---|{'---|' * len(anchors)}",
        ]
        for name in (name for name in curves if name.startswith("nervcast")):
            rates = [
                f"{bd_rate(points_of(curves[anchor]), points_of(curves[name])):+.1f} %"
                for anchor in anchors
            ]
            lines.append(f"| {name} | {' | '.join(rates)} |")
        lines.append("")
    kinds = ("ladder", "ablations", "targets", "overhead", "interpolation", "inpainting")
    rungs, ablated, steered, timed, *unseen = (
        [point for point in points if point["measurement"] == kind] for kind in kinds
    )
    tables = [
        ladder_table(rungs, points),
        ablation_table(ablated),
        target_table(steered),
        [*map(str, timed)],
    ]
    tables += map(unseen_table, unseen)
    tables.append(speed_table([point for point in points if point["measurement"] == "speed"]))
    tables.append(length_table([point for point in points if point["measurement"] == "lengths"]))
    tables.append(
        evenness_table([point for point in points if point["measurement"] in ("keys", "scenes")])
    )
    tables.append(decoding_table([point for point in points if point["measurement"] == "decoding"]))
    tables.append(
        [str(point) for point in points if point["measurement"] in ("workers", "film", "integers")]
    )
    return "\n".join([*lines, *(line for table in tables for line in (*table, ""))])


def points_of(curve: list[Point]) -> list[tuple[float, float]]:
    """Return a curve's bytes and PSNR."""
    return [(point["bytes"], point["psnr_db"]) for point in curve]


def listed(curve: list[Point]) -> str:
    """Return a curve's points as text."""
    return ", ".join(f"{point['bytes']:,}: {point['psnr_db']:.2f}" for point in ordered(curve))


def bits_of(curve: list[Point]) -> str:
    """Return the bits per weight of a curve's points as text."""
    return ", ".join(
        f"{point['bits_per_weight']:.2f}" for point in ordered(curve) if "bits_per_weight" in point
    )


def ordered(curve: list[Point]) -> list[Point]:
    """Return a curve's points from the smallest file to the largest."""
    return sorted(curve, key=lambda point: point["bytes"])


def curves_of(points: list[Point]) -> dict[str, list[Point]]:
    """Return the points of each curve by its name."""
    names = {
        "ours": "nervcast, {} s",
        "ladder": "nervcast, ladder, {0} s + {1} s",
        "paper": "papers' pipeline, {} s",
    }
    curves: dict[str, list[Point]] = {}
    for point in points:
        if point["measurement"] in (*names, "codecs"):
            name = point.get("codec") or names[point["measurement"]].format(
                point["seconds"], point["seconds"] // 2
            )
            curves.setdefault(name, []).append(point)
    return curves


def ladder_table(rungs: list[Point], points: list[Point]) -> list[str]:
    """Return the lines of the table of rungs beside fits of their own, taken as lines of the bytes' logarithm in between."""
    lines = [
        "| clip, seconds | bits per pixel asked for | bytes | PSNR in dB | against a fit of its own |",
        "|---|---|---|---|---|",
    ]
    for rung in rungs:
        same = {"measurement": "ours", "clip": rung["clip"], "seconds": rung["seconds"]}
        own = ordered([point for point in points if same.items() <= point.items()])
        if own:
            sizes, qualities = (
                np.log([point["bytes"] for point in own]),
                [point["psnr_db"] for point in own],
            )
            gain = rung["psnr_db"] - np.interp(np.log(rung["bytes"]), sizes, qualities)
            cells = f"{rung['target']} | {rung['bytes']:,} | {rung['psnr_db']:.2f} | {gain:+.2f} |"
            lines.append(f"| {rung['clip']}, {rung['seconds']} s | {cells}")
    return lines


def ablation_table(points: list[Point]) -> list[str]:
    """Return the lines of the table of what each technique contributes."""
    lines = [
        "| left out | bytes: PSNR in dB | bits per weight | bytes at equal PSNR |",
        "|---|---|---|---|",
    ]
    whole = [point for point in points if point["without"] == "nothing"]
    for name in dict.fromkeys(point["without"] for point in points):
        curve = [point for point in points if point["without"] == name]
        more = "" if name == "nothing" else f"{100 * (excess(whole, curve) - 1):+.0f} %"
        lines.append(f"| {name} | {listed(curve)} | {bits_of(curve)} | {more} |")
    return lines


def target_table(points: list[Point]) -> list[str]:
    """Return the lines of the table of sizes that were asked for and reached."""
    lines = ["| asked for | bytes: PSNR in dB | off by |", "|---|---|---|"]
    for point in points:
        after = f" after {point['after_bytes']:,}" if "after_bytes" in point else ""
        off = 100 * (point["bytes"] / point["target_bytes"] - 1)
        lines.append(f"| {point['target_bytes']:,}{after} | {listed([point])} | {off:+.1f} % |")
    return lines


def unseen_table(points: list[Point]) -> list[str]:
    """Return the lines of the table of frames or pixels that networks were not fitted to."""
    lines = ["| | bytes | PSNR in dB | of what was not fitted to |", "|---|---|---|---|"]
    for point in points:
        name = f"{point['preset']}, {point['mask']}" if "mask" in point else point["preset"]
        lines.append(
            f"| {name} | {point['bytes']:,} | {point['psnr_db']:.2f} | {point['psnr_unseen_db']:.2f} |"
        )
    return lines


def speed_table(points: list[Point]) -> list[str]:
    """Return the lines of the table of our fits beside those of the papers' recipes."""
    lines = [
        "| clip | network | seconds | bytes | PSNR in dB | times as fast |",
        "|---|---|---|---|---|---|",
    ]
    for point in points:
        times = f"{point['speedup']}" if "speedup" in point else "1"
        name = (
            point["preset"]
            if "speedup" not in point
            else f"{point['preset']}, against {point['against']}"
        )
        cells = (
            f"{point['fit_seconds']:,.1f} | {point['bytes']:,} | {point['psnr_db']:.2f} | {times}"
        )
        lines.append(f"| {point['clip']} | {name} | {cells} |")
    return lines


def length_table(points: list[Point]) -> list[str]:
    """Return the lines of the table of what a frame takes in videos of several lengths."""
    rows = (
        f"| {p['frames']:,} | {p['prepared_seconds']:.1f} | {p['milliseconds_per_frame']:.1f} | {p['peak_megabytes']:,.0f} |"
        for p in points
    )
    return [
        "| frames | seconds before the fit | then milliseconds per frame | peak of memory in MB |",
        "|---|---|---|---|",
        *rows,
    ]


def evenness_table(points: list[Point]) -> list[str]:
    """Return the lines of the table of the quality of each segment."""
    lines = [
        "| | bytes | PSNR in dB | of each segment | standard deviation |",
        "|---|---|---|---|---|",
    ]
    for point in points:
        name = point.get("shares") or f"a key's share times {point['key_share']}"
        qualities = point["segments_psnr_db"]
        segments = ", ".join(f"{quality:.1f}" for quality in qualities)
        lines.append(
            f"| {name} | {point['bytes']:,} | {point['psnr_db']:.2f} | {segments} | {np.std(qualities):.2f} |"
        )
    return lines


def decoding_table(points: list[Point]) -> list[str]:
    """Return the lines of the table of how fast networks are decoded."""
    lines = [
        "| network | frames | PyTorch | ONNX Runtime | onnxruntime-cpu | openvino |",
        "|---|---|---|---|---|---|",
    ]
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for point in points:
        rows.setdefault((f"{point['preset']} {point['size']}", point["frame"]), {})[
            point["decoder"]
        ] = point["fps"]
    for (network, frame), fps in rows.items():
        plain = fps["ONNX Runtime"]
        cells = (
            f"{fps[name]:.1f} ({fps[name] / plain:.1f})" for name in ("onnxruntime-cpu", "openvino")
        )
        lines.append(
            f"| {network} | {frame} | {fps['PyTorch']:.1f} ({fps['PyTorch'] / plain:.1f}) | {plain:.1f} | {' | '.join(cells)} |"
        )
    return lines


def excess(whole: list[Point], other: list[Point]) -> float:
    """Return the ratio of two curves' bytes at the PSNR in their middle, each taken as a line of the bytes' logarithm."""
    middle = np.mean([point["psnr_db"] for point in (*whole, *other)])
    slope, _ = np.polyfit(
        [point["psnr_db"] for point in whole], np.log([point["bytes"] for point in whole]), 1
    )
    at = [
        np.mean([np.log(p["bytes"]) + slope * (middle - p["psnr_db"]) for p in curve])
        for curve in (other, whole)
    ]
    return float(np.exp(at[0] - at[1]))


def load() -> list[Point]:
    """Return all points measured so far."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


if __name__ == "__main__":
    print(tables())
