"""Search for the quantization steps that cost the least distortion and bits on a few frames.

A short fit has too little time to learn its steps from the first guess on. Its files would then
have several times the bytes that its quality is worth.
"""

from collections.abc import Callable, Collection, Mapping
from math import log

import torch
from torch import Tensor

from encoder.training.qat import QatQuantizer

OCTAVES = (log(2), log(2) / 2)
"""Changes of the steps' logarithms that are tried, the coarser ones first."""
MAX_CHANGE = 6 * log(2)
"""Largest change of the steps of a group."""


def search_steps(
    quantizer: QatQuantizer,
    tensors: Mapping[str, Tensor],
    latents: Collection[str],
    distortion: Callable[[Mapping[str, Tensor]], Tensor],
    bit_weight: float,
) -> None:
    """Scale the steps of the latents, then those of all other tensors, while that lowers the cost.

    The cost is the distortion of a network with rounded tensors, plus their bits times the weight
    of a bit.
    """

    def cost() -> float:
        bits = quantizer.bits(tensors)
        return (distortion(quantizer.rounded(tensors)) + bit_weight * bits).item()

    are_latents = torch.tensor([name in latents for name in quantizer.names])
    minimize(quantizer.log_steps, [are_latents, ~are_latents], cost)


@torch.no_grad()
def minimize(log_steps: Tensor, groups: list[Tensor], cost: Callable[[], float]) -> None:
    """Change the logarithms (N,) of one group after the other, as long as that lowers the cost.

    Groups are masks (N,). A cost that is not a number is no lower one.
    """
    best = cost()
    for group in groups:
        changed = 0.0
        for octaves in OCTAVES:
            for change in (octaves, -octaves):
                before = changed
                while abs(changed + change) <= MAX_CHANGE:
                    log_steps[group] += change
                    found = cost()
                    if not found < best:
                        log_steps[group] -= change
                        break
                    best = found
                    changed += change
                if changed != before:
                    break  # the other direction leads back
