"""Fit groups of segments, one after the other here, or side by side by workers elsewhere."""

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
"""Times that a group is begun before the end of its worker counts as an error."""

logger = logging.getLogger(__name__)

Event = tuple[int, Progress]
"""Number of a group, and how far it has come."""
Events = Generator[Event]
"""Closed, they end all fits."""


@dataclass(frozen=True)
class JobContext:
    """How groups are fitted."""

    job: Job
    unfinished: RunState
    save_seconds: float
    """Time between two states of a group that are saved."""

    def fit(self, encoder: SegmentEncoder, number: int) -> Iterator[Progress]:
        """Fit a group, from where an earlier run left it, if there was one; a segment is saved before it is handed out.

        So nobody ever fits a segment anew that is written, of which others may be differences.
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
    """Yield the steps of a worker with what was logged meanwhile, which is said where all workers are followed."""
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
    """A worker has ended before its group; says how."""


class Worker(ABC):
    """Fits groups of segments, one at a time."""

    @abstractmethod
    def assign(self, group: int) -> None:
        """Begin with a group; raises LostError."""

    @abstractmethod
    def receive(self) -> Progress | None:
        """Return how far the group has come, None once it is done; raises LostError, and what went wrong there."""

    @abstractmethod
    def end(self) -> None:
        """End the worker, whatever it is doing."""


class WorkerBackend(ABC):
    """Where workers come from."""

    gpus: int | None = None
    """How many GPUs they have; None if those of this machine."""

    def capacity(self, device: str, threads: int) -> int:
        """Return how many workers of some threads, or of a GPU, there may be; raises SettingsError for none."""
        del device, threads
        return sys.maxsize

    @abstractmethod
    def start(self, work: JobContext, number: int) -> Worker:
        """Start another worker, with a number from 0 that no other has now."""

    @abstractmethod
    def ready(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """Wait until at least one of some workers has something to tell; return those."""

    def close(self) -> None:  # noqa: B027 (some have nothing to close)
        """Leave, once all workers have ended."""


def run_serial(work: JobContext, encoder: SegmentEncoder) -> Events:
    """Fit all groups in this process."""
    for group in range(len(work.job.plan.groups)):
        for progress in work.fit(encoder, group):
            yield group, progress


class Scheduler:
    """Hands groups out to workers."""

    def __init__(self, work: JobContext, backend: WorkerBackend, workers: int) -> None:
        self._work = work
        self._backend = backend
        self._slots = list(reversed(range(workers)))
        """Numbers that new workers may have."""
        self._numbers: dict[Worker, int] = {}
        self._idle: list[Worker] = []
        self._groups: dict[Worker, int] = {}
        """What each busy worker does."""
        self._waiting = deque(range(len(work.job.plan.groups)))
        self._tries = Counter[int]()
        self._failure: Exception | None = None
        """What went wrong in the first group that cannot be fitted."""
        self._reached: dict[int, int] = {}
        """The last segment of each group that is finished."""

    def run(self) -> Events:
        """Fit all groups; one whose worker is lost is begun again by another.

        Raises SettingsError if that happens again and again, and what went wrong in a worker, once the groups before are done.
        """
        try:
            while self._waiting or self._groups:
                while self._waiting and (self._idle or self._slots):
                    self._hand_out()
                while self._idle:  # what they hold may be what others wait for
                    self._end(self._idle.pop())
                for worker in self._backend.ready(list(self._groups)) if self._groups else ():
                    if worker in self._groups:  # not ended for what another had to tell
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
        """Let another worker do what one has left undone."""
        group = self._groups.pop(worker)
        self._end(worker)
        segments = self._work.job.plan.groups[group]
        what = f"a worker {error} at the segments from {segments.start} to {segments.stop - 1}"
        if self._tries[group] >= MAX_TRIES:
            raise FitError(f"{what}, {MAX_TRIES} times: with fewer --workers each has more memory")
        logger.warning("%s; another one goes on", what)
        self._waiting.appendleft(group)

    def _fail(self, group: int, error: Exception) -> None:
        """Give up a group, and those after it."""
        self._failure = error
        for worker in [worker for worker, other in self._groups.items() if other >= group]:
            del self._groups[worker]
            self._end(worker)
        self._waiting = deque(other for other in self._waiting if other < group)

    def _end(self, worker: Worker) -> None:
        self._slots.append(self._numbers.pop(worker))
        worker.end()


def makespan(shares: Sequence[float], workers: int) -> float:
    """Return the time that workers take for jobs, each of which goes to the first worker that is free."""
    free = [0.0] * workers
    for share in shares:
        heapq.heapreplace(free, free[0] + share)
    return max(free)
