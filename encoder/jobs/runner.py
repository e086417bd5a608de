"""Run of a job: fit its segments, write finished ones, save states, and show the progress."""

import contextlib
import logging
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from encoder.codec.container import VERSION
from encoder.common.atomic_file import remove_leftovers, replacing
from encoder.common.errors import RunError
from encoder.common.progress import progress
from encoder.config import Budget
from encoder.jobs.checkpoint import Checkpoint
from encoder.jobs.clip_assembler import ClipAssembler
from encoder.jobs.gop import Progress
from encoder.jobs.job import Job
from encoder.jobs.run_state import RunState
from encoder.jobs.scheduler import (
    Events,
    JobContext,
    Scheduler,
    WorkerBackend,
    makespan,
    run_serial,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Options of a run that no byte of the clip depends on."""

    output: Path
    """Clip to write."""
    backend: WorkerBackend | None
    """Source of workers; None fits in this process."""
    workers: int | None
    """Number of workers; None leaves it to the backend."""
    resume: bool
    """Whether to go on where an interrupted run stopped."""
    save_seconds: float
    """Time between two saved states, in seconds."""
    checkpoint: Path | None
    """File for the states of the networks, if they are wanted."""
    notes: Sequence[str] = ()
    """Notes to log before the fit begins."""


def run_job(job: Job, run: Run) -> None:
    """Fit a job, write its clip segment by segment, and write the checkpoint if one is wanted.

    Raises RunError if the output is locked or cannot be resumed, and the errors of the fits.
    """
    unfinished = RunState(run.output, identity(job))
    with unfinished.locked():
        _check(unfinished, resume=run.resume)
        remove_leftovers(run.output)
        began = time.perf_counter()
        workers = _workers(job, run)
        # If workers fit, this process only finds the canvas and the topology.
        encoder = (job if run.backend is None else replace(job, device="cpu")).encoder()
        budget = _serial_budget(job, workers)
        unfinished.begin()
        found = replace(
            job, motions=encoder.canvas.motions, topology=encoder.topology, budget=budget
        )
        work = JobContext(found, unfinished, run.save_seconds)
        segments = len(job.plan.runs)
        width, height = job.size
        for note in run.notes:
            logger.info("%s", note)
        logger.info(
            "fitting %d frames of %dx%d in %d segments",
            job.plan.runs[-1].stop,
            width,
            height,
            segments,
        )
        assembly = ClipAssembler(
            run.output, encoder.header, encoder.topology, unfinished, extras=job.extras
        )
        events = (
            run_serial(work, encoder)
            if run.backend is None
            else Scheduler(work, run.backend, workers).run()
        )
        try:
            with contextlib.closing(events):
                _follow(events, assembly, segments)
            assembly.finish()
        except BaseException:
            assembly.stop()
            _tell(run.output, assembly.frames, unfinished)
            raise
        if run.checkpoint:
            # A fit to a quality may end early.
            given = None if job.config.psnr else job.budget.seconds
            seconds = (given or time.perf_counter() - began) * workers
            checkpoint = Checkpoint(
                source=str(job.source),
                width=width,
                height=height,
                seconds=seconds,
                config=job.config,
            )
            with replacing(run.checkpoint) as part:
                checkpoint.save(part, assembly.states)
        unfinished.remove()


def _check(unfinished: RunState, *, resume: bool) -> None:
    """Raise RunError if a run would lose an earlier run's state, or cannot go on from it."""
    if resume and unfinished.exists:
        unfinished.check()
    elif unfinished.exists:
        raise RunError(f"an interrupted run can go on with --resume; {unfinished.advice}")
    elif resume:
        logger.info("nothing is left of an earlier run: starting anew")


def _workers(job: Job, run: Run) -> int:
    """Return the number of workers; raises SettingsError if there is no room for any."""
    if run.backend is None:
        return 1
    room = run.backend.capacity(job.device, job.threads)
    if run.workers is not None and room < run.workers:
        logger.warning("%d workers fit instead of %d: there is no room for more", room, run.workers)
    return min(run.workers or room, room, len(job.plan.groups))


def _serial_budget(job: Job, workers: int) -> Budget:
    """Return the budget of one worker that would fit all segments in turn."""
    if job.budget.seconds is None:
        return job.budget
    plan = job.plan
    span = makespan(
        [sum(plan.shares[number] for number in group) for group in plan.groups], workers
    )
    return replace(job.budget, seconds=job.budget.seconds / span)


def identity(job: Job) -> dict[str, str]:
    """Return the settings that must be equal for a run to resume another."""
    hardness = zlib.crc32(repr((job.plan.runs, job.plan.hardness)).encode())
    return {
        "version": f"{version('nervcast')}, bitstream {VERSION}",
        "source": str(job.source),
        "content": f"{hardness:08x}",
        "mask": str(job.config.mask or "none"),
        "checkpoint": "wanted" if job.keep_states else "not wanted",
        "device": job.device,
        "threads": str(job.threads),
        "settings": job.settings,
    }


def _follow(events: Events, assembly: ClipAssembler, segments: int) -> None:
    """Write finished segments, and show the progress of all GOPs."""
    done: dict[int, float] = {}
    running: dict[int, Progress] = {}
    with progress("fitting") as update:
        for group, step in events:
            done[group] = step.done
            if step.finished is None:
                running[group] = step
            else:
                running.pop(group, None)
                assembly.take(step.segment, step.finished)
            shown = [running[group] for group in sorted(running)] or [step]
            numbers = ", ".join(str(each.segment + 1) for each in shown)
            qualities = ", ".join(f"{each.psnr_db:.2f}" for each in shown)
            update(sum(done.values()), f"segment {numbers}/{segments}, {qualities} dB in training")


def _tell(output: Path, frames: int, unfinished: RunState) -> None:
    """Log the files that an interrupted run leaves."""
    if frames:
        logger.info("%s holds the first %d frames", output, frames)
    if unfinished.before.exists():
        logger.info("the clip that it replaced is in %s", unfinished.before)
    if unfinished.exists:
        logger.info("the same command with --resume goes on")
