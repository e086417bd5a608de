"""Gain or loss in PSNR of each choice against the preset `fast`, at equal time and size.

`pace` times epochs of each choice, in turns with the preset's. `fit` then fits each choice for as
many epochs as one core has time for, so fits may run beside other work. A choice that has lost much
in a shorter fit is left out of longer ones. Only close choices get more seeds than the first.
Figures in the data folder are not measured again.
"""

import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from statistics import mean, median
from typing import Self

from benchmarks.choices import OWN, Choice, choices
from benchmarks.fits import make_encoder, measure, run_fit
from benchmarks.points import DATA, FILE_BYTES, Point
from encoder.common.atomic_file import replacing
from encoder.common.errors import SettingsError
from encoder.config import Budget, Compression
from encoder.jobs.segment_encoder import SegmentEncoder
from encoder.media.video import Video

LOST_DB = 0.25
"""Loss after which a choice is given up."""
CLOSE_DB = 0.3
"""Gain or loss below which other seeds are fitted, too."""
PAIRS = 6
"""Timed epochs of a choice and of the preset. The first also allocates, and is left out."""

Column = tuple[str, int]
"""Clip, and seconds of a fit."""
Found = Mapping[Column, Mapping[str, Mapping[int, float]]]
"""PSNR by column, choice and seed."""


@dataclass(kw_only=True)
class Measured:
    """Figures of a clip that have been measured so far."""

    clip: str
    preset_seconds: tuple[float, float] = (0.0, 0.0)
    """Seconds that the preset takes before the fit, and for an epoch."""
    paces: dict[str, float] = field(default_factory=dict)
    """Length of an epoch of each choice, as a multiple of the preset's."""
    starts: dict[str, float] = field(default_factory=dict)
    """Seconds by which the first epoch is longer than others, beyond the preset's difference."""
    points: list[Point] = field(default_factory=list)
    """Results of all fits."""

    @classmethod
    def load(cls, clip: str, folder: Path = DATA) -> Self:
        """Read the figures of a clip, if there are any."""
        path = folder / f"ablations-{clip}.json"
        return cls(**json.loads(path.read_text())) if path.exists() else cls(clip=clip)

    def save(self, folder: Path = DATA) -> None:
        """Write the figures."""
        with replacing(folder / f"ablations-{self.clip}.json") as part:
            part.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def pace(self, video: Video, only: Collection[str] = ()) -> Iterator[str]:
        """Time the choices that have not been timed; yield a line after each."""
        known = choices()
        for name in chosen(only):
            if name in self.paces:
                continue
            own = self._encoder(video, known[OWN])
            seconds = _time_pairs(own, self._encoder(video, known[name]))
            preset_epoch = median(preset for preset, _ in seconds[1:])
            epoch = median(other for _, other in seconds[1:])
            self.paces[name] = median(other / preset for preset, other in seconds[1:])
            self.starts[name] = max(seconds[0][1] - epoch - (seconds[0][0] - preset_epoch), 0.0)
            if name == OWN:
                self.preset_seconds = (own.spent_seconds, preset_epoch)
                self.paces[name] = 1.0
                self.starts[name] = 0.0
            yield f"{name}: pace {self.paces[name]:.3f}, start {self.starts[name]:.1f} s"

    def fit(
        self, video: Video, seconds: int, seed: int, only: Collection[str] = ()
    ) -> Iterator[str]:
        """Fit the timed choices that have not been fitted; yield a line after each."""
        known = choices()
        for name in chosen(only):
            key: Point = {"choice": name, "seconds": seconds, "seed": seed}
            is_known = any(key.items() <= point.items() for point in self.points)
            epochs = self._epochs(name, seconds)
            if is_known or epochs < 1 or not self._is_open(name, seconds, seed):
                continue
            encoder = self._encoder(video, known[name], seed)
            clip = run_fit(encoder, Budget(epochs=epochs))
            self.points.append(key | {"epochs": epochs} | measure(clip, video))
            yield str(self.points[-1])

    def _encoder(self, video: Video, choice: Choice, seed: int = 0) -> SegmentEncoder:
        wanted = Compression(file_bytes=FILE_BYTES[self.clip])
        return make_encoder(video, choice.preset, wanted, seed=seed, **choice.steps)

    def _epochs(self, name: str, seconds: int) -> int:
        """Return the number of epochs of a choice in a time; 0 if it has not been timed."""
        if name not in self.paces:
            return 0
        before, epoch = self.preset_seconds
        return round((seconds - before - self.starts[name]) / (self.paces[name] * epoch))

    def _is_open(self, name: str, seconds: int, seed: int) -> bool:
        """Return whether a fit of a choice may still tell something."""
        if name == OWN:
            return True
        first = {
            (point["choice"], point["seconds"]): point["psnr_db"]
            for point in self.points
            if point["seed"] == 0
        }
        if seed:
            own = first.get((OWN, seconds), 0.0)
            return abs(first.get((name, seconds), inf) - own) < CLOSE_DB
        shorter = [length for other, length in first if other == name and length < seconds]
        return all(first[name, length] > first[OWN, length] - LOST_DB for length in shorter)


def chosen(only: Collection[str]) -> list[str]:
    """Return the preset's own choice and the named ones, or all; raises SettingsError."""
    known = list(choices())
    unknown = [name for name in only if name not in known]
    if unknown:
        raise SettingsError(f"unknown choice {unknown[0]!r}, known are: {'; '.join(known)}")
    return [name for name in known if not only or name == OWN or name in only]


def _time_pairs(own: SegmentEncoder, other: SegmentEncoder) -> list[tuple[float, float]]:
    """Return the seconds of some epochs of two fits that take turns."""
    turns = [_whole_epochs(encoder) for encoder in (own, other)]
    pairs: list[tuple[float, float]] = []
    for _ in range(PAIRS):
        began = time.perf_counter()
        next(turns[0])
        changed = time.perf_counter()
        next(turns[1])
        pairs.append((changed - began, time.perf_counter() - changed))
    return pairs


def _whole_epochs(encoder: SegmentEncoder) -> Iterator[None]:
    for step in encoder.run(Budget(epochs=PAIRS)):
        if step.is_whole and step.finished is None:
            yield


def ablation_table(folder: Path = DATA) -> list[str]:
    """Return the lines of the table of the preset's PSNR, and of the gain of each other choice."""
    found: dict[Column, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for clip in FILE_BYTES:
        for point in Measured.load(clip, folder).points:
            column = (clip, point["seconds"])
            found[column][point["choice"]][point["seed"]] = point["psnr_db"]
    columns = sorted(found)
    titles = " | ".join(f"{clip}, {seconds} s" for clip, seconds in columns)
    rows = [(name, [_cell(found, column, name) for column in columns]) for name in choices()]
    return [
        f"| | {titles} |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows if any(cells)),
    ]


def _cell(found: Found, column: Column, name: str) -> str:
    """Return the preset's mean PSNR, or the mean gain over it; and the number of seeds."""
    own = found[column].get(OWN, {})
    other = found[column].get(name, {})
    seeds = own.keys() & other.keys()
    if not seeds:
        return ""
    count = f" ({len(seeds)} seeds)" if len(seeds) > 1 else ""
    if name == OWN:
        return f"{mean(own.values()):.2f} dB{count}"
    return f"{mean(other[seed] - own[seed] for seed in seeds):+.2f}{count}"
