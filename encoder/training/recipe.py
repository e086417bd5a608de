"""Recipe of a fit, as data: loss, optimizer, schedule, quantization and rate control."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import cos, log, pi
from typing import Literal

from torch import Tensor

from encoder.codec.tensor_coder import MODES

Loss = Callable[[Tensor, Tensor], Tensor]
"""Distortion between output and target frames (B, 3, H, W) in 0..1."""

LEAST_FACTOR = 1e-3
"""Smallest factor of the learning rate, at the end of the cosine."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Shares of the fit, 0..1, at which its phases begin.

    Training through noise, then through rounding, follows NVRC (arXiv 2409.07414, section 3.3).
    """

    rate_from: float = 0.1
    """Start of the rate term in the loss."""
    noise_from: float = 0.3
    """Start of training through quantization noise, and of learning the quantization steps."""
    round_from: float = 0.85
    """Start of training through rounding (STE)."""
    freeze_from: float = 0.93
    """Time at which weights are rounded for good; only latents are fitted afterwards."""
    prune_at: float = 0.7
    """Time at which the smallest weights are set to zero, if any are pruned."""
    warmup: float = 0.1
    """End of the learning rate's linear rise; a cosine to zero follows."""
    warmup_start: float = 0.1
    """Learning rate at the very start, as a share of the full one."""
    rate_every: int = 8
    """Number of steps between two evaluations of the rate term."""

    def stage(self, progress: float, *, prunes: bool, quantizes: bool) -> int:
        """Return how many changes that may cost quality have begun at a share of the fit."""
        edges = [self.prune_at] if prunes else []
        if quantizes:
            edges += [self.rate_from, self.noise_from, self.round_from, self.freeze_from]
        return sum(progress >= edge for edge in edges)

    def learning_rate_factor(self, progress: float) -> float:
        """Return the learning rate's factor at a share of the fit: linear rise, cosine fall."""
        if progress < self.warmup:
            return self.warmup_start + (1 - self.warmup_start) * progress / self.warmup
        fall = (progress - self.warmup) / (1 - self.warmup)
        return max((1 + cos(pi * fall)) / 2, LEAST_FACTOR)


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Quantization during the fit (QAT)."""

    step_learning_rates: tuple[float, float] = (8e-3, 5e-2)
    """Least and largest learning rate of the logarithms of the quantization steps."""
    step_travel: float = 9.0
    """Distance that the steps' logarithms can cover in a fit; short fits use higher rates."""
    has_channel_steps: bool = True
    """Whether each channel has a quantization step of its own."""
    predicts: bool = True
    """Whether latents may be coded as differences in time."""
    has_contexts: bool = True
    """Whether the scales of latents follow from integers around, as the coder's contexts do."""
    plane_axes: tuple[int, ...] = (2, 3)
    """Axes of a latent (T, C, h, w) that share a scale, where there are no contexts."""
    coder_modes: tuple[int, ...] = MODES
    """Modes of a tensor that the range coder tries after the fit."""


@dataclass(frozen=True, kw_only=True)
class Steering:
    """Gains of the controller that steers lambda towards a target size."""

    start: float = 0.1
    """Share of the fit at which steering starts."""
    arrive: float = 0.5
    """Share of the fit at which the size should be reached."""
    proportional: float = 4.0
    """Immediate change of log(lambda) for each unit by which log(size) is off."""
    integral: float = 60.0
    """Change of log(lambda) for each unit by which log(size) is off during a whole fit."""
    firm_from: float = 0.85
    """Share of the fit after which `firm_integral` holds: learning rates are low there."""
    firm_integral: float = 1200.0
    """Integral gain near the end of the fit."""
    max_change: float = 0.5
    """Largest change of log(lambda) at once."""
    max_rise: float = log(4)
    """Largest rise of log(lambda) before `arrive`; more costs short fits quality."""
    calibrate_at: tuple[float, ...] = (0.4, 0.6, 0.7, 0.8, 0.9, 0.94)
    """Shares of the fit at which the estimated rate is compared with the coder's."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that decide how a network is fitted."""

    loss: Loss
    """Distortion between frames."""
    batch: int
    """Number of frames of a step."""
    learning_rate: float
    """Learning rate after the warm-up."""
    latent_rate: float = 1.0
    """Learning rate of the latents, as a multiple of that of the other parameters."""
    optimizer: Literal["adam", "muon", "adan"] = "adam"
    """Optimizer. With `muon`, Muon takes the convolutions as matrices, and Adam the rest."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decays of both moments."""
    lambda_: float = 0.0
    """Weight of a bit per pixel in the loss; 0 leaves quantization (8 bits) to the end (PTQ)."""
    full_steps: int = 0
    """Number of steps below which bits weigh more than `lambda_` says."""
    schedule: Schedule = field(default_factory=Schedule)
    """Phases of the fit."""
    quantization: Quantization = field(default_factory=Quantization)
    """Quantization during the fit."""
    steering: Steering = field(default_factory=Steering)
    """Controller of the size."""
