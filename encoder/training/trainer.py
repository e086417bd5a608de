"""Fit a network to the frames of a segment: a generator over epochs, which its caller prints and may stop."""

import copy
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf, isfinite, log10

import torch
from torch import Tensor

from encoder.common.errors import SettingsError
from encoder.config import Budget
from encoder.training.recipe import Recipe
from encoder.training.step import FitState, TrainStep, unit

logger = logging.getLogger(__name__)

MAX_STEP_PIXELS = 4 * 1920 * 1080
"""Most pixels of all frames of a step, which bound the memory that it takes."""
KEEP_STEPS = 8
"""Steps, at least, from one state that is kept for a collapse to the next."""
QUIET_SECONDS = 5.0
"""Time after which a long epoch is interrupted to tell how far it is."""
KEPT = ("_epochs", "_spent", "_left", "_error", "_psnr_db", "_latest_at")
"""Attributes that belong to the state."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one pass over the frames came to, or how far it is."""

    index: int
    """Number of the epoch, from 0."""
    progress: float
    """Share of the fit that is done, 0..1."""
    psnr_db: float
    """Peak signal-to-noise ratio of the training outputs of the latest whole epoch, before 8-bit rounding; 0 in the first."""
    is_whole: bool = True
    """Whether it has ended."""


class Trainer:
    """Trains up to a limit, and goes back where that fails."""

    def __init__(
        self,
        training: TrainStep,
        limit: Budget,
        *,
        start: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take what to train, and where in the schedule to start, 0..1."""
        self.training = training
        self._limit = limit
        self._start = start
        self._clock = clock
        self._epochs = 0
        self._spent = 0.0
        """Share of the time that there is: not seconds, since a run that goes on may have another number of workers."""
        self._left = torch.zeros(0, dtype=torch.long)
        """Numbers of the frames that are still to come in this epoch."""
        self._error = torch.zeros(())
        """Squared errors of its frames, added up."""
        self._psnr_db = 0.0
        self._guard = DivergenceMonitor()
        self._good: FitState | None = None
        """State to go back to after a collapse: the epoch after it was as good as it should be."""
        self._latest: FitState | None = None
        """A later one, of which that is not known yet."""
        self._latest_at = -KEEP_STEPS
        """Number of the step that it is of."""

    def epochs(self, frames: Tensor, mask: Tensor | None = None) -> Iterator[Epoch]:
        """Fit to uint8 frames (T, 3, H, W), yielding after each pass over them, and now and then within a long one.

        Pixels that are masked (T, H, W) may become what they will. Raises SettingsError if the loss stops being finite.
        """
        self._frames = frames
        self._mask = mask
        self._began = self._clock() - self._spent * (self._limit.seconds or 0.0)
        step_frames = frames_per_step(self.training.recipe, *frames.shape[2:])
        self.training.network.train()
        while self._progress() < 1:
            if not len(self._left):
                if self.training.steps >= self._latest_at + KEEP_STEPS:
                    self._latest_at = self.training.steps
                    self._latest = self._snapshot()
                self._left = torch.randperm(len(frames)).to(frames.device)
                self._error = torch.zeros(())
            yield from self._pass(step_frames)
            if len(self._left) == len(frames):
                break  # there was no time left
            psnr_db = self._mean_psnr_db()
            # A part of an epoch may be of harder frames than the whole.
            if not len(self._left) or not isfinite(psnr_db):
                steps = self.training.steps
                recent = 2 * -(-len(frames) // step_frames)
                is_changed = steps - self.training.changed_at <= recent
                if self._guard.collapsed(psnr_db, steps, is_changed=is_changed):
                    self._roll_back(psnr_db)
                    continue
            self._psnr_db = psnr_db
            self._good = self._latest or self._good
            self._latest = None
            yield Epoch(
                index=self._epochs - 1, progress=min(self._progress(), 1.0), psnr_db=psnr_db
            )
        if self._guard.collapses and self._guard.reference_db == -inf:
            raise SettingsError("the fit collapses at once; fit with another --seed")
        self.training.finish(frames)
        self.training.network.eval()

    def _pass(self, step_frames: int) -> Iterator[Epoch]:
        """Take the steps that are left of an epoch, or of the fit."""
        told = self._clock()
        while len(self._left) and (progress := self._progress()) < 1:
            if self._clock() > told + QUIET_SECONDS:
                yield Epoch(
                    index=self._epochs, progress=progress, psnr_db=self._psnr_db, is_whole=False
                )
                told = self._clock()
            batch = self._left[:step_frames].to(self._frames.device)
            mask = None if self._mask is None else self._mask[batch]
            error = self.training.step(
                batch, unit(self._frames[batch]), mask, progress, gain=self._guard.gain
            )
            self._error = self._error.to(error.device) + error * len(batch)
            self._left = self._left[step_frames:]
            if self._limit.seconds is not None:
                self._spent = (self._clock() - self._began) / self._limit.seconds
        self._epochs += 1

    def _mean_psnr_db(self) -> float:
        """Return the quality of an epoch, or of the part of it that there was time for."""
        mean = self._error.item() / (
            len(self._frames) - len(self._left)
        )  # waits for the device, once an epoch
        return -10 * log10(max(mean, 1e-10)) if isfinite(mean) else -inf

    def state(self) -> FitState:
        """Return what it takes to go on from here, in tensors of its own: `torch.save` can write it."""
        return self._snapshot() | {"good": self._good, "latest": self._latest}

    def restore(self, state: FitState) -> None:
        """Go on from the state of a fit of the same network and recipe, and the same number of epochs."""
        self._go_to(state)
        self._good = state["good"]
        self._latest = state["latest"]

    def _snapshot(self) -> FitState:
        own = copy.deepcopy({name: getattr(self, name) for name in KEPT})
        return own | {
            "training": self.training.state(),
            "guard": self._guard.state(),
            "random": torch.get_rng_state(),
        }

    def _go_to(self, state: FitState) -> None:
        self.training.restore(state["training"])
        self._guard.restore(state["guard"])
        for name in KEPT:
            setattr(self, name, copy.deepcopy(state[name]))
        torch.set_rng_state(state["random"])

    def _roll_back(self, psnr_db: float) -> None:
        """Go on from the last good state with a lower learning rate; raises SettingsError where that does not help."""
        guard = self._guard
        spent = self._spent
        epochs = self._epochs
        good = self._good or self._latest
        if guard.is_hopeless or good is None:
            raise SettingsError("the fit collapses again and again; fit with another --seed")
        kept = guard.state()
        reference = guard.reference_db
        self._latest = None if self._good else self._latest
        self._go_to(good)
        guard.restore(kept)
        guard.go_back(good["guard"])
        self._spent = spent
        self._epochs = epochs
        torch.randperm(len(self._frames))  # or the same batches would come again
        logger.warning(
            "the fit fell from %.1f to %.1f dB: back to where it was, with a lower learning rate",
            reference,
            psnr_db,
        )

    def _progress(self) -> float:
        if self._limit.epochs is not None:
            done = 1 - len(self._left) / len(self._frames) if len(self._left) else 0.0
            share = (self._epochs + done) / self._limit.epochs
        else:
            share = self._spent
        return self._start + share * (1 - self._start)


def frames_per_step(recipe: Recipe, height: int, width: int) -> int:
    """Return the frames of a step: a batch, or as many as memory is meant for."""
    return min(recipe.batch, max(MAX_STEP_PIXELS // (height * width), 1))


COLLAPSE_DB = 6.0
"""How far an epoch's quality may fall below what it was."""
CHANGE_DB = 15.0
"""How far it may fall when weights begin to be pruned, or to bear noise, or to be rounded."""
EASE_DB = 0.5
"""By how much the quality may fall from epoch to epoch: a size that is wanted comes slowly."""
ENOUGH_DB = 40.0
"""Quality above which changes mean little: of black frames it jumps by tens of decibels."""
LOWER = 0.5
MAX_COLLAPSES = 4
"""What the learning rate is multiplied by after a collapse, and how many there may be until the quality is back."""


class DivergenceMonitor:
    """Looks at the quality of each epoch."""

    def __init__(self) -> None:
        self.reference_db = -inf
        """What the quality was."""
        self._fell_at = -1
        """Number of the step at which it collapsed last."""
        self.collapses = 0
        """Since the quality was as it should be beyond that step."""
        self.gain = 1.0
        """What the learning rate is to be multiplied by."""

    def state(self) -> list[float]:
        """Return what it takes to go on from here."""
        return [self.reference_db, float(self._fell_at), float(self.collapses), self.gain]

    def restore(self, state: list[float]) -> None:
        """Go on from where another was."""
        self.reference_db = state[0]
        self.gain = state[3]
        self._fell_at = int(state[1])
        self.collapses = int(state[2])

    def go_back(self, state: list[float]) -> None:
        """Expect no more than was expected where the fit goes on from now, which may be many steps before the collapse."""
        self.reference_db = state[0]

    def collapsed(self, psnr_db: float, step: int, *, is_changed: bool = False) -> bool:
        """Tell whether an epoch is far worse than it should be, or no number, and lower the learning rate if so.

        Takes the number of the step that it ends with, and whether the network is quantised or pruned otherwise than before.
        """
        shown = min(psnr_db, ENOUGH_DB)
        if isfinite(psnr_db) and shown >= self.reference_db - (
            CHANGE_DB if is_changed else COLLAPSE_DB
        ):
            if shown >= self.reference_db and step > self._fell_at:
                self.collapses = 0
            self.reference_db = shown if is_changed else max(shown, self.reference_db - EASE_DB)
            return False
        self._fell_at = step
        self.collapses += 1
        self.gain *= LOWER
        return True

    @property
    def is_hopeless(self) -> bool:
        """Whether lower learning rates do not help."""
        return self.collapses > MAX_COLLAPSES
