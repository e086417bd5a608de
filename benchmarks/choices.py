"""Other choices than those of the preset `fast`, one at a time: what docs/explanation/ablations.md compares.

They are changes of the preset as it was before its head changed, which is one of them. Those that did not earn their place in
the encoder live here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.config import SizeName
from encoder.jobs import segment_encoder
from encoder.models import fast
from encoder.models.base import VideoShape
from encoder.models.fast import Fast, FastConfig
from encoder.models.layers import SeparableBlock, TemporalGrid, planes
from encoder.presets import PRESETS, Preset
from encoder.training import optimizers
from encoder.training.losses import l1_ssim, squared
from encoder.training.step import ROUND_FROM, TrainStep

AVERAGE_FROM, AVERAGE_DECAY = 0.6, 0.99
"""Share of the fit from which on weights are averaged, and the decay of their mean."""
COARSE_UNTIL = 0.3
"""Share of the fit in which a loss sees half of the resolution."""
BAND = 0.5
"""Height of a band, as a share of the canvas's."""
ROTATE_EVERY = 10
"""Steps from one look for SOAP's axes to the next."""


class Before(Fast):
    """With a head of 3x3, in place of the second block after the upsampling."""

    def __init__(self, config: FastConfig) -> None:
        super().__init__(config)
        self.after = SeparableBlock(config.trunk_channels, torch.sin)
        self.head = nn.Conv2d(config.trunk_channels, self.head.out_channels, 3, padding=1)


def _preset(kind: Callable[[FastConfig], nn.Module], **changes: Any) -> Preset:
    """Return the preset with a network of some kind, and other options of it."""
    now = PRESETS["fast"]

    def network(shape: VideoShape, size: SizeName) -> nn.Module:
        with patch("encoder.presets.Fast", lambda config: kind(replace(config, **changes))):
            return now.network(shape, size)

    return replace(now, network=network)


FAST = _preset(Before)
"""The preset that others are compared with."""


@dataclass(frozen=True)
class Choice:
    """What is done otherwise."""

    preset: Preset = FAST
    values: Mapping[tuple[Any, str], Any] = field(default_factory=dict)
    """Values that attributes of modules take meanwhile."""

    def made(self) -> AbstractContextManager[Any]:
        """Return a context in which the choice is made."""
        stack = ExitStack()
        for (owner, name), value in self.values.items():
            stack.enter_context(patch.object(owner, name, value))
        return stack


def choices() -> Iterator[tuple[str, Choice]]:
    """Yield all choices by name, the preset's own first."""
    yield "the preset", Choice()
    yield "optimiser: Adam", _recipe(optimizer="adam")
    yield "optimiser: Adan, learning rate 3e-3", _recipe(optimizer="adan", learning_rate=3e-3)
    yield "optimiser: SOAP", Choice(values={(optimizers, "Muon"): Soap})
    for rate in (8e-3, 2.4e-2):
        yield f"learning rate: {rate:g}", _recipe(learning_rate=rate)
    for rate in (1.0, 10.0):
        yield f"learning rate of latents: {rate:g} times", _recipe(latent_rate=rate)
    yield "warm-up: 20 %", _recipe(warmup=0.2)
    yield "Adam's decays: 0.9, 0.999", _recipe(betas=(0.9, 0.999))
    yield "loss: L1", _recipe(loss=F.l1_loss)
    yield "loss: 0.7 L1 + 0.3 (1 - SSIM)", _recipe(loss=l1_ssim)
    yield "loss: 0.7 L1 + 1.5 MSE", _recipe(loss=_l1_squared)
    for batch in (1, 2, 8):
        yield f"batch: {batch}", _recipe(batch=batch)
    yield "weights averaged", Choice(values={(segment_encoder, "TrainStep"): Averaged})
    yield "half the resolution first", Choice(values={(segment_encoder, "TrainStep"): Coarse})
    banded = _network(Banded, values={(segment_encoder, "TrainStep"): Bands})
    yield "bands of half the height", banded
    yield (
        "bands, batch: 8",
        replace(banded, preset=replace(banded.preset, recipe=replace(FAST.recipe, batch=8))),
    )
    yield "bf16", Choice(values={(segment_encoder, "TrainStep"): HalfPrecision})
    yield "torch.compile", Choice(values={(segment_encoder, "TrainStep"): Compiled})
    yield "activation: GELU", _network(values={(torch, "sin"): F.gelu})
    yield "no camera", Choice(replace(FAST, camera=False))
    yield "latents: of each frame alone", _network(latents=((1, 8),))
    yield "latents: every 4th frame alone", _network(latents=((4, 16),))
    yield "latents: no still scene", _network(Sceneless)
    yield "times scale and shift channels", _network(TimeAffine)
    yield "trunk: one block less", _network(Shallow)
    yield (
        "trunk: at half the frame's resolution",
        _network(values={(fast, "SHUFFLE"): 2, (fast, "STRIDES"): (10, 8, 12)}),
    )
    yield (
        "trunk: at an eighth of it",
        _network(values={(fast, "SHUFFLE"): 8, (fast, "STRIDES"): (3, 2, 4)}),
    )
    yield "head: 1x1", _network(PointHead)
    yield "head: 1x1, a block more", _network(Fast)
    yield "head: 1x1, 40 channels", _network(PointHead, trunk_channels=40)
    yield "head: 1x1, GELU", _network(PointHead, values={(torch, "sin"): F.gelu})
    pointed = _network(PointHead).preset
    for batch in (4, 2):
        recipe = replace(FAST.recipe, warmup=0.2, batch=batch)
        yield f"head: 1x1, warm-up: 20 %, batch: {batch}", Choice(replace(pointed, recipe=recipe))


def _recipe(**changes: Any) -> Choice:
    return Choice(replace(FAST, recipe=replace(FAST.recipe, **changes)))


def _network(
    kind: Callable[[FastConfig], nn.Module] = Before,
    *,
    values: Mapping[tuple[Any, str], Any] | None = None,
    **changes: Any,
) -> Choice:
    return Choice(_preset(kind, **changes), values or {})


def _l1_squared(output: Tensor, target: Tensor) -> Tensor:
    return 0.7 * F.l1_loss(output, target) + 1.5 / 8 * squared(output, target)


class Averaged(TrainStep):
    """Goes on, once weights are rounded, from the mean of what they were."""

    _mean: dict[str, Tensor] | None = None

    def step(
        self, batch: Tensor, target: Tensor, mask: Tensor | None, progress: float, *, gain: float
    ) -> Tensor:
        """Take a step."""
        learned = {name: x for name, x in self.network.named_parameters() if x.requires_grad}
        with torch.no_grad():
            if progress >= ROUND_FROM and self._mean is not None:
                for name, x in learned.items():
                    x.copy_(self._mean[name])
                self._mean = None
            elif AVERAGE_FROM <= progress < ROUND_FROM:
                self._mean = self._mean or {name: x.clone() for name, x in learned.items()}
                for name, x in learned.items():
                    self._mean[name].lerp_(x, 1 - AVERAGE_DECAY)
        return super().step(batch, target, mask, progress, gain=gain)


class Coarse(TrainStep):
    """Looks at half of the resolution at first."""

    def step(
        self, batch: Tensor, target: Tensor, mask: Tensor | None, progress: float, *, gain: float
    ) -> Tensor:
        """Take a step."""
        self.recipe = replace(self.recipe, loss=_halved if progress < COARSE_UNTIL else squared)
        return super().step(batch, target, mask, progress, gain=gain)


def _halved(output: Tensor, target: Tensor) -> Tensor:
    return squared(F.avg_pool2d(output, 2), F.avg_pool2d(target, 2))


class HalfPrecision(TrainStep):
    """Computes with 16 bits where torch holds that for safe."""

    def step(
        self, batch: Tensor, target: Tensor, mask: Tensor | None, progress: float, *, gain: float
    ) -> Tensor:
        """Take a step."""
        with torch.autocast("cpu", torch.bfloat16):
            return super().step(batch, target, mask, progress, gain=gain)


class Compiled(TrainStep):
    """Compiles the network, at its first step."""

    def __init__(self, network: nn.Module, *args: Any, **options: Any) -> None:
        super().__init__(network, *args, **options)
        network.compile()


class Bands(TrainStep):
    """Looks at a band of each picture, another one at each step; the network is a `Banded`."""

    def step(
        self, batch: Tensor, target: Tensor, mask: Tensor | None, progress: float, *, gain: float
    ) -> Tensor:
        """Take a step."""
        assert isinstance(self.network, Banded)
        hidden = self.network.choose_band(*target.shape[2:]).expand(len(target), -1, -1)
        seen = target.shape[2] / max(target.shape[2] - int(hidden[0, :, 0].sum()), 1)
        self.recipe = replace(
            self.recipe, loss=lambda output, target: seen * squared(output, target)
        )
        return super().step(
            batch, target, hidden if mask is None else mask | hidden, progress, gain=gain
        )


class Banded(Before):
    """Makes no more than a band of the canvas while it is fitted; what is small is made as a whole."""

    def __init__(self, config: FastConfig) -> None:
        super().__init__(config)
        self._rows = config.grid[0]
        reach = (config.margin or (0, 0))[0] / 2
        """Pixels that the camera moves up or down."""
        middle = (config.canvas[0] - config.height) / 2 if config.margin else 0.0
        self._above, self._below = middle - reach, middle + reach
        """Of which rows of the canvas a frame's first may be, ..."""
        self._band = range(self._rows)
        """... and which rows of cells are made."""

    def choose_band(self, height: int, width: int) -> Tensor:
        """Choose rows of cells, and return which pixels of frames (1, H, W) may be seen in others."""
        count = max(round(BAND * self._rows), 1)
        start = int(torch.randint(self._rows - count + 1, ()))
        self._band = range(start, start + count)
        cell, row = self.stride * fast.SHUFFLE, torch.arange(height)
        hidden = (row + self._above < start * cell) | (
            row + self._below > self._band.stop * cell - 1
        )
        return hidden[None, :, None].expand(1, height, width)

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W)."""
        *temporal, scene = self.latents
        coarse = self.project(
            torch.sin(self.mix(torch.cat([latent(t) for latent in temporal], dim=1)))
        )
        gathered = self.gather(self.before(coarse))
        # A cell more on each side is what the convolutions of the band look at.
        halo = range(max(self._band.start - 1, 0), min(self._band.stop + 1, self._rows))
        cells, fine = (
            slice(halo.start, halo.stop),
            slice(halo.start * self.stride, halo.stop * self.stride),
        )
        x = F.pixel_shuffle(self.expand(gathered[:, :, cells]), self.stride) + self.detail(
            scene(t)[:, :, fine]
        )
        skip = F.interpolate(coarse, scale_factor=float(self.stride), mode="bilinear")[:, :, fine]
        made = torch.sigmoid(planes(self.head(self.after(torch.sin(x)) + skip), fast.SHUFFLE))
        cell = self.stride * fast.SHUFFLE
        canvas = F.pad(made, (0, 0, halo.start * cell, (self._rows - halo.stop) * cell))
        return canvas if self.camera is None else self.camera(canvas, t)


class Sceneless(Before):
    """Without the grid that stands still."""

    def __init__(self, config: FastConfig) -> None:
        super().__init__(replace(config, scene_channels=1))
        scene = self.latents[-1]
        with torch.no_grad():
            scene.values.zero_()
        scene.requires_grad_(requires_grad=False)


class TimeAffine(Before):
    """Scales and shifts the trunk's channels by the time."""

    def __init__(self, config: FastConfig) -> None:
        super().__init__(config)
        self.affine = TemporalGrid(
            frames=config.frames, period=1, shape=(2 * config.trunk_channels, 1, 1)
        )

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W)."""
        *temporal, scene = self.latents
        x = torch.sin(self.mix(torch.cat([latent(t) for latent in temporal], dim=1)))
        coarse = self.project(x)
        scale, shift = self.affine(t).chunk(2, dim=1)
        fine = F.pixel_shuffle(
            self.expand(self.gather(self.before(coarse))), self.stride
        ) + self.detail(scene(t))
        fine = (1 + scale) * fine + shift
        skip = F.interpolate(coarse, scale_factor=float(self.stride), mode="bilinear")
        canvas = torch.sigmoid(planes(self.head(self.after(torch.sin(fine)) + skip), fast.SHUFFLE))
        return canvas if self.camera is None else self.camera(canvas, t)


class Shallow(Before):
    """Without the block after the upsampling."""

    def __init__(self, config: FastConfig) -> None:
        super().__init__(config)
        self.after = nn.Identity()


class PointHead(Before):
    """With a head that looks at one place."""

    def __init__(self, config: FastConfig) -> None:
        super().__init__(config)
        self.head = nn.Conv2d(config.trunk_channels, self.head.out_channels, 1)


class Soap(optimizers.Muon):
    """Adam along the axes of Shampoo's preconditioner (Vyas et al., arXiv 2409.11321, algorithm 3), for the same matrices."""

    def _update(self, parameter: nn.Parameter, learning_rate: float) -> None:
        assert parameter.grad is not None  # the caller looked
        gradient = parameter.grad.flatten(1)
        first, second = 0.95, 0.95
        state = self.state[parameter]
        if not state:
            sides = gradient @ gradient.T, gradient.T @ gradient
            axes = [torch.linalg.eigh(side).eigenvectors for side in sides]
            zeros = torch.zeros_like(gradient)
            state.update(steps=0, sides=sides, axes=axes, mean=zeros, square=zeros.clone())
        state["steps"] += 1
        (left, right), mean, square = state["axes"], state["mean"], state["square"]
        mean.lerp_(gradient, 1 - first)
        turned = left.T @ gradient @ right
        square.lerp_(turned.square(), 1 - second)
        correction = (1 - first ** state["steps"]), (1 - second ** state["steps"])
        update = (left.T @ mean @ right / correction[0]) / (
            (square / correction[1]).sqrt() + optimizers.EPSILON
        )
        parameter.add_((left @ update @ right.T).view(parameter.shape), alpha=-learning_rate)
        for side, new in zip(
            state["sides"], (gradient @ gradient.T, gradient.T @ gradient), strict=True
        ):
            side.lerp_(new, 1 - second)
        if state["steps"] % ROTATE_EVERY == 0:
            state["axes"] = [
                torch.linalg.qr(side @ axes).Q
                for side, axes in zip(state["sides"], state["axes"], strict=True)
            ]
