"""How a network is fitted: loss, optimizer, rates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is fitted."""

    loss: Callable[[Tensor, Tensor], Tensor]
    """Distortion between frames (B, 3, H, W) in 0..1."""
    batch: int
    """Frames per step."""
    learning_rate: float
    """Learning rate after the warm-up."""
    latent_rate: float = 1.0
    """Learning rate of the parameters under the network's `latents`, as a multiple of that of the others."""
    optimizer: Literal["adam", "muon", "adan"] = "adam"
    """With muon, convolutions are optimised as matrices, and the rest by Adam."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decays of both moments."""
    warmup: float
    """Share of the fit in which the learning rate rises from a tenth to its full value; then it follows a cosine to zero."""
    rate_weight: float = 0.0
    """Weight of the bits per pixel in the loss; 0 leaves quantisation (to 8 bits) to the end."""
