"""What the encoder asks of a network."""

from torch import Tensor

GIVEN_STEP = 1 / 16
"""Step of tensors that are not learned, but given and coded."""
LATENTS = "latents."
"""What the names of latents start with."""


def as_given(values: Tensor) -> Tensor:
    """Return values, rounded to the step of tensors that are given, not learned."""
    return (values / GIVEN_STEP).round() * GIVEN_STEP
