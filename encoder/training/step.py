"""Training steps of a network: without quantization, then through noise, then through rounding."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from encoder.config import PrecisionName
from encoder.models.base import VideoNetwork
from encoder.training import pruning
from encoder.training.device import convolutions, network_arithmetic, unit
from encoder.training.losses import compared, error_of
from encoder.training.optimizers import forget_gradients, make_optimizers
from encoder.training.qat import QatQuantizer
from encoder.training.rate_control import RateControl
from encoder.training.recipe import Recipe
from encoder.training.state import FitState, Stateful
from encoder.training.step_search import LEAST_STEPS, Cost, search_steps


class TrainStep(Stateful):
    """A network in training, with its quantizer once it has one."""

    STATE = ("unrounded", "steps", "changed_at", "_stage", "_began", "_masks", "_frozen", "_passed")

    def __init__(
        self,
        network: VideoNetwork,
        recipe: Recipe,
        *,
        before: Mapping[str, Tensor] | None = None,
        frame_encoder: nn.Module | None = None,
        rate: RateControl | None = None,
        coded_bits: Callable[[QatQuantizer], float] | None = None,
        prune: float = 0.0,
        precision: PrecisionName = "auto",
    ) -> None:
        """Take a network and its recipe.

        `before` holds the tensors of the previous segment, if differences from them may be coded.
        `frame_encoder` makes the first latent of frames, if it is not learned by itself.
        `coded_bits` returns the coder's size, by which `rate` is calibrated.
        `prune` is the share of the weights to set to zero. `precision` is the network's alone.
        """
        self.network = network
        self.precision: PrecisionName = precision
        self.recipe = replace(recipe, latent_rate=recipe.latent_rate * network.latent_pace)
        self.rate = rate
        self._coded_bits = coded_bits
        self._prune = prune
        self._before = before
        self._frame_encoder = frame_encoder
        self.quantizer: QatQuantizer | None = None
        self.unrounded: dict[str, Tensor] = {}
        """Tensors that are rounded for good, before their rounding."""
        self.steps = 0
        """Number of steps taken."""
        self.changed_at = 0
        """Number of the step at which a phase began last: the quality may fall there."""
        self._stage = 0
        """Number of phases that have begun so far."""
        self._began: float | None = None
        """Progress of the fit at the first step."""
        self.frame_encoder_state: FitState | None = None
        """State of the frame encoder, once the fit has ended."""
        self._tensors = dict(network.named_parameters())
        self._learned = [name for name, x in self._tensors.items() if x.requires_grad]
        self._latents = network.names_of(network.latent_parameters())
        self._frame_latent = next(iter(network.names_of(network.latent_parameters()[:1])), "")
        self._optimizers = self._make_optimizers()
        self._masks: dict[str, Tensor] = {}
        self._frozen = False
        self._passed = 0  # changes of quantization so far: noise, then rounding

    def state_dict(self) -> FitState:
        """Return a copy of the state, including all parts."""
        return copy.deepcopy(
            {name: part and part.state_dict() for name, part in self._parts.items()}
            | {"optimizers": [optimizer.state_dict() for optimizer in self._optimizers]}
            | {"rate": self.rate and self.rate.state_dict()}
            | super().state_dict()
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of another training of the same network and recipe."""
        state = copy.deepcopy(dict(state))
        if (state["quantizer"] is None) != (self.quantizer is None):
            self.quantizer = None
            self._optimizers = self._make_optimizers()
            if state["quantizer"] is not None:
                self._start_quantizing()
        for name, part in self._parts.items():
            if part is not None:
                part.load_state_dict(state[name])
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        if self.rate is not None:
            self.rate.load_state_dict(state["rate"])
        super().load_state_dict(state)
        # A state that was read from a file is not on the device.
        for tensors in (self.unrounded, self._masks):
            tensors.update({name: x.to(self._tensors[name].device) for name, x in tensors.items()})
        for name in self._learned:
            self._tensors[name].requires_grad = name not in self.unrounded

    @property
    def _parts(self) -> Mapping[str, nn.Module | None]:
        return {
            "network": self.network,
            "quantizer": self.quantizer,
            "encoder": self._frame_encoder,
        }

    def step(
        self, batch: Tensor, target: Tensor, mask: Tensor | None, progress: float, *, gain: float
    ) -> Tensor:
        """Take one step on the target frames (B, 3, H, W); return their MSE.

        `batch` (B,) holds the numbers of the frames. The mask (B, H, W) is True for pixels that do
        not count. `gain` is a factor of the learning rates.
        """
        schedule = self.recipe.schedule
        self._began = progress if self._began is None else self._began
        self._look_for_changes(progress)
        if self.rate is not None and self.quantizer is None and progress >= schedule.rate_from:
            self._start_quantizing()
        self._set_learning_rates(progress, gain)
        if self.quantizer is not None and self._go_on_quantizing(self.quantizer, progress):
            self._search_steps(self.quantizer, batch, target, mask)
        with convolutions(self.precision):
            error = self._update(batch, target, mask, progress)
        self.steps += 1
        return error

    def _update(
        self, batch: Tensor, target: Tensor, mask: Tensor | None, progress: float
    ) -> Tensor:
        """Compute the loss and change the weights. Within a phase, `progress` steers alone."""
        tensors = self._with_latents(batch, target)
        with network_arithmetic(self.precision, target.device):
            output = self._forward(tensors, batch.float(), progress)
        output, target = compared(output, target, mask)
        loss = distortion = self.recipe.loss(output, target)
        forget_gradients(self._optimizers)
        is_rated = self.steps % self.recipe.schedule.rate_every == 0
        if self.quantizer is not None and self.rate is not None and is_rated:
            loss = loss + self._weighed_bits(self.quantizer, self.rate, tensors, progress)
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()
        if self._prune and progress >= self.recipe.schedule.prune_at:
            self._masks = self._masks or pruning.masks(self._tensors, self._prune, self._latents)
            pruning.apply(self._tensors, self._masks)
        return error_of(self.recipe.loss, distortion, output, target)

    def _search_steps(
        self, quantizer: QatQuantizer, batch: Tensor, target: Tensor, mask: Tensor | None
    ) -> None:
        """Set the steps to those whose distortion and bits cost the least on a batch."""
        # Frame encoders go on, and weights alone would be lost.
        if self._frame_encoder or not self._latents or self.rate is None:
            return
        if self.rate.fixes_steps(is_last=self._passed > 1):
            return

        def distortion(tensors: Mapping[str, Tensor]) -> Tensor:
            with convolutions(self.precision), network_arithmetic(self.precision, target.device):
                output = functional_call(self.network, dict(tensors), (batch.float(),))
            return self.recipe.loss(*compared(output, target, mask))

        cost = Cost(distortion, self.rate.bit_weight)
        search_steps(quantizer, self._tensors, self._latents, cost, is_last=self._passed > 1)

    def finish(self, frames: Tensor) -> None:
        """End the fit to uint8 frames (T, 3, H, W): fix the latents, and choose the differences."""
        if self._frame_encoder is not None:
            self._settle(self._frame_encoder, frames)
        if self.rate is not None and self.quantizer is None:  # a fit too short to learn steps
            self._start_quantizing()
        if self.quantizer is not None:
            self.quantizer.decide(self._tensors)

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        learned = {name: x for name, x in self._tensors.items() if name in self._learned}
        others = [] if self._frame_encoder is None else list(self._frame_encoder.parameters())
        return make_optimizers(
            learned, others, self.recipe, latents=self._latents, precision=self.precision
        )

    def _look_for_changes(self, progress: float) -> None:
        prunes, quantizes = self._prune > 0, self.rate is not None
        stage = self.recipe.schedule.stage(progress, prunes=prunes, quantizes=quantizes)
        if stage != self._stage:
            self._stage = stage
            self.changed_at = self.steps
            if self.rate is not None:
                self.rate.expect(self.recipe.full_steps, self.steps, progress - (self._began or 0))

    def _set_learning_rates(self, progress: float, gain: float) -> None:
        if self.quantizer is not None and self._began is not None:
            settings = self.recipe.quantization
            least, most = settings.step_learning_rates
            wanted = settings.step_travel * (progress - self._began) / max(self.steps, 1)
            steps_rate = min(max(wanted, least), most)
            self._optimizers[0].param_groups[-1]["gain"] = steps_rate / self.recipe.learning_rate
        factor = self.recipe.schedule.learning_rate_factor(progress)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = gain * self.recipe.learning_rate * group["gain"] * factor

    def _weighed_bits(
        self,
        quantizer: QatQuantizer,
        rate: RateControl,
        tensors: Mapping[str, Tensor],
        progress: float,
    ) -> Tensor:
        """Return the rate term of the loss, for all steps until the next evaluation."""
        bits = quantizer.bits(tensors)
        if self._coded_bits and rate.wants_calibration(progress):
            rate.calibrate(bits.detach(), self._coded_bits(quantizer))
        return self.recipe.schedule.rate_every * rate.weight(bits.detach(), progress) * bits

    def _start_quantizing(self) -> None:
        quantizer = QatQuantizer(
            self._tensors,
            self._before,
            latents=self._latents,
            settings=self.recipe.quantization,
        )
        self.quantizer = quantizer.to(next(iter(self._tensors.values())).device)
        self.quantizer.requires_grad_(requires_grad=False)
        self._optimizers[0].add_param_group(
            {"params": list(self.quantizer.parameters()), "gain": 1.0}
        )

    def _go_on_quantizing(self, quantizer: QatQuantizer, progress: float) -> bool:
        """Follow the schedule; return whether to search for steps now."""
        schedule = self.recipe.schedule
        passed = sum(progress >= edge for edge in (schedule.noise_from, schedule.round_from))
        has_begun, self._passed = passed > self._passed, passed
        if has_begun and progress >= schedule.round_from and self.rate and self._coded_bits:
            # Scaling later would cost quality: the network has adapted to its rounding by then.
            self.rate.scale(quantizer.log_steps, partial(self._coded_bits, quantizer))
        if progress >= schedule.noise_from:
            quantizer.decide(self._tensors)
            if progress < schedule.round_from:
                quantizer.draw_noise()
        if progress >= schedule.noise_from and not self._frozen:
            # Before the noise, the rate alone would move the steps: upwards, without end.
            quantizer.requires_grad_()
            # Latents of a frame encoder follow it to the end.
            if progress >= schedule.freeze_from and self._frame_encoder is None:
                self._freeze(quantizer)
        return has_begun and self.steps >= LEAST_STEPS

    @torch.no_grad()
    def _freeze(self, quantizer: QatQuantizer) -> None:
        """Round all but the latents for good, if there are latents."""
        self._frozen = True
        if not self._latents:
            return
        for name, rounded in quantizer.rounded(self._tensors).items():
            if name not in self._latents:
                self.unrounded[name] = self._tensors[name].clone()
                self._tensors[name].copy_(rounded).requires_grad = False
        quantizer.requires_grad_(requires_grad=False)

    def _forward(self, tensors: Mapping[str, Tensor], t: Tensor, progress: float) -> Tensor:
        schedule = self.recipe.schedule
        if self.quantizer is not None and progress >= schedule.noise_from:
            is_noisy = progress < schedule.round_from
            quantize = self.quantizer.noisy if is_noisy else self.quantizer.rounded
            tensors = quantize(tensors)
        elif self._frame_encoder is None:
            return self.network(t)
        return functional_call(self.network, dict(tensors), (t,))

    def _with_latents(self, batch: Tensor, target: Tensor) -> Mapping[str, Tensor]:
        """Return the network's tensors, with the frame encoder's latents of a batch of frames."""
        if self._frame_encoder is None:
            return self._tensors
        latents = self._frame_encoder(target)
        table = self._tensors[self._frame_latent].detach()
        table[batch] = latents.detach()
        return self._tensors | {self._frame_latent: table.index_copy(0, batch, latents)}

    @torch.no_grad()
    def _settle(self, frame_encoder: nn.Module, frames: Tensor) -> None:
        """Compute the final latents of all frames (T, 3, H, W), and drop the frame encoder."""
        for batch in torch.arange(len(frames), device=frames.device).split(self.recipe.batch):
            self._tensors[self._frame_latent][batch] = frame_encoder(unit(frames[batch]))
        self.frame_encoder_state = frame_encoder.state_dict()
        self._frame_encoder = None
