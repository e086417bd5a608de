"""A group of pictures (GOP): a key segment and its delta segments, fitted in turn."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from encoder.codec.segment import Segment, Weights
from encoder.config import Budget
from encoder.jobs.checkpoint import State
from encoder.training.state import FitState
from encoder.training.trainer import Trainer

if TYPE_CHECKING:
    from encoder.jobs.segment_encoder import SegmentEncoder

MIN_SHARE = 0.1
"""Smallest share of a segment's time that remains for its fit after its preparation."""


@dataclass(frozen=True)
class Finished:
    """A segment that is fitted and coded."""

    segment: Segment
    state: State | None
    """State of its network before the final rounding, if states are kept."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of an encoding."""

    done: float
    """Finished share of all fits, 0..1; for a GOP, the part of it that the GOP has done."""
    segment: int
    """Number of the segment in training, from 0."""
    psnr_db: float
    """PSNR of the training outputs of the latest epoch."""
    is_whole: bool = True
    """Whether an epoch or a segment has ended; False within a long epoch."""
    finished: Finished | None = None
    """The segment, once it is coded."""
    notes: tuple[str, ...] = ()
    """Warnings that a worker has logged."""

    def __str__(self) -> str:
        """Return one line for people."""
        text = f"{self.done:4.0%}  segment {self.segment + 1}, {self.psnr_db:.2f} dB in training"
        return text if self.finished is None else f"{text}, coded"


@dataclass(frozen=True, kw_only=True)
class GopState:
    """State of a GOP, from which a later run goes on."""

    finished: tuple[Finished, ...] = ()
    """Finished segments, the first ones of the GOP."""
    frame_encoder: FitState | None = None
    """State of the latest segment's frame encoder, if it had one."""
    fit: FitState | None = None
    """State of the running fit."""


class Gop:
    """Fits the segments of a GOP in turn, independently of other GOPs."""

    def __init__(
        self,
        encoder: "SegmentEncoder",
        number: int,
        budget: Budget,
        *,
        start: float = 0.0,
        state: GopState | None = None,
    ) -> None:
        """Take the number of the GOP and the budget of all GOPs.

        `start` is the schedule's progress at the start. `state` is that of an earlier run.
        """
        self._encoder = encoder
        self._budget = budget
        self._start = start
        self._segments = encoder.plan.groups[number]
        self._shares = encoder.plan.shares
        state = state or GopState()
        self._finished = list(state.finished)
        self._frame_encoder = state.frame_encoder
        self._saved_fit: FitState | None = state.fit
        self._fit: Trainer | None = None
        self._before: Weights | None = None

    def state(self) -> GopState:
        """Return the state between two steps of `run`."""
        fit = self._saved_fit if self._fit is None else self._fit.state_dict()
        return GopState(finished=tuple(self._finished), frame_encoder=self._frame_encoder, fit=fit)

    def run(self) -> Iterator[Progress]:
        """Yield each epoch, the progress of long ones, and each segment.

        Segments that an earlier run finished come first.
        """
        for index, finished in zip(self._segments, tuple(self._finished), strict=False):
            self._before = finished.segment.weights(self._encoder.topology.tensors, self._before)
            yield Progress(
                done=self._done(index, 1.0), segment=index, psnr_db=0.0, finished=finished
            )
        for index in self._segments[len(self._finished) :]:
            yield from self._run_segment(index)

    def _run_segment(self, index: int) -> Iterator[Progress]:
        encoder = self._encoder
        began = time.perf_counter()
        frames = encoder.frames(index)
        masked = encoder.masked(index)
        torch.manual_seed(encoder.seed + index)
        network = encoder.start(index, self._before)
        fit = encoder.fit(
            index,
            network,
            self._share(index, began),
            start=self._start,
            before=self._before,
            frame_encoder=self._frame_encoder,
        )
        if self._saved_fit is not None:
            fit.load_state_dict(self._saved_fit)
            self._saved_fit = None
        self._fit = fit
        psnr_db = 0.0
        for epoch in fit.epochs(frames, masked):
            psnr_db = epoch.psnr_db
            yield Progress(
                done=self._done(index, epoch.progress),
                segment=index,
                psnr_db=psnr_db,
                is_whole=epoch.is_whole,
            )
        segment = encoder.segment(index, network, fit.training.quantizer, self._before)
        self._before = segment.weights(encoder.topology.tensors, self._before)
        self._frame_encoder = fit.training.frame_encoder_state
        self._fit = None
        self._finished.append(Finished(segment, encoder.kept_state(fit.training)))
        yield Progress(
            done=self._done(index, 1.0), segment=index, psnr_db=psnr_db, finished=self._finished[-1]
        )

    def _done(self, index: int, part: float) -> float:
        """Return the share of all fits that this GOP has done, after a part of a segment."""
        return sum(self._shares[self._segments.start : index]) + part * self._shares[index]

    def _share(self, index: int, began: float) -> Budget:
        """Return the budget that is left for a segment whose preparation began at a time."""
        if self._budget.seconds is None:
            return self._budget
        seconds = self._shares[index] * max(
            self._budget.seconds - self._encoder.spent_seconds, MIN_SHARE * self._budget.seconds
        )
        return replace(
            self._budget, seconds=max(seconds - (time.perf_counter() - began), MIN_SHARE * seconds)
        )
