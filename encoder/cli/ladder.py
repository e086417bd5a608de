"""The option `--ladder` of `fit`: one film in several sizes, from as few fits as possible."""

import argparse
import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.cli.evaluate import report
from encoder.cli.fitter import Fitter
from encoder.codec.ladder import MAX_RUNGS
from encoder.common.atomic_file import replacing, writable
from encoder.common.errors import SettingsError
from encoder.common.quantities import parse_quantity
from encoder.config import FitConfig
from encoder.media.size import Size, parse_size, size_text

if TYPE_CHECKING:
    from encoder.jobs.job import Job
    from encoder.media.source import Source
    from encoder.segmentation.plan import Plan

TARGETS = ("lambda_", "bits_per_pixel", "file_size", "bitrate", "psnr", "bits")
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

        With --resume, clips that an interrupted run has finished are kept. Raises SettingsError,
        SourceError, BitstreamError, and the errors of the fits.
        """
        from encoder.codec.clip import Clip
        from encoder.codec.ladder import Ladder, Rung, check_alike

        for wish in self.wishes:
            writable(self._clip(wish))
        groups = self._groups()
        # All rungs have the segments of the one with the largest frames.
        largest = max((source for source, _ in groups), key=lambda each: prod(each.size))
        plan = self.fitter.plan(largest, self.config)
        jobs = [self._job(source, plan, wishes) for source, wishes in groups]
        finished = FinishedClips(self.output, is_kept=self.fitter.args.resume)
        for (source, wishes), job in zip(groups, jobs, strict=True):
            self._fit(source, job, wishes, finished)
        clips = [(self._clip(wish), Clip.read(self._clip(wish))) for wish in self.wishes]
        check_alike([(path.name, clip) for path, clip in clips])
        rungs = [Rung.of(path, clip) for path, clip in clips]
        Ladder(sorted(rungs, key=lambda rung: rung.bytes)).save(self.output)
        for _, wishes in groups:
            self._checkpoint(wishes[0]).unlink(missing_ok=True)
        finished.forget()
        logger.info("%s: a ladder of %d clips", self.output, len(rungs))

    def _groups(self) -> list[tuple["Source", list[Wish]]]:
        """Return the source of each frame size with its rungs, the largest file first."""
        groups: dict[Size, tuple[Source, list[Wish]]] = {}
        for wish in sorted(self.wishes, key=lambda wish: -wish.file_bytes):
            source = self.open_source(self._sized(wish))
            groups.setdefault(source.size, (source, []))[1].append(wish)
        return list(groups.values())

    def _sized(self, wish: Wish) -> FitConfig:
        """Return the settings of a rung."""
        sized = replace(self.config, file_size=wish.text)
        return sized if wish.size is None else replace(sized, resize=size_text(wish.size))

    def _clip(self, wish: Wish) -> Path:
        frame = f"-{size_text(wish.size)}" if wish.size else ""
        return self.output.with_name(f"{self.output.stem}{frame}-{wish.text}.nerv")

    def _checkpoint(self, wish: Wish) -> Path:
        return self._clip(wish).with_name(f".{self._clip(wish).stem}.safetensors")

    def _job(self, source: "Source", plan: "Plan", wishes: Sequence[Wish]) -> "Job":
        """Return the job of the first rung, if all have room; raises SettingsError."""
        from encoder.jobs.job import check_room

        job = self.fitter.job(self._sized(wishes[0]), source, plan, keep_states=True)
        for wish in wishes:
            check_room(source, self._sized(wish), plan, job.extras)
        return job

    def _fit(
        self, source: "Source", job: "Job", wishes: Sequence[Wish], finished: "FinishedClips"
    ) -> None:
        """Fit the first rung as usual, and the others from its networks in half of its time."""
        from encoder.jobs.runner import identity

        first, *others = wishes
        whole = {wish: finished.has(self._clip(wish), identity(job)) for wish in wishes}
        checkpoint = self._checkpoint(first)
        is_left = any(not whole[wish] for wish in others)
        if not whole[first] or (is_left and not checkpoint.exists()):
            self.fitter.run(job, source, self._clip(first), checkpoint)
            finished.add(self._clip(first), identity(job))
        report(self._clip(first), source, first.file_bytes)
        for wish in others:
            if not whole[wish]:
                self._continue(source, job, checkpoint, wish)
                finished.add(self._clip(wish), identity(job))
            report(self._clip(wish), source, wish.file_bytes)

    def _continue(self, source: "Source", job: "Job", checkpoint: Path, wish: Wish) -> None:
        from encoder.cli.compress import write_rung
        from encoder.jobs.checkpoint import Checkpoint
        from encoder.jobs.job import open_encoder
        from encoder.training.device import pick_device

        config = self._sized(wish)
        kept, states = Checkpoint.load(checkpoint)
        encoder = open_encoder(
            source,
            config,
            device=pick_device(self.fitter.args.device),
            plan=job.plan,
            extras=job.extras,
            settings=config.text(source, after=f" after {kept.seconds:.0f} s"),
            states=states,
        )
        budget = job.budget
        half = (
            replace(budget, seconds=budget.seconds / 2)
            if budget.seconds is not None
            else replace(budget, epochs=max((budget.epochs or 0) // 2, 1))
        )
        write_rung(encoder, half, job.extras, self._clip(wish))


class FinishedClips:
    """Finished clips of a run and the settings that made them, in a hidden file."""

    def __init__(self, output: Path, *, is_kept: bool) -> None:
        """Go on from an earlier run's file beside the output if it is to be kept."""
        self._path = output.with_name(f".{output.name}.finished")
        self._known: dict[str, object] = {}
        if is_kept:
            with contextlib.suppress(OSError, ValueError, TypeError):
                self._known = dict(json.loads(self._path.read_text()))

    def has(self, clip: Path, identity: Mapping[str, str]) -> bool:
        """Return whether a clip is there that was made in the same way."""
        return clip.exists() and self._known.get(clip.name) == dict(identity)

    def add(self, clip: Path, identity: Mapping[str, str]) -> None:
        """Note a clip that is finished."""
        self._known[clip.name] = dict(identity)
        with replacing(self._path) as part:
            part.write_text(json.dumps(self._known))

    def forget(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)
