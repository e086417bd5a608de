"""Quantisation inside the training loop: a learned step for each tensor, and the bits that a Laplace model needs."""

from collections.abc import Mapping
from math import log

import torch
from torch import Tensor, nn

INITIAL_STEP = 0.15
"""Step at the start, in standard deviations of the tensor."""
HALF = 0.5
"""How far a bin reaches to each side of its value, in steps."""
MIN_SCALE = 0.05
"""Smallest scale of the Laplace model, in steps: below it a tensor costs nothing anyway."""


class Quantizer(nn.Module):
    """Steps for the tensors of a network, learned together with it."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        # A tensor of equal values has no deviation; its magnitude sets the step then.
        spread = [max(x.std(correction=0).item(), x.abs().mean().item(), 1e-6) for x in tensors.values()]
        self.log_steps = nn.Parameter(torch.tensor([log(INITIAL_STEP * value) for value in spread]))

    def steps(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the step of each tensor."""
        return dict(zip(tensors, self.log_steps.exp(), strict=True))

    def noisy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with uniform noise of one step in place of rounding."""
        return {
            name: tensors[name] + step * (torch.rand_like(tensors[name]) - 0.5) for name, step in self.steps(tensors).items()
        }

    def rounded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the dequantised tensors; gradients pass the rounding unchanged."""
        return {name: _round(tensors[name] / step) * step for name, step in self.steps(tensors).items()}

    def bits(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the expected code length of all tensors, in bits."""
        return torch.stack([_laplace_bits(tensors[name] / step) for name, step in self.steps(tensors).items()]).sum()


def _round(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def _laplace_bits(y: Tensor) -> Tensor:
    """Return the bits of values (in steps) under a Laplace model binned at integers.

    The scale is the maximum likelihood one, mean |y|, at which the derivative of the code length by the scale vanishes:
    so it is taken as a constant.
    """
    size = y.abs()
    scale = size.mean().detach().clamp(min=MIN_SCALE)
    inside = 1 - (-(size + HALF) / scale).exp() / 2 - ((size - HALF).clamp(max=0) / scale).exp() / 2
    # Far outside, the logarithm is taken of the formula, not of its vanishing value.
    outside = (size - HALF) / scale - torch.log(-torch.expm1(-1 / scale) / 2)
    return torch.where(size < HALF, -inside.clamp(min=1e-9).log(), outside).sum() / log(2)
