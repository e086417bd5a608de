"""Which optimiser learns what of a network."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from encoder.optimizer import Adan, Muon
from encoder.presets import Recipe
from encoder.quantizer import LATENTS


def make_optimizers(learned: Mapping[str, Parameter], more: Sequence[Tensor], recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return the optimisers of a network's tensors by name, and of more that belong to something else.

    Each of their groups has a `gain`, which the learning rate is multiplied by.
    """
    latents = [x for name, x in learned.items() if name.startswith(LATENTS)]
    matrices = [x for name, x in learned.items() if recipe.optimizer == "muon" and _is_matrix(name, x)]
    taken = {id(x) for x in (*latents, *matrices)}
    others = [*(x for x in learned.values() if id(x) not in taken), *more]
    groups: list[dict[str, object]] = [{"params": others, "gain": 1.0}]
    if latents:
        groups.append({"params": latents, "gain": recipe.latent_rate})
    if recipe.optimizer == "adan":
        return [Adan(groups, lr=recipe.learning_rate)]
    adam = torch.optim.Adam(groups, betas=recipe.betas, fused=True)
    if not matrices:
        return [adam]
    muon = Muon(matrices, lr=recipe.learning_rate)
    muon.param_groups[0]["gain"] = 1.0
    return [adam, muon]


def _is_matrix(name: str, tensor: Tensor) -> bool:
    """Whether a tensor holds a convolution between all channels, which a matrix's optimiser suits."""
    return tensor.ndim == 4 and tensor.shape[1] > 1 and not name.startswith(LATENTS)  # noqa: PLR2004 (out, in, h, w)
