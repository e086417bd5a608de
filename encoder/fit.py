"""Fit a network to the frames of a segment: a generator over epochs, which its caller prints and may stop."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, isfinite, log10, pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from encoder.codec.errors import SettingsError
from encoder.presets import Recipe
from encoder.quantizer import Quantizer

QUANTIZE_FROM = 0.5
"""Share of the fit after which the network trains through quantisation noise, ..."""
ROUND_FROM = 0.8
"""... and after which it trains through rounding."""
RATE_EVERY = 4
"""Steps from one evaluation of the rate to the next, to save time."""
STEP_LEARNING_RATE = 1.0
"""Learning rate of the logarithms of the steps, as a multiple of that of the weights."""


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
        self, network: nn.Module, recipe: Recipe, limit: Limit, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.network, self.recipe, self.limit, self._clock = network, recipe, limit, clock
        self.quantizer: Quantizer | None = None
        self._optimizer = torch.optim.Adam(self._groups(), betas=(0.9, recipe.beta2), fused=True)
        self._steps = 0

    def epochs(self, frames: Tensor) -> Iterator[Epoch]:
        """Fit to uint8 frames (T, 3, H, W), yielding after each pass over them.

        Raises SettingsError if the loss stops being finite.
        """
        start, index, progress = self._clock(), 0, 0.0
        self.network.train()
        while progress < 1:
            error, seen = torch.zeros((), device=frames.device), 0
            batches = torch.randperm(len(frames)).split(self.recipe.batch)
            for number, batch in enumerate(batches):
                progress = self._progress(start, index + number / len(batches))
                if progress >= 1:
                    break
                error += self._step(frames, batch.to(frames.device), progress)
                seen += 1
            if seen:
                mean = error.item() / seen  # the epoch's one synchronisation
                if not isfinite(mean):
                    raise SettingsError("the loss is no longer finite; fit again with another --seed")
                progress = self._progress(start, index + 1)
                yield Epoch(index=index, progress=min(progress, 1.0), psnr_db=-10 * log10(max(mean, 1e-10)))
            index += 1
        self.network.eval()

    def _progress(self, start: float, epochs: float) -> float:
        if self.limit.epochs is not None:
            return epochs / self.limit.epochs
        assert self.limit.seconds is not None  # one of the two is given
        return (self._clock() - start) / self.limit.seconds

    def _groups(self) -> list[dict[str, object]]:
        latents = [p for name, p in self.network.named_parameters() if name.startswith("latents.")]
        weights = [p for name, p in self.network.named_parameters() if not name.startswith("latents.")]
        groups: list[dict[str, object]] = [{"params": weights, "gain": 1.0}]
        if latents:
            groups.append({"params": latents, "gain": self.recipe.latent_rate})
        return groups

    def _step(self, frames: Tensor, batch: Tensor, progress: float) -> Tensor:
        """Take one step on the frames with the given indices; return their mean squared error."""
        self._set_learning_rate(progress)
        if self.recipe.rate and self.quantizer is None and progress >= QUANTIZE_FROM:
            self._start_quantizing()
        target = frames[batch].float().mul_(1 / 255)
        output = self._forward(batch.float(), progress)[..., : target.shape[2], : target.shape[3]]
        loss = self.recipe.loss(output, target)
        self._optimizer.zero_grad(set_to_none=True)
        if self.quantizer is not None and self._steps % RATE_EVERY == 0:
            bits_per_pixel = self.quantizer.bits(dict(self.network.named_parameters())) / frames[:, 0].numel()
            loss = loss + RATE_EVERY * self.recipe.rate * bits_per_pixel
        loss.backward()
        self._optimizer.step()
        self._steps += 1
        return F.mse_loss(output.detach(), target)

    def _set_learning_rate(self, progress: float) -> None:
        warmup = self.recipe.warmup
        factor = progress / warmup if progress < warmup else (1 + cos(pi * (progress - warmup) / (1 - warmup))) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * group["gain"] * max(factor, 1e-3)

    def _start_quantizing(self) -> None:
        self.quantizer = Quantizer(dict(self.network.named_parameters())).to(next(self.network.parameters()).device)
        self._optimizer.add_param_group({"params": list(self.quantizer.parameters()), "gain": STEP_LEARNING_RATE})

    def _forward(self, t: Tensor, progress: float) -> Tensor:
        if self.quantizer is None:
            return self.network(t)
        tensors = dict(self.network.named_parameters())
        quantize = self.quantizer.noisy if progress < ROUND_FROM else self.quantizer.rounded
        return functional_call(self.network, quantize(tensors), (t,))
