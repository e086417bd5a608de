"""Choice of a fit's number of threads, on cores that other programs may use as well.

The threads of an operator wait for the last of them. Where another program takes a core, all wait
for the thread that shares it, hundreds of times in a step: fewer threads are faster then.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from statistics import median
from typing import Self

import torch

TRIAL_STEPS = 5
"""Steps with each number of threads of a trial; their median leaves out steps with more to do."""
FIRST_SECONDS = 0.5
"""Time before the first trial: the first steps take longer."""
PERIOD_SECONDS = 3.0
"""Least time between two trials."""
PERIOD_TRIALS = 20.0
"""Least time between two trials, in times of a trial: slow steps have few of them."""
SLOW_SECONDS = 1.0
"""Time of a step above which there is no trial: long operators lose little by waiting."""
GAIN = 0.9
"""Largest time of a step with another number of threads, as a share of the present time."""


class ThreadChoice:
    """Takes the number of threads with which steps take the least time."""

    def __init__(
        self, *, is_free: bool = True, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Take whether there is a choice; without one, torch's number of threads stays."""
        self._most = torch.get_num_threads()
        self._is_free = is_free and self._most > 1
        self._clock = clock
        self._now = self._most
        self._next = clock() + FIRST_SECONDS
        self._began = 0.0
        """Time at which the latest trial began."""
        self._turns: list[int] = []
        """Numbers of threads of the trial's steps that are still to come."""
        self._times: dict[int, list[float]] = {}

    def __enter__(self) -> Self:
        """Begin with the largest number of threads, that of torch."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give torch its number of threads back."""
        torch.set_num_threads(self._most)

    @contextmanager
    def step(self) -> Generator[None]:
        """Run and time a step, with the number of threads whose turn it is."""
        began = self._clock()
        if self._is_free and not self._turns and began >= self._next:
            self._times = {
                count: []
                for count in (max(self._now // 2, 1), self._now, min(2 * self._now, self._most))
            }
            self._turns = [count for count in self._times for _ in range(TRIAL_STEPS)]
            self._began = began
        if not self._turns:
            yield
            if self._clock() - began > SLOW_SECONDS:
                self._next = self._clock() + PERIOD_SECONDS
            return
        count = self._turns[-1]
        torch.set_num_threads(count)
        yield
        self._turns.pop()
        self._times[count].append(self._clock() - began)
        if not self._turns:
            self._choose()

    def _choose(self) -> None:
        """End a trial."""
        times = {count: median(taken) for count, taken in self._times.items()}
        best = min(times, key=times.__getitem__)
        if times[best] < GAIN * times[self._now]:
            self._now = best
        torch.set_num_threads(self._now)
        ended = self._clock()
        self._next = ended + max(PERIOD_SECONDS, PERIOD_TRIALS * (ended - self._began))
