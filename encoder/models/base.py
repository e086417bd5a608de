"""Conventions between the encoder and a network: names of latents, and given tensors.

A *given* tensor is not learned, but computed from the video and coded with the weights.
"""

from torch import Tensor

GIVEN_STEP = 1 / 16
"""Quantization step of given tensors."""
LATENTS = "latents."
"""Prefix of the names of latents."""


def as_given(values: Tensor) -> Tensor:
    """Return values rounded to the quantization step of given tensors."""
    return (values / GIVEN_STEP).round() * GIVEN_STEP
