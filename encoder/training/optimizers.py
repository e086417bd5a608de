"""Optimizers that torch does not have.

Muon makes the momentum of a matrix orthogonal, so that all directions of a convolution learn at the
same pace (K. Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024). Its step is
scaled so that learning rates of Adam fit (Liu et al., "Muon is scalable for LLM training",
arXiv 2502.16982, section 2.2).

Adan is an Adam whose step also follows the change of the gradient (Xie et al., arXiv 2208.06677,
algorithm 1).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from encoder.config import PrecisionName
from encoder.kernels import training
from encoder.kernels.compiled import are_for
from encoder.training.recipe import Recipe

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the polynomial that drives all singular values towards 1."""
SMALL_SIDE = training.LARGEST_SIDE
"""Largest side of matrices that are made orthogonal together: zeros around them change nothing."""
RMS = 0.2
"""Root mean square of a step at a learning rate of 1, as is usual for Adam's steps."""

ADAN_DECAYS = (0.98, 0.92, 0.99)
"""Decays of the means of the gradient, of its change, and of the look-ahead gradient's square."""
EPSILON = 1e-8
"""Number added to a divisor, so that it is not zero."""


class Muon(torch.optim.Optimizer):
    """Optimizer of convolution weights (out, in, ...), taken as matrices (out, in * ...)."""

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, dtype: torch.dtype = torch.float32
    ) -> None:
        """Take the parameters, and the type in which their steps are made orthogonal."""
        super().__init__(params, {"lr": lr})
        self._dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take a step; parameters without a gradient stay."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shape = tuple(parameter.flatten(1).shape)
                    alike.setdefault(shape if max(shape) > SMALL_SIDE else (), []).append(parameter)
            for parameters in alike.values():
                self._update(parameters, group["lr"])

    def _update(self, parameters: Sequence[Parameter], learning_rate: float | Tensor) -> None:
        """Take the steps of parameters of one shape, or of small ones of any shapes."""
        given: list[tuple[Tensor, Tensor, Tensor]] = []
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None  # the caller looked
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            given.append((parameter, state["momentum"], gradient))
        is_small = all(max(x.flatten(1).shape) <= SMALL_SIDE for x in parameters)
        is_plain = all(x.is_contiguous() for each in given for x in each)
        if is_small and is_plain and are_for(*parameters):
            rates = [
                float(learning_rate) * RMS * sqrt(max(len(x), x.numel() // len(x)))
                for x in parameters
            ]
            polynomial = ITERATIONS, COEFFICIENTS
            training.muon(given, rates, decay=MOMENTUM, polynomial=polynomial)
            return
        steps: list[Tensor] = []
        for _, momentum, gradient in given:
            momentum.lerp_(gradient, 1 - MOMENTUM)
            steps.append(gradient.lerp(momentum, MOMENTUM).flatten(1))  # Nesterov's momentum
        height, width = (max(sides) for sides in zip(*(x.shape for x in steps), strict=True))
        padded = [F.pad(x, (0, width - x.shape[1], 0, height - x.shape[0])) for x in steps]
        updates = orthogonal(torch.stack(padded), self._dtype)
        for parameter, step, update in zip(parameters, steps, updates, strict=True):
            own = update[: step.shape[0], : step.shape[1]]
            scale = RMS * sqrt(max(step.shape))
            parameter.sub_(own.reshape(parameter.shape) * (learning_rate * scale))


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return, roughly, the nearest matrices (B, M, N) whose singular values are all 1.

    They are found by Newton-Schulz iterations in a type of 32 or 16 bits.
    """
    a, b, c = COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.to(dtype)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).to(matrices.dtype)


class Adan(torch.optim.Optimizer):
    """Optimizer of parameters of any shape."""

    def __init__(
        self, params: Iterable[nn.Parameter] | Iterable[dict[str, object]], *, lr: float
    ) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take a step; parameters without a gradient stay."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"])

    def _update(self, parameter: nn.Parameter, gradient: Tensor, learning_rate: float) -> None:
        state = self.state[parameter]
        if not state:
            zeros = [torch.zeros_like(parameter) for _ in ADAN_DECAYS]
            state.update(steps=0, means=zeros, gradient=gradient.clone())
        state["steps"] += 1
        change = gradient - state["gradient"]
        ahead = gradient + ADAN_DECAYS[1] * change
        corrected: list[Tensor] = []
        for decay, mean, value in zip(
            ADAN_DECAYS, state["means"], (gradient, change, ahead.square()), strict=True
        ):
            mean.lerp_(value, 1 - decay)
            corrected.append(mean / (1 - decay ** state["steps"]))
        slope, bend, size = corrected
        parameter.addcdiv_(
            slope + ADAN_DECAYS[1] * bend, size.sqrt().add_(EPSILON), value=-learning_rate
        )
        state["gradient"].copy_(gradient)


MATRIX_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"muon": Muon}
"""Optimizers of convolutions as matrices, by their names in a recipe.

Adam optimizes the other parameters.
"""


def make_optimizers(
    learned: Mapping[str, Parameter],
    more: Sequence[Tensor],
    recipe: Recipe,
    *,
    latents: Collection[str] = (),
    precision: PrecisionName = "auto",
) -> list[torch.optim.Optimizer]:
    """Return the optimizers of a network's tensors (`learned`, by name) and of `more` tensors.

    Each parameter group has a `gain`, a factor of the learning rate.
    """
    tables = [x for name, x in learned.items() if name in latents]
    make = MATRIX_OPTIMIZERS.get(recipe.optimizer)
    matrices = [x for name, x in learned.items() if make and name not in latents and _is_matrix(x)]
    taken = {id(x) for x in (*tables, *matrices)}
    others = [*(x for x in learned.values() if id(x) not in taken), *more]
    groups: list[dict[str, object]] = [{"params": others, "gain": 1.0}]
    if tables:
        groups.append({"params": tables, "gain": recipe.latent_rate})
    if recipe.optimizer == "adan":
        return [Adan(groups, lr=recipe.learning_rate)]
    adam = torch.optim.Adam(groups, betas=recipe.betas, fused=True)
    if make is None or not matrices:
        return [adam]
    # Muon's author takes bfloat16 on a GPU.
    is_half = matrices[0].is_cuda and precision != "fp32"
    dtype = torch.bfloat16 if is_half else torch.float32
    second = make(matrices, lr=recipe.learning_rate, dtype=dtype)
    second.param_groups[0]["gain"] = 1.0
    return [adam, second]


def forget_gradients(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Do what `zero_grad` does, without its records for profilers, which take longer."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def _is_matrix(tensor: Tensor) -> bool:
    """Return whether a tensor is the weight of a convolution between all channels."""
    return tensor.ndim == 4 and tensor.shape[1] > 1  # noqa: PLR2004 (out, in, h, w)
