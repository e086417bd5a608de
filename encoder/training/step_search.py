"""Search for the quantization steps that cost the least distortion and bits on a few frames.

A short fit has too little time to learn its steps from the first guess on. Its files would then
have several times the bytes that its quality is worth.
"""

from collections.abc import Callable, Collection, Mapping
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from encoder.training.qat import QatQuantizer

OCTAVES = (log(2), log(2) / 2)
"""Changes of the steps' logarithms that are tried, the coarser ones first."""
FIRST_CHANGE = 2.5 * log(2)
"""Largest change of the steps of a group when the noise begins.

Steps that are larger than the values would leave a network nothing but noise to learn from.
"""
LAST_CHANGE = 6 * log(2)
"""Largest change when the rounding begins."""
LEAST_STEPS = 16
"""Training steps before which a network has not learned enough to tell good steps from bad ones."""


class Cost(NamedTuple):
    """Cost of a network with rounded tensors: its distortion, plus its bits times their weight."""

    distortion: Callable[[Mapping[str, Tensor]], Tensor]
    bit_weight: float


def search_steps(
    quantizer: QatQuantizer,
    tensors: Mapping[str, Tensor],
    latents: Collection[str],
    cost: Cost,
    *,
    is_last: bool,
) -> None:
    """Scale the steps of the latents, then those of all other tensors, while that lowers the cost.

    They may change by more in the last search, after which a network only adapts to its rounding.
    """

    def present() -> float:
        bits = quantizer.bits(tensors)
        return (cost.distortion(quantizer.rounded(tensors)) + cost.bit_weight * bits).item()

    are_latents = torch.tensor([name in latents for name in quantizer.names])
    most = LAST_CHANGE if is_last else FIRST_CHANGE
    minimize(quantizer.log_steps, [are_latents, ~are_latents], present, most)


@torch.no_grad()
def minimize(
    log_steps: Tensor, groups: list[Tensor], cost: Callable[[], float], most: float
) -> None:
    """Change the logarithms (N,) of one group after the other, as long as that lowers the cost.

    Groups are masks (N,), and change by `most` in all. A cost that is not a number is no lower one.
    """
    best = cost()
    for group in groups:
        changed = 0.0
        for octaves in OCTAVES:
            for change in (octaves, -octaves):
                before = changed
                while abs(changed + change) <= most:
                    log_steps[group] += change
                    found = cost()
                    if not found < best:
                        log_steps[group] -= change
                        break
                    best = found
                    changed += change
                if changed != before:
                    break  # the other direction leads back
