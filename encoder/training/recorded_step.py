"""Training steps on a GPU that are recorded once, and launched as one CUDA graph from then on.

A step consists of hundreds of small operators; to launch each takes a GPU longer than to run it.
"""

import contextlib
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from encoder.common.errors import SettingsError, first_line
from encoder.models.base import VideoNetwork
from encoder.training.recipe import Recipe
from encoder.training.state import FitState
from encoder.training.step import TrainStep

COUNTING = "adan"
"""Optimizer whose steps cannot be recorded: it counts them in Python."""

logger = logging.getLogger(__name__)


def kind_of_step(recipe: Recipe, device: torch.device) -> type[TrainStep]:
    """Return the kind of training step for a recipe on a device: recorded, wherever possible."""
    return RecordedStep if device.type == "cuda" and recipe.optimizer != COUNTING else TrainStep


class RecordedStep(TrainStep):
    """Steps that are recorded once per phase of the schedule.

    The first step of a phase runs as usual, since its preparations cannot be recorded.
    So do all steps that are steered, and those of a network that cannot be recorded.
    On a CPU, a recorded step is simply computed again.
    """

    def __init__(self, network: VideoNetwork, *args: Any, **options: Any) -> None:
        """Take what `TrainStep` takes; raises SettingsError for the optimizer Adan."""
        self._recorded: dict[tuple[object, ...], _Record | None] = {}
        self._rates: dict[tuple[int, int], Tensor] = {}
        """Learning rates on the device, by the numbers of the optimizer and of its group."""
        self._pool: Any = None
        """Memory of the records of a phase, which never run at the same time."""
        self._is_refused = False
        super().__init__(network, *args, **options)

    def state_dict(self) -> FitState:
        """Return a copy of the state, from which other kinds of steps can go on, too."""
        state = super().state_dict()
        for optimizer in state["optimizers"]:
            for group in optimizer["param_groups"]:
                group |= {"lr": 0.0, "capturable": False}  # each step sets them
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the steps are recorded anew, since its tensors are others."""
        super().load_state_dict(state)
        self._forget()

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        if self.recipe.optimizer == COUNTING:
            raise SettingsError("steps of Adan cannot be recorded: it counts them itself")
        self._forget()
        return super()._make_optimizers()

    def _forget(self) -> None:
        self._recorded.clear()
        self._pool = None

    def _set_learning_rates(self, progress: float, gain: float) -> None:
        super()._set_learning_rates(progress, gain)
        # A number would be recorded with the step; a tensor can change.
        for number, optimizer in enumerate(self._optimizers):
            for place, group in enumerate(optimizer.param_groups):
                device = group["params"][0].device
                if (number, place) not in self._rates:
                    self._rates[number, place] = torch.zeros((), device=device)
                rate = self._rates[number, place].fill_(group["lr"])
                group |= {"lr": rate, "capturable": device.type == "cuda"}

    def _update(
        self, batch: Tensor, target: Tensor, mask: Tensor | None, progress: float
    ) -> Tensor:
        is_steered = self.rate is not None and self.rate.is_steered
        if not is_steered and not self._is_refused:  # steering depends on the progress
            try:
                return self._replayed(batch, target, mask, progress)
            except torch.OutOfMemoryError:
                # Records keep the memory of their steps. The one that failed has changed nothing.
                logger.info("steps are not recorded as CUDA graphs, for lack of memory")
                self._refuse()
        return super()._update(batch, target, mask, progress)

    def _refuse(self) -> None:
        self._is_refused = True
        self._forget()

    def _replayed(
        self, batch: Tensor, target: Tensor, mask: Tensor | None, progress: float
    ) -> Tensor:
        """Take a step, recorded if it is not the first of its kind in a phase."""
        drawn = None if self.quantizer is None else self.quantizer.drawn
        inputs = [x for x in (batch, target, mask, drawn) if x is not None]
        is_rated = self.steps % self.recipe.schedule.rate_every == 0
        phase = (mask is None, self.quantizer is None, drawn is None, self._stage)
        key = (phase, len(batch), is_rated)
        if key not in self._recorded:
            # The memory of phases that are over is free again.
            if any(old[0] != phase for old in self._recorded):
                self._forget()
            self._recorded[key] = None
            with _beside(target.device):
                return super()._update(batch, target, mask, progress)
        record = self._recorded[key]
        if record is None:
            try:
                record = self._record(inputs, progress, has_mask=mask is not None)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # nothing of the step has been computed yet
                logger.info("steps are not recorded as CUDA graphs: %s", first_line(error))
                self._refuse()
                return super()._update(batch, target, mask, progress)
            self._recorded[key] = record
        for kept, new in zip(record.inputs, inputs, strict=True):
            kept.copy_(new)
        record.launch()
        return record.output()

    def _record(self, inputs: Sequence[Tensor], progress: float, *, has_mask: bool) -> "_Record":
        kept = [x.clone() for x in inputs]
        if self.quantizer is not None and self.quantizer.drawn is not None:
            self.quantizer.drawn = kept[-1]
        mask = kept[2] if has_mask else None
        update = super()._update

        def run() -> Tensor:
            return update(kept[0], kept[1], mask, progress)

        if kept[0].device.type != "cuda":
            outputs: list[Tensor] = []
            return _Record(kept, lambda: outputs.append(run()), outputs.pop)
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool):
            output = run()
        return _Record(kept, graph.replay, lambda: output)


@dataclass(frozen=True)
class _Record:
    """A recorded step."""

    inputs: Sequence[Tensor]
    """Tensors that the step reads."""
    launch: Callable[[], None]
    output: Callable[[], Tensor]


@contextlib.contextmanager
def _beside(device: torch.device) -> Generator[None]:
    """Compute on a CUDA stream other than the current one, as a recording does."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)
