"""The networks that `fit` offers by name, each in four sizes and with the recipe that it is fitted with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from encoder.common.errors import SettingsError
from encoder.models import nirvana
from encoder.models.e_nerv import Enerv, EnervConfig
from encoder.models.fast import Fast, FastConfig
from encoder.models.hnerv import EMBEDDING, Hnerv, hnerv_config
from encoder.models.hnerv_boost import Boost, BoostConfig
from encoder.models.hnerv_encoder import ConvNextEncoder
from encoder.models.nerv import Nerv, NervConfig
from encoder.models.nirvana import Nirvana, NirvanaConfig
from encoder.models.ps_nerv import PsNerv, PsNervConfig
from encoder.models.sizing import REFERENCE, share
from encoder.training.losses import l1_ms_ssim_frequencies, l1_ssim, squared
from encoder.training.recipe import Recipe

SizeName = Literal["XS", "S", "M", "L"]
SIZES: tuple[SizeName, ...] = get_args(SizeName)
DEFAULT_SIZE: SizeName = "S"


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

    title: str
    """What it is, in a line."""
    network: Callable[[Shape, SizeName], nn.Module]
    recipe: Recipe
    continuous: bool = True
    """Whether times between frames decode to pictures in between."""
    camera: bool = False
    """Whether the network has a camera, which follows the motion of the whole picture."""
    frame_encoder: Callable[[nn.Module], nn.Module] | None = None
    """Makes what makes the latents of frames while fitting, for a network whose latents are not learned by themselves."""
    prepare: Callable[[nn.Module, Tensor], None] | None = None
    """Gives a network what it takes of its uint8 frames (T, 3, H, W) before the fit."""
    group_frames: int | None = None
    """Frames of a segment, if that is not for the user to say; then each network starts from the one before."""


def _fast(shape: Shape, size: SizeName) -> nn.Module:
    stem, trunk, rank = {
        "XS": (24, 20, 20),
        "S": (40, 32, 32),
        "M": (64, 48, 48),
        "L": (96, 64, 64),
    }[size]
    return Fast(
        FastConfig(
            height=shape.height,
            width=shape.width,
            frames=shape.frames,
            margin=shape.margin,
            stem_channels=stem,
            trunk_channels=trunk,
            rank=rank,
        )
    )


STEM_CHANNELS: dict[SizeName, int] = {"XS": 8, "S": 26, "M": 58, "L": 112}
"""Of NeRV and what follows it (NeRV's code)."""
HNERV_PARAMETERS: dict[SizeName, float] = {"XS": 0.35e6, "S": 0.75e6, "M": 1.5e6, "L": 3e6}
"""Of HNeRV and what follows it, for frames of 1280 pixels (HNeRV, table 17 of the supplement)."""
FULL_HD = 1920
HNERV_FULL_HD: dict[SizeName, float] = {"XS": 1.6e6, "S": 3.26e6, "M": 6.4e6, "L": 12.87e6}
BOOST_FULL_HD: dict[SizeName, float] = {"XS": 1.5e6, "S": 3.05e6, "M": 5.01e6, "L": 10.03e6}
"""Of HNeRV and HNeRV-Boost, for frames of 1920 pixels (Boosting-NeRV, UVG); they have no XS, which is half of S here."""
ENERV_PARAMETERS: dict[SizeName, float] = {"XS": 1.7e6, "S": 3.3e6, "M": 6.55e6, "L": 13.02e6}
"""Of E-NeRV (as NeRV++ compares them)."""
NIRVANA_HIDDEN: dict[SizeName, int] = {"XS": 64, "S": 128, "M": 256, "L": 512}
"""Hidden units of NIRVANA; its paper has the last."""


def _nerv(shape: Shape, size: SizeName, *, options: Mapping[str, Any]) -> nn.Module:
    stem = STEM_CHANNELS[size]
    return Nerv(
        NervConfig(
            height=shape.height,
            width=shape.width,
            frames=shape.frames,
            stem_channels=stem,
            **options,
        )
    )


def _enerv(shape: Shape, size: SizeName) -> nn.Module:
    parameters = ENERV_PARAMETERS[size]
    return Enerv(
        EnervConfig(
            height=shape.height, width=shape.width, frames=shape.frames, parameters=parameters
        )
    )


def _psnerv(shape: Shape, size: SizeName) -> nn.Module:
    stem = STEM_CHANNELS[size]
    return PsNerv(
        PsNervConfig(
            height=shape.height, width=shape.width, frames=shape.frames, stem_channels=stem
        )
    )


def _budget(shape: Shape, size: SizeName, full_hd: Mapping[SizeName, float]) -> float:
    """Return the number of parameters for frames of any size: as published for the nearer of 1280 and 1920 pixels."""
    near_full_hd = 2 * max(shape.height, shape.width) > REFERENCE + FULL_HD
    published, reference = (full_hd, FULL_HD) if near_full_hd else (HNERV_PARAMETERS, REFERENCE)
    return published[size] * share(shape.height, shape.width, reference) ** 2


def _hnerv(shape: Shape, size: SizeName, *, residual: bool = False) -> nn.Module:
    budget = _budget(shape, size, HNERV_FULL_HD)
    return Hnerv(
        hnerv_config(
            height=shape.height,
            width=shape.width,
            frames=shape.frames,
            parameters=budget,
            residual=residual,
        )
    )


def _boost(shape: Shape, size: SizeName) -> nn.Module:
    budget = _budget(shape, size, BOOST_FULL_HD)
    return Boost(
        BoostConfig(height=shape.height, width=shape.width, frames=shape.frames, parameters=budget)
    )


def _frame_encoder(network: nn.Module) -> nn.Module:
    assert isinstance(network, Hnerv | Boost)  # those whose presets name this function
    layout = network.layout
    return ConvNextEncoder(channels=EMBEDDING, strides=layout.strides, canvas=layout.canvas)


def _take_thumbnails(network: nn.Module, frames: Tensor) -> None:
    assert isinstance(network, Hnerv)  # whose preset names this function
    assert network.thumbnails is not None
    network.thumbnails.take(frames)


def _nirvana(shape: Shape, size: SizeName) -> nn.Module:
    hidden = NIRVANA_HIDDEN[size]
    return Nirvana(
        NirvanaConfig(height=shape.height, width=shape.width, frames=shape.frames, hidden=hidden)
    )


NERV: Mapping[str, Any] = {"block": "convolution", "floor": 96}
NERV_STAR_PP: Mapping[str, Any] = {"expansion": 1.5, "depth": 2}
"""Options of NeRV's network and of our NeRV*++, where they differ from NeRV++."""
NERV_RECIPE = Recipe(loss=l1_ssim, batch=1, learning_rate=5e-4, warmup=0.2, betas=(0.5, 0.999))
"""Of NeRV and E-NeRV (NeRV, section 4.1; Adam's first decay as in their codes, of which the papers say nothing)."""
NERV_PP_RECIPE = replace(NERV_RECIPE, betas=(0.9, 0.999))
"""Of NeRV++ (section 4)."""
HNERV_RECIPE = Recipe(loss=squared, batch=2, learning_rate=1e-3, warmup=0.1)
"""Of HNeRV (section 4.1)."""
RC_HNERV_RECIPE = replace(HNERV_RECIPE, batch=1, learning_rate=9.9e-4)
"""Of RC-HNeRV (its code)."""

PRESETS: dict[str, Preset] = {
    "fast": Preset(
        title="ours: latents on a canvas under a camera, for small machines",
        network=_fast,
        recipe=Recipe(
            loss=squared,
            batch=4,
            learning_rate=1.6e-2,
            latent_rate=3.0,
            optimizer="muon",
            betas=(0.9, 0.99),
            warmup=0.04,
            rate_weight=0.05,
        ),
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
    "hnerv": Preset(
        title="HNeRV (CVPR 2023)", network=_hnerv, recipe=HNERV_RECIPE, frame_encoder=_frame_encoder
    ),
    "rc-hnerv": Preset(
        title="RC-HNeRV (2024)",
        network=partial(_hnerv, residual=True),
        recipe=RC_HNERV_RECIPE,
        frame_encoder=_frame_encoder,
        prepare=_take_thumbnails,
    ),
    "hnerv-boost": Preset(
        title="HNeRV-Boost (CVPR 2024)",
        network=_boost,
        recipe=Recipe(
            loss=l1_ms_ssim_frequencies, batch=1, learning_rate=3e-3, optimizer="adan", warmup=0.1
        ),
        frame_encoder=_frame_encoder,
    ),
    "nirvana": Preset(
        title="NIRVANA (CVPR 2023)",
        network=_nirvana,
        recipe=Recipe(
            loss=squared, batch=nirvana.GROUP, learning_rate=5e-4, warmup=0.02, rate_weight=0.05
        ),
        continuous=False,
        group_frames=nirvana.GROUP,
    ),
}


def find_preset(name: str) -> Preset:
    """Return the preset of a name; raises SettingsError, which lists the known ones."""
    if name not in PRESETS:
        raise SettingsError(f"unknown preset {name!r}, known are: {', '.join(PRESETS)}")
    return PRESETS[name]


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """What a network takes."""

    parameters: int
    """Coded numbers of a segment."""
    macs_per_pixel: float
    """Multiplications of convolutions and matrices for a pixel of a frame."""


def complexity(preset: Preset, size: SizeName, shape: Shape) -> Complexity:
    """Return what a preset's network takes, which is found without memory for its weights."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = preset.network(shape, size)
        network(torch.zeros(1))
    # A network that makes a group of frames at once makes all of them from what it takes for one.
    pixels = shape.height * shape.width * (shape.frames if preset.group_frames else 1)
    parameters = sum(x.numel() for x in network.parameters())
    return Complexity(parameters=parameters, macs_per_pixel=counter.get_total_flops() / 2 / pixels)
