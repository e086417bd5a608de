"""Python interface of the encoder: fit a video or array, and evaluate a clip."""

from collections.abc import Callable
from dataclasses import fields, replace
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoder.clip import Clip, open_clip
from encoder.common.errors import SettingsError
from encoder.compare.evaluation import Evaluation, evaluation, qualities
from encoder.config import DeviceName, FitConfig
from encoder.jobs.gop import Progress
from encoder.jobs.job import extras_of, masked, open_encoder, plan_of
from encoder.media.reading import Reading
from encoder.media.source import Source
from encoder.media.video import Frames, Video
from encoder.models.base import VideoShape
from encoder.presets import Preset, find_preset
from encoder.segmentation.mask import read_mask
from encoder.training.device import pick_device
from encoder.training.losses import squared
from encoder.training.recipe import Recipe, Schedule

Pixels = NDArray[Any] | Tensor
"""Frames (T, 3, H, W): uint8, or floats in 0..1."""
RANK = 4
CUSTOM_RECIPE = Recipe(
    loss=squared, batch=4, learning_rate=1e-3, lambda_=0.05, schedule=Schedule(warmup=0.1)
)
"""Recipe of custom networks that come without one."""


def fit(
    source: str | Path | Pixels,
    *,
    frame_rate: Fraction | float = 25,
    network: Callable[[VideoShape], nn.Module] | None = None,
    recipe: Recipe | None = None,
    device: DeviceName = "auto",
    on_progress: Callable[[Progress], object] | None = None,
    **settings: Any,
) -> Clip:
    """Fit a network to a video and return it as a clip.

    `source` is a video file, a folder of images, or frames (T, 3, H, W) in uint8 or in 0..1.
    The clip has the sound, subtitles and metadata of a video file. `frame_rate` is that of frames.
    `network` makes a torch module that maps times (B,) in frames to frames (B, 3, H, W) in 0..1.
    It replaces the preset's network, and `recipe` replaces the preset's recipe. `settings` are the
    fields of `FitConfig`, such as `preset`, `resize`, `epochs`, `file_size`. `on_progress` takes
    the progress of each epoch.

    Raises SettingsError, SourceError, BitstreamError for a video that the format cannot hold, and
    FitError for a fit that diverges.
    """
    config = config_of(settings)
    video = open_source(source, config, frame_rate)
    preset = find_preset(config.preset)
    described = ""
    if network is not None:
        make = network
        preset = Preset(
            title="custom",
            network=lambda shape, _: make(shape),
            recipe=recipe or CUSTOM_RECIPE,
        )
        described = "custom network"
    elif recipe is not None:
        preset = replace(preset, recipe=recipe)
        described = f"--preset {config.preset} --size {config.size} with a custom recipe"
    record = config.text(video, network=described)
    place = pick_device(device)
    # The fit seeds torch's generators: the caller's random numbers must not change by that.
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        plan = plan_of(masked(video, config), config, preset)
        extras = extras_of(video, config, plan)
        encoder = open_encoder(
            video, config, preset=preset, device=place, settings=record, plan=plan, extras=extras
        )
        for progress in encoder.run(config.limit(video.count)):
            if on_progress is not None:
                on_progress(progress)
    return Clip.parse(bytes(replace(encoder.clip(), extras=extras)))


def evaluate(
    clip: Clip | str | Path,
    source: str | Path | Pixels,
    *,
    mask: str | Path | None = None,
    **reading: Any,
) -> Evaluation:
    """Return the quality and size of a clip against its source, over all frames.

    PSNR and MS-SSIM are those of the decoded 8-bit frames; sizes are those of the file.
    `reading` are the fields of `Reading`, such as `matrix`. Raises SettingsError, SourceError,
    BitstreamError.
    """
    opened = clip if isinstance(clip, Clip) else open_clip(clip)
    if isinstance(source, str | Path):
        video: Frames = Source(Path(source), size=opened.size, reading=Reading(**reading))
    else:
        if reading:
            raise SettingsError(f"an array is read as it is, without {', '.join(reading)}")
        video = array_video(source, opened.frame_rate)
        if video.size != opened.size:
            raise SettingsError(f"the clip has {opened.size} pixels, the frames {video.size}")
    hidden = None if mask is None else read_mask(Path(mask), video)
    frames = list(qualities(opened, video, hidden))
    return evaluation(len(bytes(opened)), opened, frames)


def config_of(settings: dict[str, Any]) -> FitConfig:
    """Return the settings of a fit; raises SettingsError for unknown names."""
    known = [field.name for field in fields(FitConfig)]
    wrong = [name for name in settings if name not in known]
    if wrong:
        raise SettingsError(f"no such setting: {', '.join(wrong)}; known are {', '.join(known)}")
    return FitConfig(**settings)


def open_source(
    source: str | Path | Pixels, config: FitConfig, frame_rate: Fraction | float
) -> Frames:
    """Return the video to fit; raises SettingsError, SourceError."""
    if not isinstance(source, str | Path):
        if config.resize is not None:
            raise SettingsError("frames of an array are not resized")
        if not 0 < frame_rate < inf:
            raise SettingsError(f"the frame rate must be over 0, got {frame_rate}")
        return array_video(source, Fraction(frame_rate).limit_denominator(1001))
    return Source(
        Path(source),
        size=config.frame_size,
        keep_size=config.resize == "source",
        reading=config.reading,
    )


def array_video(pixels: Pixels, frame_rate: Fraction) -> Video:
    """Return frames (T, 3, H, W) as a video; raises SettingsError for another shape or type."""
    frames = pixels.detach().cpu().numpy() if isinstance(pixels, Tensor) else np.asarray(pixels)
    if frames.ndim != RANK or frames.shape[1] != 3 or 0 in frames.shape:  # noqa: PLR2004 (RGB)
        raise SettingsError(f"frames must be of shape (T, 3, H, W), got {frames.shape}")
    if np.issubdtype(frames.dtype, np.floating):
        if not (np.isfinite(frames).all() and frames.min() >= 0 and frames.max() <= 1):
            raise SettingsError("frames of floats must be in 0..1")
        frames = np.rint(frames * 255).astype(np.uint8)
    if frames.dtype != np.uint8:
        raise SettingsError(f"frames must be uint8 or floats in 0..1, got {frames.dtype}")
    return Video(np.ascontiguousarray(frames), frame_rate)
