"""Choices that docs/explanation/ablations.md compares with those of the preset `fast`.

Each changes one thing in the preset as it was before its head changed; the new head is one of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from benchmarks.fits import with_recipe
from benchmarks.networks import Banded, PointHead, Sceneless, Shallow, TimeAffine, WideHead
from benchmarks.soap import Soap
from benchmarks.train_steps import Averaged, Bands, Coarse, Compiled, HalfPrecision
from encoder.config import SizeName
from encoder.models.base import VideoNetwork, VideoShape
from encoder.models.fast import Fast, FastConfig
from encoder.presets import FAST_WIDTHS, PRESETS, Preset
from encoder.training.losses import l1_ssim, squared
from encoder.training.optimizers import MATRIX_OPTIMIZERS
from encoder.training.step import TrainStep

OWN = "the preset"
"""Name of the preset's own choices."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A preset, and the training step of its network."""

    preset: Preset
    train_step: Callable[..., TrainStep] = TrainStep


@cache
def choices() -> Mapping[str, Choice]:
    """Return all choices by name, the preset's own first.

    They are made once, because topologies are cached by the factory of the network.
    """
    MATRIX_OPTIMIZERS["soap"] = Soap
    own = _with_network(WideHead)
    presets = {OWN: own} | _recipes(own)
    networks = {"no camera": replace(own, camera=False)} | _networks() | _heads()
    return (
        {name: Choice(preset=preset) for name, preset in presets.items()}
        | _train_steps(own)
        | {name: Choice(preset=preset) for name, preset in networks.items()}
    )


def _recipes(own: Preset) -> dict[str, Preset]:
    changes: dict[str, dict[str, Any]] = {
        "optimiser: Adam": {"optimizer": "adam"},
        "optimiser: Adan, learning rate 3e-3": {"optimizer": "adan", "learning_rate": 3e-3},
        "optimiser: SOAP": {"optimizer": "soap"},
        "learning rate: 0.008": {"learning_rate": 8e-3},
        "learning rate: 0.024": {"learning_rate": 2.4e-2},
        "learning rate of latents: 1 times": {"latent_rate": 1.0},
        "learning rate of latents: 10 times": {"latent_rate": 10.0},
        "warm-up: 20 %": {"schedule": replace(own.recipe.schedule, warmup=0.2)},
        "Adam's decays: 0.9, 0.999": {"betas": (0.9, 0.999)},
        "loss: L1": {"loss": F.l1_loss},
        "loss: 0.7 L1 + 0.3 (1 - SSIM)": {"loss": l1_ssim},
        "loss: 0.7 L1 + 1.5 MSE": {"loss": _l1_squared},
        "batch: 1": {"batch": 1},
        "batch: 2": {"batch": 2},
        "batch: 8": {"batch": 8},
    }
    return {name: with_recipe(own, **change) for name, change in changes.items()}


def _train_steps(own: Preset) -> dict[str, Choice]:
    banded = _with_network(Banded)
    return {
        "weights averaged": Choice(preset=own, train_step=Averaged),
        "half the resolution first": Choice(preset=own, train_step=Coarse),
        "bands of half the height": Choice(preset=banded, train_step=Bands),
        "bands, batch: 8": Choice(preset=with_recipe(banded, batch=8), train_step=Bands),
        "bf16": Choice(preset=own, train_step=HalfPrecision),
        "torch.compile": Choice(preset=own, train_step=Compiled),
        "activation: GELU": Choice(preset=_with_network(WideHead, activation=F.gelu)),
    }


def _networks() -> dict[str, Preset]:
    return {
        "latents: of each frame alone": _with_network(WideHead, latents=((1, 8),)),
        "latents: every 4th frame alone": _with_network(WideHead, latents=((4, 16),)),
        "latents: no still scene": _with_network(Sceneless, scene_channels=1),
        "times scale and shift channels": _with_network(TimeAffine),
        "trunk: one block less": _with_network(Shallow),
        "trunk: at half the frame's resolution": _with_network(
            WideHead, shuffle=2, strides=(10, 8, 12)
        ),
        "trunk: at an eighth of it": _with_network(WideHead, shuffle=8, strides=(3, 2, 4)),
    }


def _heads() -> dict[str, Preset]:
    pointed = _with_network(PointHead)
    long = replace(pointed.recipe.schedule, warmup=0.2)
    return {
        "head: 1x1": pointed,
        "head: 1x1, a block more": _with_network(Fast),
        "head: 1x1, 40 channels": _with_network(PointHead, trunk_channels=40),
        "head: 1x1, GELU": _with_network(PointHead, activation=F.gelu),
        "head: 1x1, warm-up: 20 %, batch: 4": with_recipe(pointed, schedule=long, batch=4),
        "head: 1x1, warm-up: 20 %, batch: 2": with_recipe(pointed, schedule=long, batch=2),
    }


def _with_network(kind: Callable[[FastConfig], VideoNetwork], **changes: Any) -> Preset:
    """Return the preset with a variant of its network, and other fields of its configuration."""

    def network(shape: VideoShape, size: SizeName) -> VideoNetwork:
        stem, trunk, rank = FAST_WIDTHS[size]
        widths = {"stem_channels": stem, "trunk_channels": trunk, "rank": rank}
        return kind(FastConfig.of(shape, **(widths | changes)))

    return replace(PRESETS["fast"], network=network)


def _l1_squared(output: Tensor, target: Tensor) -> Tensor:
    return 0.7 * F.l1_loss(output, target) + 1.5 / 8 * squared(output, target)
