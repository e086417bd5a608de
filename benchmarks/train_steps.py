"""Variants of the training step that the encoder does not use."""

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.common.errors import SettingsError
from encoder.models.base import VideoNetwork
from encoder.training.losses import squared
from encoder.training.step import TrainStep

AVERAGE_FROM = 0.6
"""Share of the fit after which weights are averaged."""
AVERAGE_DECAY = 0.99
"""Decay of their mean."""
COARSE_UNTIL = 0.3
"""Share of the fit in which the loss sees half of the resolution."""


class Averaged(TrainStep):
    """Step that replaces the weights with their mean when rounding starts."""

    _mean: dict[str, Tensor] | None = None

    def step(
        self, batch: Tensor, target: Tensor, mask: Tensor | None, progress: float, *, gain: float
    ) -> Tensor:
        """Take a step."""
        round_from = self.recipe.schedule.round_from
        learned = {name: x for name, x in self.network.named_parameters() if x.requires_grad}
        with torch.no_grad():
            if progress >= round_from and self._mean is not None:
                for name, x in learned.items():
                    x.copy_(self._mean[name])
                self._mean = None
            elif AVERAGE_FROM <= progress < round_from:
                self._mean = self._mean or {name: x.clone() for name, x in learned.items()}
                for name, x in learned.items():
                    self._mean[name].lerp_(x, 1 - AVERAGE_DECAY)
        return super().step(batch, target, mask, progress, gain=gain)


class Coarse(TrainStep):
    """Step whose loss sees half of the resolution at first."""

    def step(
        self, batch: Tensor, target: Tensor, mask: Tensor | None, progress: float, *, gain: float
    ) -> Tensor:
        """Take a step."""
        self.recipe = replace(self.recipe, loss=_halved if progress < COARSE_UNTIL else squared)
        return super().step(batch, target, mask, progress, gain=gain)


def _halved(output: Tensor, target: Tensor) -> Tensor:
    return squared(F.avg_pool2d(output, 2), F.avg_pool2d(target, 2))


class HalfPrecision(TrainStep):
    """Step in bfloat16 wherever torch considers it safe."""

    def step(
        self, batch: Tensor, target: Tensor, mask: Tensor | None, progress: float, *, gain: float
    ) -> Tensor:
        """Take a step."""
        # A cache of converted weights would not survive in a recorded step.
        with torch.autocast(target.device.type, torch.bfloat16, cache_enabled=False):
            return super().step(batch, target, mask, progress, gain=gain)


class Compiled(TrainStep):
    """Steps of a network that torch compiles at the first one."""

    OPTIONS: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, network: VideoNetwork, *args: Any, **options: Any) -> None:
        super().__init__(network, *args, **options)
        network.compile(**self.OPTIONS)


class ChannelsLast(TrainStep):
    """Steps with the channels of a pixel side by side in memory."""

    def __init__(self, network: VideoNetwork, *args: Any, **options: Any) -> None:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(network, *args, **options)


class Recorded(TrainStep):
    """Steps that are recorded once per phase, and launched as one CUDA graph from then on.

    The first step of a phase runs as usual, since its preparations cannot be recorded.
    On a CPU, a recorded step is simply computed again.
    """

    def __init__(self, network: VideoNetwork, *args: Any, **options: Any) -> None:
        self._recorded: dict[tuple[object, ...], _Record | None] = {}
        super().__init__(network, *args, **options)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the steps are recorded anew, since its tensors are others."""
        super().load_state_dict(state)
        self._recorded.clear()

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        if self.recipe.optimizer == "adan":
            raise SettingsError("steps of Adan cannot be recorded: it counts them itself")
        self._recorded.clear()
        return super()._make_optimizers()

    def _set_learning_rates(self, progress: float, gain: float) -> None:
        super()._set_learning_rates(progress, gain)
        # A number would be recorded with the step; a tensor can change.
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                device = group["params"][0].device
                kept = group.setdefault("recorded_lr", torch.zeros((), device=device))
                group |= {"lr": kept.fill_(group["lr"]), "capturable": device.type == "cuda"}

    def _update(
        self, batch: Tensor, target: Tensor, mask: Tensor | None, progress: float
    ) -> Tensor:
        if self.rate is not None and self.rate.target_bits is not None:
            return super()._update(batch, target, mask, progress)  # steering depends on progress
        drawn = None if self.quantizer is None else self.quantizer.drawn
        inputs = [x for x in (batch, target, mask, drawn) if x is not None]
        is_rated = self.steps % self.recipe.schedule.rate_every == 0
        phase = (mask is None, self.quantizer is None, drawn is None, self._stage)
        key = (phase, len(batch), is_rated)
        if key not in self._recorded:
            # The memory of phases that are over is free again.
            self._recorded = {old: kept for old, kept in self._recorded.items() if old[0] == phase}
            self._recorded[key] = None
            with _beside(target.device):
                return super()._update(batch, target, mask, progress)
        record = self._recorded[key]
        if record is None:
            record = self._record(inputs, progress, has_mask=mask is not None)
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
        with torch.cuda.graph(graph):
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
