"""The option `--ladder` of `fit`: one film in several sizes, from as few fits as possible."""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.cli.evaluate import report
from encoder.cli.fitter import Fitter
from encoder.codec.clip import Clip
from encoder.codec.ladder import MAX_RUNGS, Ladder, Rung, check_alike
from encoder.common.atomic_file import writable
from encoder.common.errors import BitstreamError, SettingsError
from encoder.common.quantities import parse_quantity
from encoder.config import FitConfig
from encoder.media.size import Size, parse_size, size_text

if TYPE_CHECKING:
    from encoder.jobs.job import Job
    from encoder.media.source import Source
    from encoder.segmentation.plan import Plan

TARGETS = ("lambda_", "bits_per_pixel", "file_size", "bitrate", "bits")
"""Settings that a rung replaces."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """A rung that is asked for."""

    text: str
    """Size of the file as it was given."""
    file_bytes: int
    size: Size | None
    """Width and height of its frames; None for those of the fit."""


def parse_wish(text: str) -> Wish:
    """Return the rung of a text such as `80kB` or `640x360@80kB`; raises SettingsError."""
    frame, _, wanted = text.rpartition("@")
    file_bytes = round(parse_quantity(wanted, "B"))
    if not file_bytes:
        raise SettingsError(f"a rung is a size such as 80kB or 640x360@80kB, got {text!r}")
    return Wish(wanted, file_bytes, parse_size(frame) if frame else None)


def parse_wishes(args: argparse.Namespace, config: FitConfig) -> list[Wish]:
    """Return the rungs of a command line; raises SettingsError."""
    wishes = [parse_wish(text) for text in args.ladder]
    if not 1 < len(set(wishes)) == len(wishes) <= MAX_RUNGS:
        raise SettingsError(f"a ladder has 2 to {MAX_RUNGS} different rungs")
    if any(getattr(config, name) is not None for name in TARGETS):
        raise SettingsError("the rungs of a ladder are its sizes: give no other")
    if args.checkpoint is not None:
        raise SettingsError("a ladder writes no checkpoint")
    return wishes


@dataclass(frozen=True)
class LadderFit:
    """The fit of a ladder: the largest file of each frame size, and the others from it."""

    config: FitConfig
    wishes: Sequence[Wish]
    output: Path
    """Path of the manifest; the clips are written beside it."""
    open_source: Callable[[FitConfig], "Source"]
    fitter: Fitter

    def run(self) -> None:
        """Fit all rungs, write them, and then the manifest.

        Clips that an interrupted run has finished are kept. Raises SettingsError, SourceError,
        BitstreamError, and the errors of the fits.
        """
        for wish in self.wishes:
            writable(self._clip(wish))
        sources: dict[Size | None, Source] = {}
        for wish in self.wishes:
            if wish.size not in sources:
                sources[wish.size] = self.open_source(self._sized(wish))
        # All rungs have the segments of the one with the largest frames.
        plan = self.fitter.plan(max(sources.values(), key=lambda each: each.size), self.config)
        paths: list[Path] = []
        for size, source in sources.items():
            wishes = [wish for wish in self.wishes if wish.size == size]
            wishes.sort(key=lambda wish: -wish.file_bytes)
            paths += self._fit(source, plan, wishes)
        clips = [(path, Clip.read(path)) for path in paths]
        check_alike([(path.name, clip) for path, clip in clips])
        rungs = [Rung.of(path, clip) for path, clip in clips]
        Ladder(sorted(rungs, key=lambda rung: rung.bytes)).save(self.output)
        logger.info("%s: a ladder of %d clips", self.output, len(rungs))

    def _sized(self, wish: Wish) -> FitConfig:
        """Return the settings of a rung."""
        sized = replace(self.config, file_size=wish.text)
        return sized if wish.size is None else replace(sized, resize=size_text(wish.size))

    def _clip(self, wish: Wish) -> Path:
        frame = f"-{size_text(wish.size)}" if wish.size else ""
        return self.output.with_name(f"{self.output.stem}{frame}-{wish.text}.nerv")

    def _fit(self, source: "Source", plan: "Plan", wishes: Sequence[Wish]) -> list[Path]:
        """Fit the first rung as usual, and the others from its networks in half of its time."""
        first, *others = wishes
        kept = self._clip(first).with_name(f".{self._clip(first).stem}.safetensors")
        job = self.fitter.job(self._sized(first), source, plan, keep_states=True)
        if not (_is_done(self._clip(first), job.settings) and (kept.exists() or not others)):
            self.fitter.run(job, source, self._clip(first), kept)
        report(self._clip(first), source, first.file_bytes)
        for wish in others:
            self._continue(source, plan, job, kept, wish)
        kept.unlink(missing_ok=True)
        return [self._clip(wish) for wish in wishes]

    def _continue(
        self, source: "Source", plan: "Plan", job: "Job", checkpoint: Path, wish: Wish
    ) -> None:
        from encoder.cli.compress import write_rung
        from encoder.jobs.checkpoint import Checkpoint
        from encoder.jobs.job import open_encoder
        from encoder.training.device import pick_device

        path = self._clip(wish)
        config = self._sized(wish)
        kept, states = Checkpoint.load(checkpoint)
        settings = config.text(source, after=f" after {kept.seconds:.0f} s")
        if not _is_done(path, settings):
            encoder = open_encoder(
                source,
                config,
                device=pick_device(job.device),
                plan=plan,
                extras=job.extras,
                settings=settings,
                states=states,
            )
            budget = job.budget
            half = (
                replace(budget, seconds=budget.seconds / 2)
                if budget.seconds is not None
                else replace(budget, epochs=max((budget.epochs or 0) // 2, 1))
            )
            write_rung(encoder, half, job.extras, path)
        report(path, source, wish.file_bytes)


def _is_done(path: Path, settings: str) -> bool:
    """Return whether an earlier run has finished a clip with the same settings."""
    try:
        return path.exists() and Clip.read(path).header.settings == settings
    except BitstreamError:
        return False
