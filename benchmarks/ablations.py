"""Measure what docs/explanation/ablations.md shows.

`python benchmarks/ablations.py pace CLIP` times epochs of each choice, in turns with the preset's; then
`python benchmarks/ablations.py fit CLIP --seconds 60` fits each to the same size, for as many epochs as one core has time for. So
fits may run beside other work, and the machine's noise cannot be taken for a choice's gain. A choice that has lost much in a
shorter fit is left out of longer ones, and more seeds than the first are for those that are close. What
docs/ablations-CLIP.json has is not measured again; `python benchmarks/ablations.py table` prints the table made of it.
"""

import argparse
import json
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from statistics import mean, median
from unittest.mock import patch

import torch
from choices import FAST, Choice, choices
from fits import encoder, fit
from tables import CLIPS, Point

from encoder.cli.options import SAMPLE
from encoder.config import Budget, Compression
from encoder.media.source import read_video
from encoder.media.video import Video

FILE_BYTES = {"bunny": 80_000, "carphone": 40_000}
"""Size that all fits to a clip are steered to."""
OWN = "the preset"
"""The choice that others are compared with."""
LOST, CLOSE = 0.25, 0.3
"""Loss in dB after which a choice is given up, and gain or loss under which other seeds are fitted, too."""
PAIRS = 6
"""Epochs of a choice and of the preset that are timed, of which the first also allocates."""


@dataclass
class Measured:
    """What has been measured of a clip."""

    clip: str
    preset_seconds: tuple[float, float] = (0.0, 0.0)
    """What the preset takes before the fit, and for an epoch of it."""
    paces: dict[str, float] = field(default_factory=dict)
    """How many times longer an epoch of each choice is."""
    starts: dict[str, float] = field(default_factory=dict)
    """Seconds by which the first is longer than the others, beyond what it is for the preset."""
    points: list[Point] = field(default_factory=list)
    """What each fit came to."""

    @classmethod
    def load(cls, clip: str) -> "Measured":
        """Read what there is."""
        path = cls(clip).path
        return cls(**json.loads(path.read_text())) if path.exists() else cls(clip)

    def save(self) -> None:
        """Write it."""
        self.path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return Path(__file__).with_name(f"ablations-{self.clip}.json")

    def pace(self, video: Video) -> None:
        """Time what has not been."""
        wish = Compression(file_bytes=FILE_BYTES[self.clip])
        for name, choice in choices():
            if name in self.paces:
                continue
            seconds: list[list[float]] = []
            with patch(
                "encoder.training.trainer.QUIET_SECONDS", inf
            ):  # it would also tell how far it is within an epoch
                own = encoder(video, FAST, wish)
                with choice.made():
                    other = encoder(video, choice.preset, wish)
                turns = (
                    (Choice(), own.run(Budget(epochs=PAIRS))),
                    (choice, other.run(Budget(epochs=PAIRS))),
                )
                for _ in range(PAIRS):
                    pair: list[float] = []
                    for each, steps in turns:
                        began = time.perf_counter()
                        with each.made():
                            next(steps)
                        pair.append(time.perf_counter() - began)
                    seconds.append(pair)
            self.paces[name] = median(epoch / preset for preset, epoch in seconds[1:])
            epoch_seconds, others = (median(each) for each in zip(*seconds[1:], strict=True))
            self.starts[name] = max(seconds[0][1] - others - (seconds[0][0] - epoch_seconds), 0.0)
            if name == OWN:
                self.preset_seconds = own.spent_seconds, epoch_seconds
                self.paces[name], self.starts[name] = 1.0, 0.0
            print(name, self.paces[name], self.starts[name], flush=True)
            self.save()

    def fit(self, video: Video, seconds: int, seed: int, only: list[str]) -> None:
        """Fit what has not been, or some of it."""
        wish = Compression(file_bytes=FILE_BYTES[self.clip])
        for name, choice in choices():
            if only and name not in (OWN, *only):
                continue
            key = {"choice": name, "seconds": seconds, "seed": seed}
            if any(key.items() <= point.items() for point in self.points) or not self._is_open(
                name, seconds, seed
            ):
                continue
            before, epoch = self.preset_seconds
            left = seconds - before - self.starts[name]
            epochs = round(left / (self.paces[name] * epoch))
            if epochs < 1:
                continue
            with choice.made():
                self.points.append(
                    key
                    | {"epochs": epochs}
                    | fit(video, choice.preset, Budget(epochs=epochs), wish, seed)[1]
                )
            print(self.points[-1], flush=True)
            self.save()

    def _is_open(self, name: str, seconds: int, seed: int) -> bool:
        """Whether it is still to be seen what a choice is worth."""
        first = {
            (point["choice"], point["seconds"]): point["psnr_db"]
            for point in self.points
            if point["seed"] == 0
        }
        if name == OWN:
            return True
        if seed:
            return abs(first.get((name, seconds), inf) - first.get((OWN, seconds), 0.0)) < CLOSE
        shorter = [length for other, length in first if other == name and length < seconds]
        return all(first[name, length] > first[OWN, length] - LOST for length in shorter)


def table() -> str:
    """Return, in Markdown, the PSNR of the preset and by how much it changes with each other choice."""
    found: dict[tuple[str, int], dict[str, dict[int, float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for clip in CLIPS:
        for point in Measured.load(clip).points:
            found[clip, point["seconds"]][point["choice"]][point["seed"]] = point["psnr_db"]
    columns = sorted(found)
    lines = [
        "| | " + " | ".join(f"{clip}, {seconds} s" for clip, seconds in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, _ in choices():
        cells = [
            _cell(found[column][OWN], found[column][name], is_own=name == OWN) for column in columns
        ]
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
    parser.add_argument("what", choices=("pace", "fit", "table"))
    parser.add_argument("clip", choices=CLIPS, nargs="?", default="bunny")
    parser.add_argument(
        "--source", type=Path, default=SAMPLE, help="the clip's video (default: the bundled sample)"
    )
    parser.add_argument("--seconds", type=int, default=60, help="time for each fit (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    names = [name for name, _ in choices()]
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        choices=names,
        metavar="CHOICE",
        help="choices to fit (default: all)",
    )
    args = parser.parse_args()
    if args.what == "table":
        print(table())
        return
    torch.set_num_threads(1)
    video, measured = read_video(args.source, size=CLIPS[args.clip]), Measured.load(args.clip)
    if args.what == "pace":
        measured.pace(video)
    else:
        measured.fit(video, args.seconds, args.seed, args.only)


if __name__ == "__main__":
    main()
