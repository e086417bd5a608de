"""A job from its first segment to its last: fitted, written as it comes to be, saved, and shown."""

import contextlib
import logging
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from encoder.common.atomic_file import replacing
from encoder.common.errors import SettingsError
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
    """How a job is done, on which no byte depends."""

    output: Path
    """Clip to write."""
    crew: WorkerBackend | None
    """Where workers come from; None if this process fits."""
    workers: int | None
    """How many of them, unless that is for the crew to say."""
    resume: bool
    """Whether to go on where an interrupted run stopped."""
    save_seconds: float
    """Time between two states that another run goes on from."""
    checkpoint: Path | None
    """Where to write the states of the networks, if they are wanted."""
    notes: Sequence[str] = ()
    """What to say before the fit begins."""


def run_job(job: Job, how: Checkpoint, run: Run) -> None:
    """Fit, and write the clip as it comes to be, and the checkpoint if one is wanted."""
    unfinished = RunState(run.output, _identity(job))
    with unfinished.locked():
        _check(unfinished, resume=run.resume)
        began = time.perf_counter()
        workers = _workers(job, run)
        # Where others fit, this process only looks for what all have in common.
        encoder = (job if run.crew is None else replace(job, device="cpu")).encoder()
        limit = _limit(job, workers)
        unfinished.begin()
        found = replace(job, motions=encoder.canvas.motions, topology=encoder.topology, limit=limit)
        work = JobContext(found, unfinished, run.save_seconds)
        segments = len(job.plan.runs)
        for note in run.notes:
            logger.info("%s", note)
        logger.info(
            "fitting %d frames of %dx%d in %d segments",
            job.plan.runs[-1].stop,
            job.width,
            job.height,
            segments,
        )
        assembly = ClipAssembler(run.output, encoder.header, encoder.topology, unfinished)
        events = (
            run_serial(work, encoder)
            if run.crew is None
            else Scheduler(work, run.crew, workers).run()
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
            seconds = (job.limit.seconds or time.perf_counter() - began) * workers
            with replacing(run.checkpoint) as part:
                replace(how, seconds=seconds).save(part, assembly.states)
        unfinished.remove()


def _check(unfinished: RunState, *, resume: bool) -> None:
    """Raise SettingsError where a run would lose what an earlier one left, or cannot go on with it."""
    if resume and unfinished.exists:
        unfinished.check()
    elif unfinished.exists:
        raise SettingsError(f"an interrupted run can go on with --resume; {unfinished.advice}")
    elif resume:
        logger.info("nothing is left of an earlier run: starting anew")


def _workers(job: Job, run: Run) -> int:
    """Return how many fit at once; raises SettingsError where there is no room for any."""
    if run.crew is None:
        return 1
    room = run.crew.capacity(job.device, job.threads)
    if run.workers is not None and room < run.workers:
        logger.warning("%d workers fit instead of %d: there is no room for more", room, run.workers)
    return min(run.workers or room, room, len(job.plan.groups))


def _limit(job: Job, workers: int) -> Budget:
    """Return the limit as if one worker did all, one segment after the other."""
    if job.limit.seconds is None:
        return job.limit
    plan = job.plan
    span = makespan(
        [sum(plan.shares[number] for number in group) for group in plan.groups], workers
    )
    return replace(job.limit, seconds=job.limit.seconds / span)


def _identity(job: Job) -> dict[str, str]:
    """Return what must be the same for a run to go on with what another left."""
    hardness = zlib.crc32(repr((job.plan.runs, job.plan.hardness)).encode())
    return {
        "version": version("nervcast"),
        "source": str(job.source),
        "content": f"{hardness:08x}",
        "mask": str(job.mask or "none"),
        "checkpoint": "wanted" if job.keep_states else "not wanted",
        "device": job.device,
        "threads": str(job.threads),
        "settings": job.settings,
    }


def _follow(events: Events, assembly: ClipAssembler, segments: int) -> None:
    """Write what is finished, and show how far all groups have come."""
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
    """Say what an interrupted run leaves."""
    if frames:
        logger.info("%s holds the first %d frames", output, frames)
    if unfinished.before.exists():
        logger.info("what it held before is in %s", unfinished.before)
    if unfinished.exists:
        logger.info("the same command with --resume goes on")
