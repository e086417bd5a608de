"""Jobs of the command `fit`, and their workers and devices."""

import argparse
import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.common.errors import SettingsError
from encoder.common.progress import progress

if TYPE_CHECKING:
    from encoder.config import DeviceName, FitConfig
    from encoder.jobs.job import Job
    from encoder.jobs.scheduler import WorkerBackend
    from encoder.media.source import Source
    from encoder.segmentation.plan import Plan

SAVE_SECONDS = 60.0
MAX_WORKERS = 1024


@dataclass(frozen=True)
class Fitter:
    """Makes jobs and fits them, with the workers of a command line."""

    args: argparse.Namespace
    backend: "WorkerBackend | None"
    """Source of workers; None if this process does the fit."""

    def plan(self, source: "Source", config: "FitConfig") -> "Plan":
        """Return the segments of a source; raises SettingsError, SourceError."""
        from encoder.jobs.job import masked, plan_of
        from encoder.presets import find_preset

        preset = find_preset(config.preset)
        with progress("looking for scenes") as update:
            return plan_of(masked(source, config), config, preset, on_progress=update)

    def job(
        self, config: "FitConfig", source: "Source", plan: "Plan", *, keep_states: bool = False
    ) -> "Job":
        """Return the job of a fit. Raises SettingsError, SourceError."""
        from encoder.jobs.job import Job, extras_of

        return Job(
            source=source.path.resolve(),
            size=source.size,
            track=source.track,
            config=config,
            plan=plan,
            budget=config.limit(source.count),
            device=self._device(),
            threads=self.args.threads or self._threads(len(plan.groups)),
            settings=config.text(source),
            keep_states=keep_states or self.args.checkpoint is not None,
            extras=extras_of(source, config, plan),
        )

    def run(self, job: "Job", source: "Source", output: Path, checkpoint: Path | None) -> None:
        """Fit a job, and write its clip and its checkpoint; raises the errors of `run_job`."""
        from encoder.jobs.runner import Run, run_job

        run = Run(
            output=output,
            backend=self.backend,
            workers=self.args.workers,
            resume=self.args.resume,
            save_seconds=self.args.save_every,
            checkpoint=checkpoint,
            notes=source.notes(),
        )
        run_job(job, run)

    def _threads(self, groups: int) -> int:
        """Return the default number of threads of a worker."""
        import torch

        if self.args.cluster is not None:
            return 1
        return max(torch.get_num_threads() // min(self.args.workers or 1, groups), 1)

    def _device(self) -> "DeviceName":
        """Return the device of the fits; raises SettingsError for an absent GPU."""
        from encoder.training.device import pick_device

        wanted, backend = self.args.device, self.backend
        if backend is None or backend.gpus is None:
            return "cuda" if pick_device(wanted).type == "cuda" else "cpu"
        if wanted == "cuda" and not backend.gpus:
            raise SettingsError("no GPU in the cluster: use --device cpu")
        return "cuda" if backend.gpus and wanted != "cpu" else "cpu"


@contextlib.contextmanager
def fitter_of(args: argparse.Namespace) -> Generator[Fitter]:
    """Yield the fitter of a command line, whose workers end with it. Raises SettingsError."""
    backend = _backend(args)
    try:
        yield Fitter(args, backend)
    finally:
        if backend is not None:
            backend.close()


def check_workers(args: argparse.Namespace) -> None:
    """Raise SettingsError for numbers out of range."""
    for name in ("workers", "threads"):
        count = getattr(args, name)
        if count is not None and not 1 <= count <= MAX_WORKERS:
            raise SettingsError(f"the number of {name} must be in 1..{MAX_WORKERS}, got {count}")
    if not args.save_every > 0:
        raise SettingsError(
            f"the time between two states must be over 0 seconds, got {args.save_every:g}"
        )


def _backend(args: argparse.Namespace) -> "WorkerBackend | None":
    if args.cluster is not None:
        try:
            from encoder.jobs.ray_workers import RayWorkers
        except ModuleNotFoundError:
            raise SettingsError("--cluster needs Ray: pip install 'nervcast[cluster]'") from None
        return RayWorkers(args.cluster)
    if args.workers is None or args.workers == 1:
        return None
    from encoder.jobs.local_workers import LocalWorkers

    return LocalWorkers()
