"""Quantization in the training loop (QAT): learned steps, and the bits under the coder's models.

Rate-distortion training of weights goes back to Oktay et al. (Scalable Model Compression by Entropy
Penalized Reparameterization, 2020). Training first through noise and last through rounding follows
NVRC (arXiv 2409.07414, section 3.3).
"""

from collections.abc import Collection, Mapping
from math import log, prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.profiler import record_function

from encoder.codec.context import may_have_contexts
from encoder.codec.entropy import LEVELS_PER_OCTAVE
from encoder.kernels.compiled import are_for
from encoder.kernels.training import context_bits
from encoder.training.context_rate import START, context_scales
from encoder.training.recipe import Quantization

DEFAULT = Quantization()
INITIAL_STEP = 0.15
"""Step at the start, in standard deviations of the tensor."""
HALF_OCTAVE = log(2) / 2
"""Distance between the logarithms of two neighbouring steps."""
HALF = 0.5
"""Half of a bin's width, in steps."""
RATE_TERM = "rate term"
"""Name of the bits' computation in profiles."""
FEW_VALUES = 4096
"""Largest tensor whose bits are computed together with those of others, in fewer operators."""
MIN_SCALE = 0.05
"""Smallest scale of the Laplace model, in steps; below it a tensor costs almost no bits."""


class QatQuantizer(nn.Module):
    """Quantization steps of a network's tensors and channels, learned together with the network.

    The channels are the first axis of a weight, and the second axis of a latent (T, C, h, w). A
    channel's step differs from the tensor's by a whole number of half octaves.
    The weights of the latents' contexts are learned as well, for the estimate of the bits alone.
    """

    noise: Tensor
    _tensor: Tensor

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        before: Mapping[str, Tensor] | None = None,
        *,
        latents: Collection[str] = (),
        settings: Quantization = DEFAULT,
    ) -> None:
        """Take a network's parameters and the names of its latents.

        `before` holds the tensors of the previous segment, if differences from them may be coded.
        """
        super().__init__()
        self._latents = frozenset(latents)
        self._settings = settings
        self._before = before or {}
        self.differences: frozenset[str] | None = None if before else frozenset()
        """Names of the tensors that are coded as differences; None until `decide` is called."""
        learned = {name: x.detach() for name, x in tensors.items() if x.requires_grad}
        # The standard deviation of equal values is 0; their magnitude sets the step then.
        spread = [
            max(x.std(correction=0).item(), x.abs().mean().item(), 1e-6) for x in learned.values()
        ]
        self._shapes = {name: self._channel_shape(name, x) for name, x in learned.items()}
        self._counts = [prod(shape) for shape in self._shapes.values()]
        self.log_steps = nn.Parameter(torch.tensor([log(INITIAL_STEP * value) for value in spread]))
        self.offsets = nn.Parameter(torch.zeros(sum(self._counts)))
        self.register_buffer(
            "_tensor",
            torch.arange(len(learned)).repeat_interleave(torch.tensor(self._counts)),
            persistent=False,
        )
        self._contexts = [
            name
            for name, x in learned.items()
            if settings.has_contexts and name in self._latents and may_have_contexts(tuple(x.shape))
        ]
        self.context_weights = nn.Parameter(torch.tensor(START).repeat(len(self._contexts), 1))
        # Drawing noise takes longer than using it: `draw_noise` takes a slice of this buffer.
        size = sum(x.numel() for x in learned.values())
        # The seed is fixed, so that a resumed fit has the same noise.
        noise = (
            torch.rand(4 * size, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
            - HALF
        )
        self.register_buffer("noise", noise, persistent=False)
        self._size = size
        self.drawn: Tensor | None = None
        """Noise that `draw_noise` drew last, for all tensors one after the other."""

    def get_extra_state(self) -> list[str] | None:
        """Return the names of the tensors that are coded as differences, for `state_dict`."""
        return None if self.differences is None else sorted(self.differences)

    def set_extra_state(self, state: list[str] | None) -> None:
        """Set the names of the tensors that are coded as differences, for `load_state_dict`."""
        self.differences = None if state is None else frozenset(state)

    def steps(self) -> dict[str, Tensor]:
        """Return the steps of each learned tensor by name, broadcastable to its shape."""
        # STE: the offsets have the gradient of the steps' logarithms.
        offsets = (
            self.offsets
            + (HALF_OCTAVE * (self.offsets / HALF_OCTAVE).round() - self.offsets).detach()
        )
        exact = self.log_steps.exp()
        # STE here, too. Steps of few bits make the tensors' records shorter.
        short = exact + (exact.bfloat16().float() - exact).detach()
        steps = short.index_select(0, self._tensor) * offsets.exp()
        return {
            name: part.view(shape)
            for (name, shape), part in zip(
                self._shapes.items(), steps.split(self._counts), strict=True
            )
        }

    @property
    def names(self) -> list[str]:
        """Names of the learned tensors, in the order of their steps."""
        return list(self._shapes)

    def learned(self, name: str) -> tuple[float, NDArray[np.int32]] | None:
        """Return a tensor's step, and its channels' offsets from it in half octaves.

        Returns None if the tensor is given, not learned.
        """
        if name not in self._shapes:
            return None
        index = self.names.index(name)
        offsets = (self.offsets.detach().split(self._counts)[index] / HALF_OCTAVE).round().int()
        return self.log_steps[index].exp().bfloat16().item(), offsets.cpu().numpy()

    def draw_noise(self) -> None:
        """Draw other noise for `noisy`."""
        place = int(torch.randint(len(self.noise) - self._size, ()))
        self.drawn = self.noise[place : place + self._size]

    def noisy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with uniform noise of one step in place of rounding."""
        steps = self.steps()
        drawn = self.noise[: self._size] if self.drawn is None else self.drawn
        noise = drawn.split([tensors[name].numel() for name in steps])
        return dict(tensors) | {
            name: torch.addcmul(tensors[name], step, part.view(tensors[name].shape))
            for (name, step), part in zip(steps.items(), noise, strict=True)
        }

    def rounded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the dequantized tensors; gradients pass the rounding unchanged (STE)."""
        rounded = dict(tensors)
        for name, step in self.steps().items():
            change = _round(self._change(name, tensors[name]) / step) * step
            rounded[name] = (
                self._before[name] + change if name in (self.differences or ()) else change
            )
        return rounded

    @record_function(RATE_TERM)
    def bits(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the expected code length of all learned tensors, in bits.

        Until `decide` is called, each tensor counts with the shorter of its two codes: alone, or as
        a difference.
        """
        lengths: list[Tensor] = []
        small: list[Tensor] = []
        for name, step in self.steps().items():
            if self.differences is None:
                lengths.append(torch.minimum(*self._both(name, tensors[name], step)))
                continue
            y = self._change(name, tensors[name]) / step
            if name not in self._latents and y.numel() <= FEW_VALUES:
                small.append(y.flatten())
            else:
                lengths.append(self._bits(name, y))
        if small:
            scales = [y.detach().abs().mean().expand_as(y) for y in small]
            lengths.append(_laplace_bits(torch.cat(small), torch.cat(scales)))
        return torch.stack(lengths).sum()

    @torch.no_grad()
    def decide(self, tensors: Mapping[str, Tensor]) -> None:
        """Decide, once, which tensors are coded as differences: those with a shorter code then."""
        if self.differences is None:
            lengths = {
                name: self._both(name, tensors[name], step) for name, step in self.steps().items()
            }
            self.differences = frozenset(
                name for name, (alone, change) in lengths.items() if change < alone
            )

    def _both(self, name: str, tensor: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bits of a tensor that is coded alone, and as a difference."""
        change = tensor - self._before[name]
        return self._bits(name, tensor / step), self._bits(name, change / step)

    def _change(self, name: str, tensor: Tensor) -> Tensor:
        """Return the coded part of a tensor: its difference from `before`, or all of it."""
        return tensor - self._before[name] if name in (self.differences or ()) else tensor

    def channel_axis(self, name: str) -> int:
        """Return the axis of a tensor's channels."""
        return 1 if name in self._latents else 0

    def _channel_shape(self, name: str, tensor: Tensor) -> list[int]:
        """Return the shape of a tensor's steps; a vector, such as a bias, has one step."""
        axis = self.channel_axis(name)
        has_steps = self._settings.has_channel_steps and tensor.ndim > 1
        return [
            length if each == axis and has_steps else 1 for each, length in enumerate(tensor.shape)
        ]

    def _bits(self, name: str, y: Tensor) -> Tensor:
        """Return the bits of a tensor's values (in steps), under the coder's models."""
        if name not in self._latents:
            return _laplace_bits(y, y.detach().abs().mean())
        if self._settings.predicts and len(y) > 1:
            change = torch.cat([y[:1], y[1:] - y[:-1]])
            # A comparison on the device, so that nothing waits for it.
            y = torch.where(change.detach().abs().sum() < y.detach().abs().sum(), change, y)
        if name in self._contexts:
            weights = self.context_weights[self._contexts.index(name)]
            if are_for(y):
                return context_bits(y, weights, levels=LEVELS_PER_OCTAVE)
            return _laplace_bits(y, context_scales(y, weights))
        return _laplace_bits(y, y.detach().abs().mean(self._settings.plane_axes, keepdim=True))


def _round(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def _laplace_bits(y: Tensor, scale: Tensor) -> Tensor:
    """Return the bits of values (in steps) under Laplace models binned at integers.

    Without contexts, the scale is the maximum likelihood estimate, mean |y|. The derivative of the
    code length by the scale vanishes there, so the scale is treated as a constant.
    """
    size = y.abs()
    scale = scale.clamp(min=MIN_SCALE)
    inside = 1 - (-(size + HALF) / scale).exp() / 2 - ((size - HALF).clamp(max=0) / scale).exp() / 2
    # Outside the middle bin, the probability may underflow; its logarithm is written out.
    outside = (size - HALF) / scale - torch.log(-torch.expm1(-1 / scale) / 2)
    return torch.where(size < HALF, -inside.clamp(min=1e-9).log(), outside).sum() / log(2)
