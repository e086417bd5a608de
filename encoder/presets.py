"""The networks that `fit` offers by name, each with the recipe that it is fitted with."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from encoder.codec.errors import SettingsError
from encoder.losses import l1_ssim, squared
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
    orthogonal: bool = False
    """Whether convolutions are optimised as matrices, by Muon, and the rest by Adam."""
    rate_weight: float = 0.0
    """Weight of the bits per pixel in the loss; 0 leaves quantisation (to 8 bits) to the end."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a network is built for."""

    height: int
    """Height of a frame, in pixels."""
    width: int
    """Width of a frame, in pixels."""
    frames: int
    """Largest number of frames of a segment."""
    margin: tuple[int, int] | None = None
    """Pixels that the camera moves down and to the right, in all; None if it stands still, or nobody looked."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A network and its recipe."""

    network: Callable[[Shape], nn.Module]
    recipe: Recipe
    continuous: bool
    """Whether times between frames decode to pictures in between."""
    camera: bool = False
    """Whether the network has a camera, which follows the motion of the whole picture."""


def _fast(shape: Shape) -> nn.Module:
    return Fast(FastConfig(height=shape.height, width=shape.width, frames=shape.frames, margin=shape.margin))


def _nervpp(shape: Shape) -> nn.Module:
    return NervPP(NervPPConfig(height=shape.height, width=shape.width, frames=shape.frames))


PRESETS: dict[str, Preset] = {
    "fast": Preset(
        network=_fast,
        recipe=Recipe(
            loss=squared,
            batch=4,
            learning_rate=8e-3,
            latent_rate=3.0,
            beta2=0.99,
            warmup=0.04,
            orthogonal=True,
            rate_weight=0.05,
        ),
        continuous=True,
        camera=True,
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
