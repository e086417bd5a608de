"""Fit a network to the frames of a segment: a generator over epochs, which its caller prints and may stop."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import cos, isfinite, log, log10, pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from encoder.codec.errors import SettingsError
from encoder.optimizer import Adan, Muon
from encoder.presets import Recipe
from encoder.quantizer import LATENTS, Quantizer
from encoder.rate import RateControl

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
SCALINGS, SLOPE, MIN_SLOPE = 4, 0.7, 0.1
"""How often the steps are scaled so that a size comes out; the fall of its logarithm as theirs rises, at first and at least."""
MAX_SCALING = 0.7
"""Largest change of the steps' logarithms at once."""
WARMUP_START = 0.1
"""Learning rate at the very start, as a share of the full one."""
FRAME_LATENTS = f"{LATENTS}0.values"
"""The latents that an encoder makes of frames, one row for each."""
STEP_LEARNING_RATE = 8e-3
"""Learning rate of the logarithms of the steps, whatever that of the weights is."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """When a fit ends: after a time or a number of epochs, whichever is given."""

    seconds: float | None = None
    """Wall-clock seconds."""
    epochs: int | None = None
    """Passes over the frames; with a seed, the result is reproducible."""

    def __post_init__(self) -> None:
        """Raise SettingsError unless just one limit is given, and is positive."""
        if (self.seconds is None) == (self.epochs is None):
            raise SettingsError("give either a budget or a number of epochs")
        if self.seconds is not None and not (isfinite(self.seconds) and self.seconds > 0):
            raise SettingsError(f"the budget must be over 0 seconds, got {self.seconds:g}")
        if self.epochs is not None and self.epochs < 1:
            raise SettingsError(f"the number of epochs must be at least 1, got {self.epochs}")


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one pass over the frames came to."""

    index: int
    """Number of the epoch, from 0."""
    progress: float
    """Share of the fit that is done, 0..1."""
    psnr_db: float
    """Peak signal-to-noise ratio of the training outputs, before 8-bit rounding."""


class Fit:
    """A network in the making, with its quantiser once it has one."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        limit: Limit,
        *,
        before: Mapping[str, Tensor] | None = None,
        frame_encoder: nn.Module | None = None,
        rate: RateControl | None = None,
        coded_bits: Callable[[Quantizer], float] | None = None,
        prune: float = 0.0,
        start: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take a rate to train for, if any, and a coder to check it by; the share to prune; where in the schedule to start.

        Further the tensors of the segment before, if those of this one are coded as differences from them, and what makes the
        latents of frames, if they are not learned by themselves.
        """
        self.network, self.recipe, self.limit, self.rate, self.prune = network, recipe, limit, rate, prune
        self._coded_bits, self._start, self._clock = coded_bits, start, clock
        self.quantizer: Quantizer | None = None
        self.unrounded: dict[str, Tensor] = {}
        """The tensors that were rounded for good, as they were before."""
        self._tensors = dict(network.named_parameters())
        self._before, self._frame_encoder = before, frame_encoder
        self._optimizers = self._make_optimizers()
        self._masks: list[tuple[Tensor, Tensor]] = []
        self._frozen = False
        self._scaled = False
        self._steps = 0

    def epochs(self, frames: Tensor, mask: Tensor | None = None) -> Iterator[Epoch]:
        """Fit to uint8 frames (T, 3, H, W), yielding after each pass over them.

        Pixels that are masked (T, H, W) may become what they will. Raises SettingsError if the loss stops being finite.
        """
        self._frames, self._mask = frames, mask
        began, index, progress = self._clock(), 0, self._start
        self.network.train()
        while progress < 1:
            error, seen = torch.zeros((), device=frames.device), 0
            batches = torch.randperm(len(frames)).split(self.recipe.batch)
            for number, batch in enumerate(batches):
                progress = self._progress(began, index + number / len(batches))
                if progress >= 1:
                    break
                error += self._step(batch.to(frames.device), progress)
                seen += 1
            if seen:
                mean = error.item() / seen  # waits for the device, once an epoch
                if not isfinite(mean):
                    raise SettingsError("the loss is no longer finite; fit again with another --seed")
                progress = self._progress(began, index + 1)
                yield Epoch(index=index, progress=min(progress, 1.0), psnr_db=-10 * log10(max(mean, 1e-10)))
            index += 1
        self._settle()
        if self.rate is not None and self.quantizer is None:  # a fit too short to learn steps
            self._start_quantizing()
        self.network.eval()

    def _progress(self, began: float, epochs: float) -> float:
        if self.limit.epochs is not None:
            share = epochs / self.limit.epochs
        else:
            assert self.limit.seconds is not None  # one of the two is given
            share = (self._clock() - began) / self.limit.seconds
        return self._start + share * (1 - self._start)

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        recipe = self.recipe
        learned = {name: x for name, x in self._tensors.items() if x.requires_grad}
        latents = [x for name, x in learned.items() if name.startswith(LATENTS)]
        matrices = [x for name, x in learned.items() if recipe.optimizer == "muon" and _is_matrix(name, x)]
        taken = {id(x) for x in (*latents, *matrices)}
        others = [x for x in learned.values() if id(x) not in taken]
        if self._frame_encoder is not None:
            others += self._frame_encoder.parameters()
        groups: list[dict[str, object]] = [{"params": others, "gain": 1.0}]
        if latents:
            groups.append({"params": latents, "gain": recipe.latent_rate})
        if recipe.optimizer == "adan":
            return [Adan(groups, lr=recipe.learning_rate)]
        adam = torch.optim.Adam(groups, betas=recipe.betas, fused=True)
        if not matrices:
            return [adam]
        muon = Muon(matrices, lr=recipe.learning_rate)
        muon.param_groups[0]["gain"] = 1.0
        return [adam, muon]

    def _step(self, batch: Tensor, progress: float) -> Tensor:
        """Take one step on the frames with the given indices; return their mean squared error."""
        self._set_learning_rate(progress)
        if self.rate is not None and self.quantizer is None and progress >= RATE_FROM:
            self._start_quantizing()
        if self.quantizer is not None:
            self._go_on_quantizing(self.quantizer, progress)
        target = self._target(batch)
        tensors = self._with_latents(batch, target)
        output = self._forward(tensors, batch.float(), progress)[..., : target.shape[2], : target.shape[3]]
        if self._mask is not None:
            output, target = (x.masked_fill(self._mask[batch][:, None], HIDDEN) for x in (output, target))
        loss = self.recipe.loss(output, target)
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.quantizer is not None and self.rate is not None and self._steps % RATE_EVERY == 0:
            bits = self.quantizer.bits(tensors)
            if self._coded_bits and self.rate.wants_calibration(progress):
                self.rate.calibrate(bits.detach(), self._coded_bits(self.quantizer))
            loss = loss + RATE_EVERY * self.rate.weight(bits.detach(), progress) * bits
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()
        if self.prune and progress >= PRUNE_AT:
            self._keep_pruned()
        self._steps += 1
        return F.mse_loss(output.detach(), target)

    def _set_learning_rate(self, progress: float) -> None:
        warmup = self.recipe.warmup
        rising = WARMUP_START + (1 - WARMUP_START) * progress / warmup
        factor = rising if progress < warmup else (1 + cos(pi * (progress - warmup) / (1 - warmup))) / 2
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.learning_rate * group["gain"] * max(factor, 1e-3)

    def _start_quantizing(self) -> None:
        self.quantizer = Quantizer(self._tensors, self._before).to(next(iter(self._tensors.values())).device)
        self.quantizer.requires_grad_(requires_grad=False)
        gain = STEP_LEARNING_RATE / self.recipe.learning_rate
        self._optimizers[0].add_param_group({"params": list(self.quantizer.parameters()), "gain": gain})

    def _go_on_quantizing(self, quantizer: Quantizer, progress: float) -> None:
        if progress >= ROUND_FROM and not self._scaled:
            self._scale(quantizer)
        if progress >= NOISE_FROM and not self._frozen:
            # Before that, nothing but the bits would move the steps: upwards, without end.
            quantizer.requires_grad_()
            # Latents that an encoder makes have had no time to learn by themselves: they follow it to the end.
            if progress >= FREEZE_FROM and self._frame_encoder is None:
                self._freeze(quantizer)

    @torch.no_grad()
    def _scale(self, quantizer: Quantizer) -> None:
        """Scale the steps so that the size that is wanted comes out, which steering alone misses by a little.

        Later it would cost quality: a network that has adapted to its rounding is best rounded so.
        """
        self._scaled = True
        if self.rate is None or self.rate.target_bits is None or self._coded_bits is None:
            return
        slope, missing = SLOPE, log(self._coded_bits(quantizer) / self.rate.target_bits)
        for _ in range(SCALINGS):
            change = min(max(missing / slope, -MAX_SCALING), MAX_SCALING)
            quantizer.log_steps.add_(change)
            before, missing = missing, log(self._coded_bits(quantizer) / self.rate.target_bits)
            slope = max((before - missing) / change if change else SLOPE, MIN_SLOPE)

    @torch.no_grad()
    def _freeze(self, quantizer: Quantizer) -> None:
        """Round all but the latents for good, if there are latents."""
        self._frozen = True
        if not any(name.startswith(LATENTS) for name in self._tensors):
            return
        for name, rounded in quantizer.rounded(self._tensors).items():
            if not name.startswith(LATENTS):
                self.unrounded[name] = self._tensors[name].clone()
                self._tensors[name].copy_(rounded).requires_grad = False
        quantizer.requires_grad_(requires_grad=False)

    @torch.no_grad()
    def _keep_pruned(self) -> None:
        """Set the smallest weights of all layers together to zero: global unstructured pruning, as in NeRV's section 3.4.

        Latents are left alone, as HNeRV leaves its embeddings: pruning them with the rest costs far more than it saves.
        """
        if not self._masks:
            layers = [x for name, x in self._tensors.items() if x.requires_grad and not name.startswith(LATENTS)]
            weights = [x for x in layers if x.ndim > 1]
            sizes = torch.cat([x.abs().flatten() for x in weights])
            threshold = sizes.kthvalue(max(round(self.prune * len(sizes)), 1)).values
            self._masks = [(x, x.abs() > threshold) for x in weights]
        for weight, mask in self._masks:
            weight.mul_(mask)

    def _forward(self, tensors: Mapping[str, Tensor], t: Tensor, progress: float) -> Tensor:
        if self.quantizer is not None and progress >= NOISE_FROM:
            quantize = self.quantizer.noisy if progress < ROUND_FROM else self.quantizer.rounded
            tensors = quantize(tensors)
        elif self._frame_encoder is None:
            return self.network(t)
        return functional_call(self.network, dict(tensors), (t,))

    def _target(self, batch: Tensor) -> Tensor:
        return self._frames[batch].float().mul_(1 / 255)

    def _with_latents(self, batch: Tensor, target: Tensor) -> Mapping[str, Tensor]:
        """Return the network's tensors, with what the encoder makes of a batch of frames in place of their latents."""
        if self._frame_encoder is None:
            return self._tensors
        latents = self._frame_encoder(target)
        table = self._tensors[FRAME_LATENTS].detach()
        table[batch] = latents.detach()
        return self._tensors | {FRAME_LATENTS: table.index_copy(0, batch, latents)}

    @torch.no_grad()
    def _settle(self) -> None:
        """Make all frames' latents once more, for good."""
        if self._frame_encoder is None:
            return
        for batch in torch.arange(len(self._frames), device=self._frames.device).split(self.recipe.batch):
            self._tensors[FRAME_LATENTS][batch] = self._frame_encoder(self._target(batch))
        self._frame_encoder = None


def _is_matrix(name: str, tensor: Tensor) -> bool:
    """Whether a tensor holds a convolution between all channels, which a matrix's optimiser suits."""
    return tensor.ndim == 4 and tensor.shape[1] > 1 and not name.startswith(LATENTS)  # noqa: PLR2004 (out, in, h, w)
