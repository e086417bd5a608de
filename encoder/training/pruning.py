"""Pruning: the smallest weights of all layers together are set to zero, and stay there (NeRV, section 3.4)."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor


def masks(
    tensors: Mapping[str, Tensor], share: float, *, latents: Collection[str] = ()
) -> dict[str, Tensor]:
    """Return where the weights of layers are kept if the smallest share of all that are learned is to go, by name.

    Latents are left alone, as HNeRV leaves its embeddings: pruning them with the rest costs far more than it saves.
    """
    layers = {name: x for name, x in tensors.items() if x.requires_grad and name not in latents}
    weights = {name: x for name, x in layers.items() if x.ndim > 1}
    sizes = torch.cat([x.detach().abs().flatten() for x in weights.values()])
    threshold = sizes.kthvalue(max(round(share * len(sizes)), 1)).values
    return {name: x.detach().abs() > threshold for name, x in weights.items()}
