"""A group of segments in the making: a key, and those that start from the one before."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from encoder.codec.segment import Segment, Weights
from encoder.config import Budget
from encoder.jobs.checkpoint import State
from encoder.training.step import FitState
from encoder.training.trainer import Trainer

if TYPE_CHECKING:
    from encoder.jobs.segment_encoder import SegmentEncoder

MIN_SHARE = 0.1
"""Share of a segment's time that is left for its fit, however long its preparation took."""


@dataclass(frozen=True)
class Finished:
    """A segment that is fitted and coded."""

    segment: Segment
    state: State | None
    """Of its network, unrounded, if that is to be kept."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an encoding has come."""

    done: float
    """Share of all fits that is done, 0..1; of a group, that of its own."""
    segment: int
    """Number of the segment that is being fitted, from 0."""
    psnr_db: float
    """Of the training outputs of the latest epoch."""
    finished: Finished | None = None
    """The segment, once it is."""
    notes: tuple[str, ...] = ()
    """What a worker elsewhere has to say."""


@dataclass(frozen=True, kw_only=True)
class GopState:
    """How far a group of segments has come: what it takes to go on with it."""

    finished: tuple[Finished, ...] = ()
    """Its first segments."""
    frame_encoder: FitState | None = None
    """Of what made the latents of the latest of them, if something did."""
    fit: FitState | None = None
    """Of the one that is being fitted."""


class Gop:
    """Fits the segments of a group in turn. What comes out does not depend on other groups."""

    def __init__(
        self,
        encoder: "SegmentEncoder",
        number: int,
        limit: Budget,
        *,
        start: float = 0.0,
        state: GopState | None = None,
    ) -> None:
        """Take the limit of all groups, the part of the schedule to start at, and the state of an earlier run, if any."""
        self._encoder = encoder
        self._limit = limit
        self._start = start
        self._segments = encoder.plan.groups[number]
        self._shares = encoder.plan.shares
        state = state or GopState()
        self._finished = list(state.finished)
        self._frame_encoder = state.frame_encoder
        self._fit_state: FitState | None = state.fit
        self._fit: Trainer | None = None
        self._before: Weights | None = None

    def state(self) -> GopState:
        """Return how far the group has come, between two steps of `run`."""
        fit = self._fit_state if self._fit is None else self._fit.state()
        return GopState(finished=tuple(self._finished), frame_encoder=self._frame_encoder, fit=fit)

    def run(self) -> Iterator[Progress]:
        """Yield after each epoch, within long ones, and after each segment; the segments of an earlier run come first."""
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
        if self._fit_state is not None:
            fit.restore(self._fit_state)
            self._fit_state = None
        self._fit = fit
        psnr_db = 0.0
        for epoch in fit.epochs(frames, masked):
            psnr_db = epoch.psnr_db
            yield Progress(done=self._done(index, epoch.progress), segment=index, psnr_db=psnr_db)
        segment = encoder.segment(index, network, fit.training.quantizer, self._before)
        self._before = segment.weights(encoder.topology.tensors, self._before)
        self._frame_encoder = fit.training.frame_encoder_state
        self._fit = None
        self._finished.append(Finished(segment, encoder.kept_state(fit.training)))
        yield Progress(
            done=self._done(index, 1.0), segment=index, psnr_db=psnr_db, finished=self._finished[-1]
        )

    def _done(self, index: int, part: float) -> float:
        """Return the share of all fits that this group's are, up to a part of a segment."""
        return sum(self._shares[self._segments.start : index]) + part * self._shares[index]

    def _share(self, index: int, began: float) -> Budget:
        """Return the limit of a segment, whose preparation began at a time."""
        if self._limit.seconds is None:
            return self._limit
        seconds = self._shares[index] * max(
            self._limit.seconds - self._encoder.spent_seconds, MIN_SHARE * self._limit.seconds
        )
        return replace(
            self._limit, seconds=max(seconds - (time.perf_counter() - began), MIN_SHARE * seconds)
        )
