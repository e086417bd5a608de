"""The networks that `fit` offers by name, each with the recipe that it is fitted with."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from encoder.codec.errors import SettingsError
from encoder.losses import l1_mse, l1_ssim
from encoder.models.fast import Fast, FastConfig
from encoder.models.nervpp import NervPP, NervPPConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is fitted."""

    loss: Callable[[Tensor, Tensor], Tensor]
    """Distortion between frames (B, 3, H, W) in 0..1."""
    batch: int
    """Frames per step."""
    learning_rate: float
    """Adam's learning rate after the warm-up."""
    latent_rate: float = 1.0
    """Learning rate of the parameters under the network's `latents`, as a multiple of that of the others."""
    beta2: float = 0.999
    """Adam's decay of the second moment."""
    warmup: float
    """Share of the fit in which the learning rate rises to its full value; then it follows a cosine to zero."""
    rate: float = 0.0
    """Weight of the bits per pixel in the loss; 0 leaves quantisation (to 8 bits) to the end."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A network and its recipe."""

    network: Callable[[int, int, int], nn.Module]
    """Build the network for a height, a width and a number of frames."""
    recipe: Recipe
    continuous: bool
    """Whether times between frames decode to pictures in between."""


def _fast(height: int, width: int, frames: int) -> nn.Module:
    return Fast(FastConfig(height=height, width=width, frames=frames))


def _nervpp(height: int, width: int, frames: int) -> nn.Module:
    return NervPP(NervPPConfig(height=height, width=width, frames=frames))


PRESETS: dict[str, Preset] = {
    "fast": Preset(
        network=_fast,
        recipe=Recipe(loss=l1_mse, batch=2, learning_rate=8e-3, latent_rate=3.0, beta2=0.99, warmup=0.04, rate=0.013),
        continuous=True,
    ),
    # The paper's recipe.
    "nerv++": Preset(
        network=_nervpp,
        recipe=Recipe(loss=l1_ssim, batch=1, learning_rate=5e-4, warmup=0.2),
        continuous=True,
    ),
}


def find_preset(name: str) -> Preset:
    """Return the preset of a name; raises SettingsError, which lists the known ones."""
    if name not in PRESETS:
        raise SettingsError(f"unknown preset {name!r}, known are: {', '.join(PRESETS)}")
    return PRESETS[name]
