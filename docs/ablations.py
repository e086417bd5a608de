"""Measure what docs/ablations.md shows: `python docs/ablations.py CLIP --seconds 60`, on a machine that does nothing else.

Each choice is fitted for the same time to the same size. What docs/ablations.json has is not measured again;
`python docs/ablations.py --table` prints the tables made of it.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean

from choices import choices
from results import fit
from tables import CLIPS, Point

from encoder.cli_common import SAMPLE
from encoder.compression import Compression
from encoder.limit import Limit
from encoder.source import read_video

POINTS = Path(__file__).with_name("ablations.json")
FILE_BYTES = {"bunny": 80_000, "carphone": 40_000}
"""Size that all fits to a clip are steered to."""
OWN = "the preset"
"""The choice that others are compared with."""


def load() -> list[Point]:
    """Return what has been measured."""
    return json.loads(POINTS.read_text()) if POINTS.exists() else []


def measure(clip: str, source: Path, seconds: int, seed: int) -> None:
    """Measure what has not been."""
    video = read_video(source, size=CLIPS[clip])
    points = load()
    for name, choice in choices():
        key = {"choice": name, "clip": clip, "seconds": seconds, "seed": seed}
        if any(key.items() <= point.items() for point in points):
            continue
        with choice.made():
            wish = Compression(file_bytes=FILE_BYTES[clip])
            points.append(key | fit(video, choice.preset, Limit(seconds=seconds), wish, seed)[1])
        print(points[-1], flush=True)
        POINTS.write_text(json.dumps(points, indent=1) + "\n")


def table() -> str:
    """Return, in Markdown, the PSNR of the preset and by how much it changes with each other choice."""
    found: dict[tuple[str, int], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for point in load():
        found[point["clip"], point["seconds"]][point["choice"]][point["seed"]] = point["psnr_db"]
    columns = sorted(found)
    lines = ["| | " + " | ".join(f"{clip}, {seconds} s" for clip, seconds in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, _ in choices():
        cells = [_cell(found[column][OWN], found[column][name], is_own=name == OWN) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(own: dict[int, float], other: dict[int, float], *, is_own: bool) -> str:
    """Return the mean PSNR, or the mean gain over the same seeds, and of how many."""
    seeds = own.keys() & other.keys()
    if not seeds:
        return ""
    count = f" ({len(seeds)} seeds)" if len(seeds) > 1 else ""
    if is_own:
        return f"{mean(own.values()):.2f} dB{count}"
    return f"{mean(other[seed] - own[seed] for seed in seeds):+.2f}{count}"


def main() -> None:
    """Measure, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", choices=CLIPS, nargs="?", default="bunny")
    parser.add_argument("--source", type=Path, default=SAMPLE, help="the clip's video (default: the bundled sample)")
    parser.add_argument("--seconds", type=int, default=60, help="time for each fit (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print the tables")
    args = parser.parse_args()
    if args.table:
        print(table())
    else:
        measure(args.clip, args.source, args.seconds, args.seed)


if __name__ == "__main__":
    main()
