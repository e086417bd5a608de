"""The fit of a network to the frames of a segment, as a generator over epochs.

The caller prints the epochs, and may stop early. The fit rolls back when its quality collapses.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf, isfinite, log10
from typing import Any

import torch
from torch import Tensor

from encoder.common.errors import FitError
from encoder.config import Budget
from encoder.training.device import convolutions, unit, upload
from encoder.training.divergence import DivergenceMonitor
from encoder.training.rate_control import QUALITY
from encoder.training.recipe import Recipe
from encoder.training.state import FitState, Stateful
from encoder.training.step import TrainStep
from encoder.training.thread_choice import ThreadChoice

logger = logging.getLogger(__name__)

MAX_STEP_PIXELS = 4 * 1920 * 1080
"""Largest number of pixels of a step's frames, which bounds its memory."""
KEEP_STEPS = 8
"""Smallest number of steps between two states that the fit can roll back to.

The best epoch of as many steps is judged. The quality of a single step varies too much.
"""
NOTICE_SECONDS = 5.0
"""Time after which a long epoch yields its progress."""
SPARE_DB = 0.5
"""Quality above the wanted one at which the noise of quantization may begin early."""
RISE_DB = 1.0
"""Rise that is expected of a fit from the time on at which the quality is steered."""
LEAST_STEPS = 200
"""Smallest number of steps before a fit goes ahead: steering takes about as many."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Result of one pass over the frames, or the progress of a long one."""

    index: int
    """Number of the epoch, from 0."""
    progress: float
    """Share of the fit that is done, 0..1."""
    psnr_db: float
    """PSNR of the latest whole epoch's training outputs, before 8-bit rounding; 0 at first."""
    is_whole: bool = True
    """Whether the epoch has ended."""


class Trainer(Stateful):
    """Trains within a budget, and rolls back when the quality collapses."""

    STATE = (
        "_epochs",
        "_spent",
        "_pace",
        "_left",
        "_error",
        "_best_db",
        "_psnr_db",
        "_latest_at",
    )

    def __init__(
        self,
        training: TrainStep,
        budget: Budget,
        *,
        start: float = 0.0,
        notice_seconds: float = NOTICE_SECONDS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take the network in training, and the progress of the schedule to start from, 0..1."""
        self.training = training
        self._budget = budget
        self._start = start
        self._notice_seconds = notice_seconds
        self._clock = clock
        self._epochs = 0
        self._spent = 0.0
        """Spent share of the time budget.

        Not in seconds, as the budget of a resumed run differs with its number of workers.
        """
        self._pace = 1.0
        """Factor of the schedule's progress, over 1 in a fit that may end early."""
        self._left = torch.zeros(0, dtype=torch.long)
        """Numbers of the frames that are still to come in this epoch."""
        self._error = torch.zeros(())
        """Sum of the squared errors of this epoch's frames."""
        self._best_db = -inf
        """PSNR of the best epoch since `_latest_at`."""
        self._psnr_db = 0.0
        self._monitor = DivergenceMonitor()
        self._good: FitState | None = None
        """State to roll back to: the epochs judged after it have passed without a collapse."""
        self._latest: FitState | None = None
        """State from before the epochs that are judged next; becomes `_good` once they pass."""
        self._latest_at = -KEEP_STEPS
        """Number of steps at that state."""

    def epochs(self, frames: Tensor, mask: Tensor | None = None) -> Iterator[Epoch]:
        """Fit to uint8 frames (T, 3, H, W); yield each epoch, and the progress of long ones.

        Pixels of the mask (T, H, W) do not count. Raises FitError if the loss becomes NaN, or the
        quality collapses again and again.
        """
        # The bytes depend on the number of threads, so that of a fit by epochs stays.
        is_free = self._budget.seconds is not None and frames.device.type == "cpu"
        with ThreadChoice(is_free=is_free, clock=self._clock) as self._threads:
            yield from self._epochs_of(frames, mask)

    def _epochs_of(self, frames: Tensor, mask: Tensor | None) -> Iterator[Epoch]:
        self._frames = frames
        self._mask = mask
        # A state that was read from a file is not on the device.
        self._left = self._left.to(frames.device)
        self._error = self._error.to(frames.device)
        self._began = self._clock() - self._spent * (self._budget.seconds or 0.0)
        step_frames = frames_per_step(self.training.recipe, *frames.shape[2:])
        self.training.network.train()
        while self._progress() < 1:
            if not len(self._left):
                self._begin_epoch(frames)
            yield from self._pass(step_frames)
            if len(self._left) == len(frames):
                break  # there was no time left
            # This waits for the device, so it is done only once per epoch.
            psnr_db = _mean_psnr_db(self._error.item(), len(frames) - len(self._left))
            self._best_db = max(self._best_db, psnr_db)
            # A part of an epoch may have harder frames than the whole.
            is_whole = not len(self._left)
            is_due = self.training.steps >= self._latest_at + KEEP_STEPS or self._progress() >= 1
            if not isfinite(psnr_db) or (is_whole and is_due):
                judged_db = self._best_db if isfinite(psnr_db) else psnr_db
                if self._has_collapsed(judged_db, step_frames):
                    self._roll_back(judged_db)
                    continue
                self._good = self._latest or self._good
                self._latest = None
            self._psnr_db = psnr_db
            if is_whole:
                self._hurry(psnr_db)
            yield Epoch(
                index=self._epochs - 1, progress=min(self._progress(), 1.0), psnr_db=psnr_db
            )
        if self._monitor.collapses and self._monitor.reference_db == -inf:
            raise FitError("the fit collapses at once: try another seed")
        with convolutions(self.training.precision):
            self.training.finish(frames)
        self.training.network.eval()

    def _begin_epoch(self, frames: Tensor) -> None:
        if self.training.steps >= self._latest_at + KEEP_STEPS:
            self._latest_at = self.training.steps
            self._best_db = -inf
            self._latest = self._snapshot()
        self._left = upload(torch.randperm(len(frames)), frames.device)
        self._error = torch.zeros((), device=frames.device)

    def _has_collapsed(self, psnr_db: float, step_frames: int) -> bool:
        steps = self.training.steps
        recent = 2 * max(-(-len(self._frames) // step_frames), KEEP_STEPS)
        is_changed = steps - self.training.changed_at <= recent
        return self._monitor.collapsed(psnr_db, steps, is_changed=is_changed)

    def _pass(self, step_frames: int) -> Iterator[Epoch]:
        """Take the remaining steps of an epoch, or of the fit."""
        told = self._clock()
        while len(self._left) and (progress := self._progress()) < 1:
            if self._clock() > told + self._notice_seconds:
                yield Epoch(
                    index=self._epochs, progress=progress, psnr_db=self._psnr_db, is_whole=False
                )
                told = self._clock()
            batch = self._left[:step_frames]
            mask = None if self._mask is None else self._mask[batch]
            with self._threads.step():
                error = self.training.step(
                    batch, unit(self._frames[batch]), mask, progress, gain=self._monitor.gain
                )
            if self.training.rate is not None:
                self.training.rate.observe(error)
            self._error = self._error + error * len(batch)
            self._left = self._left[step_frames:]
            if self._budget.seconds is not None:
                self._spent = (self._clock() - self._began) / self._budget.seconds
        self._epochs += 1

    def state_dict(self) -> FitState:
        """Return a copy of the state, together with the states to roll back to."""
        return self._snapshot() | {"good": self._good, "latest": self._latest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of a fit of the same network, recipe and number of epochs."""
        self._go_to(state)
        self._good = state["good"]
        self._latest = state["latest"]

    def _snapshot(self) -> FitState:
        return super().state_dict() | {
            "training": self.training.state_dict(),
            "monitor": self._monitor.state_dict(),
            "random": torch.get_rng_state(),
        }

    def _go_to(self, state: Mapping[str, Any]) -> None:
        self.training.load_state_dict(state["training"])
        self._monitor.load_state_dict(state["monitor"])
        super().load_state_dict(state)
        torch.set_rng_state(state["random"])

    def _roll_back(self, psnr_db: float) -> None:
        """Go on from the last good state at a lower learning rate; raises FitError if hopeless."""
        monitor = self._monitor
        good = self._good or self._latest
        if monitor.is_hopeless or good is None:
            raise FitError("the fit collapses again and again: try another seed")
        spent = self._spent
        epochs = self._epochs
        kept = monitor.state_dict()
        self._latest = None if self._good else self._latest
        self._go_to(good)
        monitor.load_state_dict(kept)
        monitor.expect(good["monitor"]["reference_db"])
        self._spent = spent
        self._epochs = epochs
        torch.randperm(len(self._frames))  # otherwise the same batches would come again
        logger.warning(
            "the fit fell from %.1f to %.1f dB: back to where it was, with a lower learning rate",
            kept["reference_db"],
            psnr_db,
        )

    def _hurry(self, psnr_db: float) -> None:
        """Go ahead in the schedule if the fit will end with the wanted quality all the same."""
        rate = self.training.rate
        if rate is None or rate.target_db is None or self.training.steps < LEAST_STEPS:
            return
        if self._monitor.collapses:  # perhaps it went ahead too early
            return
        done = self._progress()
        schedule = self.training.recipe.schedule
        if done < schedule.noise_from:
            goal, enough_db = schedule.noise_from, rate.target_db + SPARE_DB
        else:
            goal, enough_db = QUALITY.start, rate.target_db - RISE_DB
        if schedule.rate_from <= done < goal and psnr_db >= enough_db:
            self._pace *= (goal - self._start) / (done - self._start)

    def _progress(self) -> float:
        if self._budget.epochs is not None:
            done = 1 - len(self._left) / len(self._frames) if len(self._left) else 0.0
            share = (self._epochs + done) / self._budget.epochs
        else:
            share = self._spent
        return self._start + self._pace * share * (1 - self._start)


def _mean_psnr_db(error: float, frames: int) -> float:
    """Return the PSNR of a number of frames with a sum of squared errors."""
    mean = error / frames
    return -10 * log10(max(mean, 1e-10)) if isfinite(mean) else -inf


def frames_per_step(recipe: Recipe, height: int, width: int) -> int:
    """Return the number of frames of a step: a batch, or fewer if their pixels are too many."""
    return min(recipe.batch, max(MAX_STEP_PIXELS // (height * width), 1))
