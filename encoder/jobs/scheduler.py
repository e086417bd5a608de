"""Fit groups of segments (GOPs): in turn in this process, or in parallel by workers."""

import heapq
import logging
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from encoder.common.errors import CodecError, FitError
from encoder.jobs.gop import Gop, Progress
from encoder.jobs.job import Job
from encoder.jobs.run_state import RunState
from encoder.jobs.segment_encoder import SegmentEncoder

MAX_TRIES = 3
"""Number of lost workers in a row at which a group counts as failed."""

logger = logging.getLogger(__name__)

Event = tuple[int, Progress]
"""Number of a group, and its progress."""
Events = Generator[Event]
"""Events of all groups; closing the generator ends all fits."""


@dataclass(frozen=True)
class JobContext:
    """A job with the state of its run, in a form that can be sent to workers."""

    job: Job
    unfinished: RunState
    save_seconds: float
    """Time between two saved states of a group, in seconds."""

    def fit(self, encoder: SegmentEncoder, number: int) -> Iterator[Progress]:
        """Fit a group, from the state that an earlier run left, if any; yield its progress.

        A segment is saved before it is yielded. So no run ever fits a written segment again, from
        which later segments may be differences.
        """
        state = self.unfinished.load(number, len(encoder.topology.tensors))
        known = len(state.finished) if state else 0
        group = Gop(encoder, number, self.job.budget, state=state)
        saved = time.monotonic()
        for progress in group.run():
            known -= progress.finished is not None
            if (progress.finished and known < 0) or time.monotonic() >= saved + self.save_seconds:
                self.unfinished.save(number, group.state())
                saved = time.monotonic()
            yield progress


def with_notes(steps: Iterator[Progress]) -> Iterator[Progress]:
    """Yield the steps of a worker, each with the warnings logged meanwhile.

    The scheduler's process logs them.
    """
    notes = _Notes()
    ours = logging.getLogger("encoder")
    ours.addHandler(notes)
    try:
        for step in steps:
            yield replace(step, notes=tuple(notes.texts))
            notes.texts.clear()
    finally:
        ours.removeHandler(notes)


class _Notes(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class LostError(Exception):
    """A worker has ended before its group; the message tells how."""


class Worker(ABC):
    """Fits groups of segments, one at a time."""

    @abstractmethod
    def assign(self, group: int) -> None:
        """Begin with a group; raises LostError."""

    @abstractmethod
    def receive(self) -> Progress | None:
        """Return the group's progress, or None once it is done.

        Raises LostError if the worker has ended, and any error of the fit.
        """

    @abstractmethod
    def end(self) -> None:
        """End the worker, even in the middle of a fit."""


class WorkerBackend(ABC):
    """Source of workers."""

    gpus: int | None = None
    """Number of GPUs of all machines; None if workers use those of this machine."""

    def capacity(self, device: str, threads: int) -> int:
        """Return the largest number of workers, each with `threads` threads or a GPU.

        Raises SettingsError if there is no room for any.
        """
        del device, threads
        return sys.maxsize

    @abstractmethod
    def start(self, work: JobContext, number: int) -> Worker:
        """Start another worker, with a number from 0 that no running worker has."""

    @abstractmethod
    def ready(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """Wait until at least one of the workers has a message; return those that have one."""

    def close(self) -> None:  # noqa: B027 (some have nothing to close)
        """Release the backend's resources, once all workers have ended."""


def run_serial(work: JobContext, encoder: SegmentEncoder) -> Events:
    """Fit all groups in this process."""
    for group in range(len(work.job.plan.groups)):
        for progress in work.fit(encoder, group):
            yield group, progress


class Scheduler:
    """Assigns groups to workers."""

    def __init__(self, work: JobContext, backend: WorkerBackend, workers: int) -> None:
        self._work = work
        self._backend = backend
        self._slots = list(reversed(range(workers)))
        """Free numbers for new workers."""
        self._numbers: dict[Worker, int] = {}
        self._idle: list[Worker] = []
        self._groups: dict[Worker, int] = {}
        """Group of each busy worker."""
        self._waiting = deque(range(len(work.job.plan.groups)))
        self._tries = Counter[int]()
        self._failure: Exception | None = None
        """Error of the first group that cannot be fitted."""
        self._reached: dict[int, int] = {}
        """Last finished segment of each group."""

    def run(self) -> Events:
        """Fit all groups; if a worker is lost, another one goes on with its group.

        Raises FitError if a group loses its worker MAX_TRIES times. Raises the error of a fit once
        the groups before it are done.
        """
        try:
            while self._waiting or self._groups:
                while self._waiting and (self._idle or self._slots):
                    self._hand_out()
                while self._idle:  # other workers may wait for their memory or cores
                    self._end(self._idle.pop())
                for worker in self._backend.ready(list(self._groups)) if self._groups else ():
                    if worker in self._groups:  # it may have been ended after another's error
                        yield from self._receive(worker)
            if self._failure is not None:
                raise self._failure
        finally:
            for worker in list(self._numbers):
                self._end(worker)

    def _hand_out(self) -> None:
        if self._idle:
            worker = self._idle.pop()
        else:
            number = self._slots.pop()
            worker = self._backend.start(self._work, number)
            self._numbers[worker] = number
        group = self._waiting.popleft()
        self._tries[group] += 1
        self._groups[worker] = group
        try:
            worker.assign(group)
        except LostError as error:
            self._lose(worker, error)

    def _receive(self, worker: Worker) -> Iterator[Event]:
        try:
            progress = worker.receive()
        except LostError as error:
            self._lose(worker, error)
            return
        except (CodecError, OSError) as error:
            self._fail(self._groups[worker], error)
            return
        if progress is None:
            del self._groups[worker]
            self._idle.append(worker)
        else:
            group = self._groups[worker]
            for note in progress.notes:
                logger.warning("%s", note)
            if progress.finished is not None and progress.segment > self._reached.get(group, -1):
                self._reached[group] = progress.segment
                self._tries[group] = 0
            yield group, progress

    def _lose(self, worker: Worker, error: LostError) -> None:
        """End a lost worker, and queue its group again; raises FitError after MAX_TRIES."""
        group = self._groups.pop(worker)
        self._end(worker)
        segments = self._work.job.plan.groups[group]
        what = f"a worker {error} at the segments from {segments.start} to {segments.stop - 1}"
        if self._tries[group] >= MAX_TRIES:
            raise FitError(f"{what}, {MAX_TRIES} times: with fewer --workers each has more memory")
        logger.warning("%s; another one goes on", what)
        self._waiting.appendleft(group)

    def _fail(self, group: int, error: Exception) -> None:
        """Give up a group and those after it."""
        self._failure = error
        for worker in [worker for worker, other in self._groups.items() if other >= group]:
            del self._groups[worker]
            self._end(worker)
        self._waiting = deque(other for other in self._waiting if other < group)

    def _end(self, worker: Worker) -> None:
        self._slots.append(self._numbers.pop(worker))
        worker.end()


def makespan(shares: Sequence[float], workers: int) -> float:
    """Return the time in which workers finish all jobs; the first free one takes the next job."""
    free = [0.0] * workers
    for share in shares:
        heapq.heapreplace(free, free[0] + share)
    return max(free)
