"""SOAP, an optimizer of matrices that the encoder does not use."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from encoder.training.optimizers import EPSILON, Muon

FIRST_DECAY = 0.95
SECOND_DECAY = 0.95
ROTATE_EVERY = 10
"""Number of steps between two updates of the axes."""


class Soap(Muon):
    """Adam along the axes of Shampoo's preconditioner, for the same matrices as Muon.

    This is algorithm 3 of Vyas et al. (arXiv 2409.11321).
    """

    def _update(self, parameters: Sequence[nn.Parameter], learning_rate: float | Tensor) -> None:
        for parameter in parameters:
            self._turn(parameter, learning_rate)

    def _turn(self, parameter: nn.Parameter, learning_rate: float | Tensor) -> None:
        assert parameter.grad is not None  # `step` checks it
        gradient = parameter.grad.flatten(1)
        state = self.state[parameter]
        if not state:
            sides = _sides(gradient)
            # In single precision, LAPACK may fail for sides of low rank.
            axes = [torch.linalg.eigh(side.double()).eigenvectors.float() for side in sides]
            zeros = torch.zeros_like(gradient)
            state.update(steps=0, sides=sides, axes=axes, mean=zeros, square=zeros.clone())
        state["steps"] += 1
        left, right = state["axes"]
        mean = state["mean"].lerp_(gradient, 1 - FIRST_DECAY)
        turned = left.T @ gradient @ right
        square = state["square"].lerp_(turned.square(), 1 - SECOND_DECAY)
        first = left.T @ mean @ right / (1 - FIRST_DECAY ** state["steps"])
        second = square / (1 - SECOND_DECAY ** state["steps"])
        update = left @ (first / (second.sqrt() + EPSILON)) @ right.T
        parameter.sub_(update.view(parameter.shape) * learning_rate)
        for side, new in zip(state["sides"], _sides(gradient), strict=True):
            side.lerp_(new, 1 - SECOND_DECAY)
        if state["steps"] % ROTATE_EVERY == 0:
            pairs = zip(state["sides"], state["axes"], strict=True)
            state["axes"] = [torch.linalg.qr(side @ axes).Q for side, axes in pairs]


def _sides(gradient: Tensor) -> list[Tensor]:
    return [gradient @ gradient.T, gradient.T @ gradient]
