"""Variants of the training step that the encoder does not use."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.config import PrecisionName
from encoder.models.base import VideoNetwork
from encoder.training.losses import squared
from encoder.training.recorded_step import RecordedStep
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


class _RecordedCompiled(RecordedStep, Compiled):
    """Recorded steps of a compiled network."""


class _RecordedChannelsLast(RecordedStep, ChannelsLast):
    """Recorded steps with the channels of a pixel side by side in memory."""


PRECISIONS: Mapping[str, PrecisionName] = {"fp32": "fp32", "tf32": "auto", "bf16": "bf16"}
"""Settings of a fit's arithmetic by its type on a GPU."""
MODES: Mapping[str, type[TrainStep]] = {
    "eager": TrainStep,
    "recorded": RecordedStep,
    "recorded, channels last": _RecordedChannelsLast,
    "recorded, compiled": _RecordedCompiled,
}
"""Kinds of training steps."""


def step_of(mode: str, *, compiler: str = "inductor") -> type[TrainStep]:
    """Return the training step of a mode, with torch's compiler of a name."""
    kind = MODES[mode]
    if not issubclass(kind, Compiled):
        return kind
    return type("Step", (kind,), {"OPTIONS": {"backend": compiler}})
