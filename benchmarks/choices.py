"""Choices that docs/explanation/ablations.md compares with those of the preset `fast`.

Each changes one thing in the preset.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.fits import with_recipe
from benchmarks.networks import FullChroma, TimeAffine
from benchmarks.soap import Soap
from benchmarks.train_steps import Averaged, Coarse, Compiled
from encoder.config import PrecisionName, SizeName
from encoder.models.base import VideoNetwork, VideoShape
from encoder.models.pyramid import Pyramid, PyramidConfig
from encoder.presets import FAST_WIDTHS, HIGH_MOTION, PRESETS, Preset
from encoder.training.losses import l1_ssim
from encoder.training.optimizers import MATRIX_OPTIMIZERS
from encoder.training.step import TrainStep

TEMPORAL = PyramidConfig.temporal
"""The preset's grids in time: one every 4th frame, and a finer one every 12th."""
OWN = "the preset"
"""Name of the preset's own choices."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A preset, and the training step of its network."""

    preset: Preset
    train_step: Callable[..., TrainStep] = TrainStep
    precision: PrecisionName = "auto"

    @property
    def steps(self) -> dict[str, Any]:
        """Options of an encoder: the kind of its training steps, and their arithmetic."""
        return {"train_step": self.train_step, "precision": self.precision}


@cache
def choices() -> Mapping[str, Choice]:
    """Return all choices by name, the preset's own first.

    They are made once, because topologies are cached by the factory of the network.
    """
    MATRIX_OPTIMIZERS["soap"] = Soap
    own = PRESETS["fast"]
    presets = {OWN: own} | _recipes(own)
    networks = {"no camera": replace(own, camera=False)} | _networks()
    return (
        {name: Choice(preset=preset) for name, preset in presets.items()}
        | _train_steps(own)
        | {name: Choice(preset=preset) for name, preset in networks.items()}
    )


def _recipes(own: Preset) -> dict[str, Preset]:
    changes: dict[str, dict[str, Any]] = {
        "optimiser: Adam": {"optimizer": "adam"},
        "optimiser: SOAP": {"optimizer": "soap"},
        "learning rate: 0.016": {"learning_rate": 1.6e-2},
        "learning rate: 0.064": {"learning_rate": 6.4e-2},
        "learning rate of latents: 1 times": {"latent_rate": 1.0},
        "learning rate of latents: 10 times": {"latent_rate": 10.0},
        "warm-up: 20 %": {"schedule": replace(own.recipe.schedule, warmup=0.2)},
        "Adam's decays: 0.9, 0.999": {"betas": (0.9, 0.999)},
        "loss: L1": {"loss": F.l1_loss},
        "loss: 0.7 L1 + 0.3 (1 - SSIM)": {"loss": l1_ssim},
        "batch: 1": {"batch": 1},
        "batch: 2": {"batch": 2},
        "batch: 8": {"batch": 8},
    }
    return {name: with_recipe(own, **change) for name, change in changes.items()}


def _train_steps(own: Preset) -> dict[str, Choice]:
    return {
        "weights averaged": Choice(preset=own, train_step=Averaged),
        "half the resolution first": Choice(preset=own, train_step=Coarse),
        "bf16": Choice(preset=own, precision="bf16"),
        "torch.compile": Choice(preset=own, train_step=Compiled),
    }


def _networks() -> dict[str, Preset]:
    changes: dict[str, dict[str, Any]] = {
        "no displacement field": {"cell": None},
        "field: a node every 16 pixels": {"cell": 16},
        "field: a node every 64 pixels": {"cell": 64},
        "warp: bilinear": {"sampling": "bilinear"},
        "latents: of each frame, too": {"temporal": ((1, 2, 16), *TEMPORAL)},
        "latents: of each and of every 4th frame": {"temporal": HIGH_MOTION},
        "latents: every 4th frame alone": {"temporal": TEMPORAL[:1]},
        "latents: every 12th frame alone": {"temporal": TEMPORAL[1:]},
        "still latents: one grid of 14 channels": {"still": ((14, 4),)},
        "still latents: none at a quarter of the resolution": {"still": ((8, 8), (2, 16))},
        "trunk: one block less": {"blocks": 2},
        "trunk: one block more": {"blocks": 4},
        "trunk: 24 channels": {"channels": 24},
        "trunk: 48 channels": {"channels": 48},
        "activation: GELU": {"activation": F.gelu},
        "activation: SiLU": {"activation": F.silu},
        "activation: sine": {"activation": torch.sin},
        "activation: ReLU": {"activation": F.relu},
    }
    return {name: _with_network(Pyramid, **change) for name, change in changes.items()} | {
        "colours of the full resolution": _with_network(FullChroma),
        "times scale and shift channels": _with_network(TimeAffine),
    }


def _with_network(kind: Callable[[PyramidConfig], VideoNetwork], **changes: Any) -> Preset:
    """Return the preset with a variant of its network, and other fields of its configuration."""

    def network(shape: VideoShape, size: SizeName) -> VideoNetwork:
        channels, blocks = FAST_WIDTHS[size]
        return kind(PyramidConfig.of(shape, **({"channels": channels, "blocks": blocks} | changes)))

    return replace(PRESETS["fast"], network=network)
