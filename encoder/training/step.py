"""Train a network, step by step: first without quantisation, then through noise, then through rounding."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from math import cos, pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from encoder.models.base import LATENTS
from encoder.training import pruning
from encoder.training.optimizers import make_optimizers
from encoder.training.qat import QatQuantizer
from encoder.training.rate_control import RateControl
from encoder.training.recipe import Recipe

FitState = dict[str, Any]
"""Tensors, numbers and lists of them, by name."""

RATE_FROM = 0.1
"""Share of the fit after which the bits count in the loss, ..."""
NOISE_FROM = 0.3
"""... after which the network trains through quantisation noise, and the steps are learned, ..."""
ROUND_FROM = 0.85
"""... and after which it trains through rounding, ..."""
FREEZE_FROM = 0.93
"""... and after which all but the latents stays as it will be written, and the latents are fitted to that."""
PRUNE_AT = 0.7
"""Share of the fit after which the smallest weights are set to zero and stay there, if any are to be pruned."""
RATE_EVERY = 8
"""Steps from one evaluation of the rate to the next, to save time."""
HIDDEN = 0.5
"""Colour of masked pixels of both output and target, so that no loss sees them."""
WARMUP_START = 0.1
"""Learning rate at the very start, as a share of the full one."""
FRAME_LATENTS = f"{LATENTS}0.values"
"""The latents that an encoder makes of frames, one row for each."""
STEP_LEARNING_RATES = 8e-3, 5e-2
"""Least and largest learning rate of the logarithms of the steps, whatever that of the weights is."""
STEP_TRAVEL = 9.0
"""How far the logarithms of the steps could go in a whole fit at their full learning rate, which is higher in a short fit."""
KEPT = ("unrounded", "steps", "changed_at", "_stage", "_began", "_masks", "_frozen", "_scaled")
"""Attributes that belong to the state."""


class TrainStep:
    """A network in the making, with its quantiser once it has one."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        *,
        before: Mapping[str, Tensor] | None = None,
        frame_encoder: nn.Module | None = None,
        rate: RateControl | None = None,
        coded_bits: Callable[[QatQuantizer], float] | None = None,
        prune: float = 0.0,
    ) -> None:
        """Take a rate to train for, if any, and a coder to check it by; and the share of the weights to prune.

        Further the tensors of the segment before, if those of this one are coded as differences from them, and what makes the
        latents of frames, if they are not learned by themselves.
        """
        self.network = network
        self.recipe = recipe
        self.rate = rate
        self._coded_bits = coded_bits
        self._prune = prune
        self._before = before
        self._frame_encoder = frame_encoder
        self.quantizer: QatQuantizer | None = None
        self.unrounded: dict[str, Tensor] = {}
        """The tensors that were rounded for good, as they were before."""
        self.steps = 0
        """How many have been taken."""
        self.changed_at = 0
        """Number of the step at which weights began last to be quantised or pruned otherwise: the quality may fall there."""
        self._stage = 0
        """How many such changes there have been."""
        self._began: float | None = None
        """Share of the schedule that was done before the first step."""
        self.frame_encoder_state: FitState | None = None
        """Of what made the latents of frames, once the fit has ended, if there was something."""
        self._tensors = dict(network.named_parameters())
        self._learned = [name for name, x in self._tensors.items() if x.requires_grad]
        self._optimizers = self._make_optimizers()
        self._masks: dict[str, Tensor] = {}
        self._frozen = self._scaled = False

    def state(self) -> FitState:
        """Return what it takes to go on from here, in tensors of its own: `torch.save` can write it."""
        parts = {
            "network": self.network,
            "quantizer": self.quantizer,
            "encoder": self._frame_encoder,
        }
        return copy.deepcopy(
            {name: None if part is None else part.state_dict() for name, part in parts.items()}
            | {"optimizers": [optimizer.state_dict() for optimizer in self._optimizers]}
            | {"rate": None if self.rate is None else self.rate.state()}
            | {name: getattr(self, name) for name in KEPT}
        )

    def restore(self, state: FitState) -> None:
        """Go on from the state of another training of the same network and recipe."""
        state = copy.deepcopy(state)
        if (state["quantizer"] is None) != (self.quantizer is None):
            self.quantizer = None
            self._optimizers = self._make_optimizers()
            if state["quantizer"] is not None:
                self._start_quantizing()
        parts = {
            "network": self.network,
            "quantizer": self.quantizer,
            "encoder": self._frame_encoder,
        }
        for name, part in parts.items():
            if part is not None:
                part.load_state_dict(state[name])
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        if self.rate is not None:
            self.rate.restore(state["rate"])
        for name in KEPT:
            setattr(self, name, state[name])
        # A state that was read from a file is not on the device.
        for tensors in (self.unrounded, self._masks):
            tensors.update({name: x.to(self._tensors[name].device) for name, x in tensors.items()})
        for name in self._learned:
            self._tensors[name].requires_grad = name not in self.unrounded

    def step(
        self, batch: Tensor, target: Tensor, mask: Tensor | None, progress: float, *, gain: float
    ) -> Tensor:
        """Take one step on the frames (B, 3, H, W) of the given numbers (B,); return their mean squared error.

        The mask (B, H, W) tells which pixels may become what they will; the gain is a factor of the learning rates.
        """
        if self._began is None:
            self._began = progress
        self._look_for_changes(progress)
        if self.rate is not None and self.quantizer is None and progress >= RATE_FROM:
            self._start_quantizing()
        self._set_learning_rates(progress, gain)
        if self.quantizer is not None:
            self._go_on_quantizing(self.quantizer, progress)
        tensors = self._with_latents(batch, target)
        output = self._forward(tensors, batch.float(), progress)[
            ..., : target.shape[2], : target.shape[3]
        ]
        if mask is not None:
            output, target = (x.masked_fill(mask[:, None], HIDDEN) for x in (output, target))
        loss = self.recipe.loss(output, target)
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.quantizer is not None and self.rate is not None and self.steps % RATE_EVERY == 0:
            loss = loss + self._weighed_bits(self.quantizer, self.rate, tensors, progress)
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()
        if self._prune and progress >= PRUNE_AT:
            self._keep_pruned()
        self.steps += 1
        return F.mse_loss(output.detach(), target)

    def finish(self, frames: Tensor) -> None:
        """Decide what is left to decide after the last step; the frames (T, 3, H, W) are those of the whole fit, as uint8."""
        if self._frame_encoder is not None:
            self._settle(self._frame_encoder, frames)
        if self.rate is not None and self.quantizer is None:  # a fit too short to learn steps
            self._start_quantizing()
        if self.quantizer is not None:
            self.quantizer.decide(self._tensors)

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        learned = {name: x for name, x in self._tensors.items() if name in self._learned}
        others = [] if self._frame_encoder is None else list(self._frame_encoder.parameters())
        return make_optimizers(learned, others, self.recipe)

    def _look_for_changes(self, progress: float) -> None:
        quantized = () if self.rate is None else (NOISE_FROM, ROUND_FROM, FREEZE_FROM)
        stage = sum(
            progress >= edge for edge in (*quantized, *((PRUNE_AT,) if self._prune else ()))
        )
        if stage != self._stage:
            self._stage = stage
            self.changed_at = self.steps

    def _set_learning_rates(self, progress: float, gain: float) -> None:
        if self.quantizer is not None and self._began is not None:
            wanted = STEP_TRAVEL * (progress - self._began) / max(self.steps, 1)
            steps_rate = min(max(wanted, STEP_LEARNING_RATES[0]), STEP_LEARNING_RATES[1])
            self._optimizers[0].param_groups[-1]["gain"] = steps_rate / self.recipe.learning_rate
        warmup = self.recipe.warmup
        rising = WARMUP_START + (1 - WARMUP_START) * progress / warmup
        factor = (
            rising if progress < warmup else (1 + cos(pi * (progress - warmup) / (1 - warmup))) / 2
        )
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = gain * self.recipe.learning_rate * group["gain"] * max(factor, 1e-3)

    def _weighed_bits(
        self,
        quantizer: QatQuantizer,
        rate: RateControl,
        tensors: Mapping[str, Tensor],
        progress: float,
    ) -> Tensor:
        """Return what the bits count in the loss, for all steps from one such to the next."""
        bits = quantizer.bits(tensors)
        if self._coded_bits and rate.wants_calibration(progress):
            rate.calibrate(bits.detach(), self._coded_bits(quantizer))
        return RATE_EVERY * rate.weight(bits.detach(), progress) * bits

    def _start_quantizing(self) -> None:
        self.quantizer = QatQuantizer(self._tensors, self._before).to(
            next(iter(self._tensors.values())).device
        )
        self.quantizer.requires_grad_(requires_grad=False)
        self._optimizers[0].add_param_group(
            {"params": list(self.quantizer.parameters()), "gain": 1.0}
        )

    def _go_on_quantizing(self, quantizer: QatQuantizer, progress: float) -> None:
        if progress >= ROUND_FROM and not self._scaled:
            # Later it would cost quality: a network that has adapted to its rounding is best rounded so.
            self._scaled = True
            if self.rate is not None and self._coded_bits is not None:
                self.rate.scale(quantizer.log_steps, partial(self._coded_bits, quantizer))
        if progress >= NOISE_FROM:
            quantizer.decide(self._tensors)
        if progress >= NOISE_FROM and not self._frozen:
            # Before that, nothing but the bits would move the steps: upwards, without end.
            quantizer.requires_grad_()
            # Latents that an encoder makes have had no time to learn by themselves: they follow it to the end.
            if progress >= FREEZE_FROM and self._frame_encoder is None:
                self._freeze(quantizer)

    @torch.no_grad()
    def _freeze(self, quantizer: QatQuantizer) -> None:
        """Round all but the latents for good, if there are latents."""
        self._frozen = True
        if not any(name.startswith(LATENTS) for name in self._tensors):
            return
        for name, rounded in quantizer.rounded(self._tensors).items():
            if not name.startswith(LATENTS):
                self.unrounded[name] = self._tensors[name].clone()
                self._tensors[name].copy_(rounded).requires_grad = False
        quantizer.requires_grad_(requires_grad=False)

    def _forward(self, tensors: Mapping[str, Tensor], t: Tensor, progress: float) -> Tensor:
        if self.quantizer is not None and progress >= NOISE_FROM:
            quantize = self.quantizer.noisy if progress < ROUND_FROM else self.quantizer.rounded
            tensors = quantize(tensors)
        elif self._frame_encoder is None:
            return self.network(t)
        return functional_call(self.network, dict(tensors), (t,))

    def _with_latents(self, batch: Tensor, target: Tensor) -> Mapping[str, Tensor]:
        """Return the network's tensors, with what the encoder makes of a batch of frames in place of their latents."""
        if self._frame_encoder is None:
            return self._tensors
        latents = self._frame_encoder(target)
        table = self._tensors[FRAME_LATENTS].detach()
        table[batch] = latents.detach()
        return self._tensors | {FRAME_LATENTS: table.index_copy(0, batch, latents)}

    @torch.no_grad()
    def _keep_pruned(self) -> None:
        self._masks = self._masks or pruning.masks(self._tensors, self._prune)
        for name, mask in self._masks.items():
            self._tensors[name].mul_(mask)

    @torch.no_grad()
    def _settle(self, frame_encoder: nn.Module, frames: Tensor) -> None:
        """Make all frames' latents once more, for good."""
        for batch in torch.arange(len(frames), device=frames.device).split(self.recipe.batch):
            self._tensors[FRAME_LATENTS][batch] = frame_encoder(unit(frames[batch]))
        self.frame_encoder_state = frame_encoder.state_dict()
        self._frame_encoder = None


def unit(frames: Tensor) -> Tensor:
    """Return uint8 frames as numbers in 0..1."""
    return frames.float().mul_(1 / 255)
