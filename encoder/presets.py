"""Presets: networks by name, each in four sizes and with a recipe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from encoder.common.errors import SettingsError
from encoder.config import SizeName
from encoder.models import nirvana
from encoder.models.base import PlainNetwork, VideoNetwork, VideoShape
from encoder.models.e_nerv import Enerv, EnervConfig
from encoder.models.hnerv import Hnerv, hnerv_config
from encoder.models.hnerv_boost import Boost, BoostConfig
from encoder.models.nerv import Nerv, NervConfig
from encoder.models.nirvana import Nirvana, NirvanaConfig
from encoder.models.ps_nerv import PsNerv, PsNervConfig
from encoder.models.pyramid import Pyramid, PyramidConfig
from encoder.models.sizing import REFERENCE, share
from encoder.training.losses import l1_ms_ssim_frequencies, l1_ssim, squared
from encoder.training.recipe import Recipe, Schedule


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A network and its recipe."""

    title: str
    """Description in one line."""
    network: Callable[[VideoShape, SizeName], nn.Module]
    """Factory of a segment's network; a network that is not a VideoNetwork has weights alone."""
    recipe: Recipe
    continuous: bool = True
    """Whether times between frames decode to pictures in between."""
    camera: bool = False
    """Whether the network has a camera, which tracks the motion of the whole picture."""
    group_frames: int | None = None
    """Fixed number of frames of a segment; each network then starts from the previous one."""


FAST_WIDTHS: dict[SizeName, tuple[int, int]] = {
    "XS": (24, 2),
    "S": (32, 3),
    "M": (48, 3),
    "L": (64, 4),
}
"""Channels and blocks of the default network's trunk."""
HIGH_MOTION = (1, 2, 16), (4, 3, 8)
"""Temporal grids of the default network for videos of high motion: more times, fewer channels."""
STEM_CHANNELS: dict[SizeName, int] = {"XS": 8, "S": 26, "M": 58, "L": 112}
"""Stem channels of NeRV and its successors (NeRV's code)."""
HNERV_PARAMETERS: dict[SizeName, float] = {"XS": 0.35e6, "S": 0.75e6, "M": 1.5e6, "L": 3e6}
"""Parameters of HNeRV and its successors for frames of 1280 pixels (HNeRV, table 17)."""
FULL_HD = 1920
HNERV_FULL_HD: dict[SizeName, float] = {"XS": 1.6e6, "S": 3.26e6, "M": 6.4e6, "L": 12.87e6}
"""Parameters of HNeRV for frames of 1920 pixels (Boosting-NeRV, UVG); XS is half of S here."""
BOOST_FULL_HD: dict[SizeName, float] = {"XS": 1.5e6, "S": 3.05e6, "M": 5.01e6, "L": 10.03e6}
"""Parameters of HNeRV-Boost for frames of 1920 pixels (Boosting-NeRV, UVG)."""
ENERV_PARAMETERS: dict[SizeName, float] = {"XS": 1.7e6, "S": 3.3e6, "M": 6.55e6, "L": 13.02e6}
"""Parameters of E-NeRV (comparison of NeRV++)."""
NIRVANA_HIDDEN: dict[SizeName, int] = {"XS": 64, "S": 128, "M": 256, "L": 512}
"""Hidden units of NIRVANA; L is the paper's."""


def _fast(shape: VideoShape, size: SizeName) -> VideoNetwork:
    channels, blocks = FAST_WIDTHS[size]
    temporal = HIGH_MOTION if shape.high_motion else PyramidConfig.temporal
    return Pyramid(PyramidConfig.of(shape, channels=channels, blocks=blocks, temporal=temporal))


def _nerv(shape: VideoShape, size: SizeName, *, options: Mapping[str, Any]) -> VideoNetwork:
    return Nerv(NervConfig.of(shape, stem_channels=STEM_CHANNELS[size], **options))


def _enerv(shape: VideoShape, size: SizeName) -> VideoNetwork:
    return Enerv(EnervConfig.of(shape, parameters=ENERV_PARAMETERS[size]))


def _psnerv(shape: VideoShape, size: SizeName) -> VideoNetwork:
    return PsNerv(PsNervConfig.of(shape, stem_channels=STEM_CHANNELS[size]))


def _hnerv(shape: VideoShape, size: SizeName, *, residual: bool = False) -> VideoNetwork:
    parameters = _parameters(shape, size, HNERV_FULL_HD)
    return Hnerv(hnerv_config(shape, parameters=parameters, residual=residual))


def _boost(shape: VideoShape, size: SizeName) -> VideoNetwork:
    return Boost(BoostConfig.of(shape, parameters=_parameters(shape, size, BOOST_FULL_HD)))


def _nirvana(shape: VideoShape, size: SizeName) -> VideoNetwork:
    return Nirvana(NirvanaConfig.of(shape, hidden=NIRVANA_HIDDEN[size]))


def _parameters(shape: VideoShape, size: SizeName, full_hd: Mapping[SizeName, float]) -> float:
    """Return the number of parameters for a frame size.

    The published number holds for the nearer of 1280 and 1920 pixels, and is scaled.
    """
    near_full_hd = 2 * max(shape.height, shape.width) > REFERENCE + FULL_HD
    published = full_hd if near_full_hd else HNERV_PARAMETERS
    reference = FULL_HD if near_full_hd else REFERENCE
    return published[size] * share(shape.height, shape.width, reference) ** 2


FAST_RECIPE = Recipe(
    loss=squared,
    batch=4,
    learning_rate=3.2e-2,
    latent_rate=2.5,
    optimizer="muon",
    betas=(0.9, 0.99),
    lambda_=0.05,
    full_steps=2000,
    schedule=Schedule(warmup=0.04),
)
"""Recipe of our own network."""
NERV: Mapping[str, Any] = {"block": "convolution", "floor": 96}
NERV_STAR_PP: Mapping[str, Any] = {"expansion": 1.5, "depth": 2}
"""Options of NeRV and NeRV*++ that differ from those of NeRV++."""
NERV_RECIPE = Recipe(
    loss=l1_ssim,
    batch=1,
    learning_rate=5e-4,
    betas=(0.5, 0.999),
    schedule=Schedule(warmup=0.2),
)
"""Recipe of NeRV and E-NeRV (NeRV, section 4.1; Adam's first decay is that of their code)."""
NERV_PP_RECIPE = replace(NERV_RECIPE, betas=(0.9, 0.999))
"""Recipe of NeRV++ (section 4)."""
HNERV_RECIPE = Recipe(loss=squared, batch=2, learning_rate=1e-3)
"""Recipe of HNeRV (section 4.1)."""
RC_HNERV_RECIPE = replace(HNERV_RECIPE, batch=1, learning_rate=9.9e-4)
"""Recipe of RC-HNeRV (its code)."""

PRESETS: dict[str, Preset] = {
    "fast": Preset(
        title="ours: a pyramid of latents, a camera, and a displacement field for each frame",
        network=_fast,
        recipe=FAST_RECIPE,
        camera=True,
    ),
    "nerv": Preset(
        title="NeRV (NeurIPS 2021)", network=partial(_nerv, options=NERV), recipe=NERV_RECIPE
    ),
    "e-nerv": Preset(title="E-NeRV (ECCV 2022)", network=_enerv, recipe=NERV_RECIPE),
    "ps-nerv": Preset(
        title="PS-NeRV (ICIP 2023), a reconstruction", network=_psnerv, recipe=NERV_RECIPE
    ),
    "nerv++": Preset(
        title="NeRV++ (2024)", network=partial(_nerv, options={}), recipe=NERV_PP_RECIPE
    ),
    "nerv*++": Preset(
        title="NeRV*++ (2024), a reconstruction",
        network=partial(_nerv, options=NERV_STAR_PP),
        recipe=NERV_PP_RECIPE,
    ),
    "hnerv": Preset(title="HNeRV (CVPR 2023)", network=_hnerv, recipe=HNERV_RECIPE),
    "rc-hnerv": Preset(
        title="RC-HNeRV (2024)",
        network=partial(_hnerv, residual=True),
        recipe=RC_HNERV_RECIPE,
    ),
    "hnerv-boost": Preset(
        title="HNeRV-Boost (CVPR 2024)",
        network=_boost,
        recipe=Recipe(loss=l1_ms_ssim_frequencies, batch=1, learning_rate=3e-3, optimizer="adan"),
    ),
    "nirvana": Preset(
        title="NIRVANA (CVPR 2023)",
        network=_nirvana,
        recipe=Recipe(
            loss=squared,
            batch=nirvana.GROUP,
            learning_rate=5e-4,
            lambda_=0.05,
            schedule=Schedule(warmup=0.02),
        ),
        continuous=False,
        group_frames=nirvana.GROUP,
    ),
}

OWN_NETWORKS: Mapping[Callable[[VideoShape, SizeName], nn.Module], str] = {
    preset.network: name for name, preset in PRESETS.items()
}
"""Names of the networks of this package; users may add presets of their own."""


def find_preset(name: str) -> Preset:
    """Return the preset with a name; raises SettingsError, which lists the known ones."""
    if name not in PRESETS:
        raise SettingsError(f"unknown preset {name!r}, known are: {', '.join(PRESETS)}")
    return PRESETS[name]


def build(preset: Preset, shape: VideoShape, size: SizeName) -> VideoNetwork:
    """Return a preset's network before its fit."""
    network: nn.Module = preset.network(shape, size)
    if not isinstance(network, VideoNetwork):
        network = PlainNetwork(network)
    # Convolutions on a CPU run 1.4 times faster in this memory format.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """Size and arithmetic of a network."""

    parameters: int
    """Number of coded parameters of a segment."""
    macs_per_pixel: float
    """Multiplications of convolutions and matrix products per pixel of a frame."""


def complexity(preset: Preset, size: SizeName, shape: VideoShape) -> Complexity:
    """Return the complexity of a preset's network, without allocating its weights."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = preset.network(shape, size)
        network(torch.zeros(1))
    # A network for a group of frames makes all of them at once.
    pixels = shape.height * shape.width * (shape.frames if preset.group_frames else 1)
    parameters = sum(x.numel() for x in network.parameters())
    return Complexity(parameters=parameters, macs_per_pixel=counter.get_total_flops() / 2 / pixels)
