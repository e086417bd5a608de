"""Pruning: the smallest weights of all layers together become zero for good (NeRV, section 3.4)."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor


def masks(
    tensors: Mapping[str, Tensor], share: float, latents: Collection[str] = ()
) -> dict[str, Tensor]:
    """Return masks by name that are True for kept weights; the smallest share of all is pruned.

    Only learned weights of layers are pruned. Latents are kept, as HNeRV keeps its embeddings:
    pruning them costs far more than it saves.
    """
    layers = {name: x for name, x in tensors.items() if x.requires_grad and name not in latents}
    weights = {name: x for name, x in layers.items() if x.ndim > 1}
    sizes = torch.cat([x.detach().abs().flatten() for x in weights.values()])
    threshold = sizes.kthvalue(max(round(share * len(sizes)), 1)).values
    return {name: x.detach().abs() > threshold for name, x in weights.items()}


@torch.no_grad()
def apply(tensors: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    """Set the weights to zero that the masks of the kept ones leave out."""
    for name, mask in kept.items():
        tensors[name].mul_(mask)
