"""Fits in this process, and the size and quality of the files that they make."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks.points import Point
from encoder.codec.clip import Clip
from encoder.compare.evaluation import mean_quality, qualities
from encoder.config import Budget, Compression, FitConfig
from encoder.jobs.segment_encoder import SegmentEncoder
from encoder.media.video import Frames, Video
from encoder.presets import PRESETS, Preset
from encoder.segmentation.plan import Plan, make_plan

FAST = PRESETS["fast"]
CPU = torch.device("cpu")

Measurement = Callable[[Video, int], Iterator[Point]]
"""Measurement of a video, with a time for each fit in seconds."""


def make_encoder(
    video: Frames,
    preset: Preset,
    compression: Compression,
    *,
    plan: Plan | None = None,
    device: torch.device = CPU,
    **options: Any,
) -> SegmentEncoder:
    """Return an encoder; without a plan, each scene is a segment of its own key."""
    if plan is None:
        plan = make_plan(video, preset, segment_frames=FitConfig.segment_frames, key_interval=1)
    return SegmentEncoder(
        video,
        preset,
        compression,
        plan=plan,
        device=device,
        settings="",
        keep_states=True,
        **options,
    )


def run_fit(encoder: SegmentEncoder, budget: Budget, *, start: float = 0.0) -> Clip:
    """Fit all segments from a part of the schedule on; return the clip, parsed from its bytes."""
    for _ in encoder.run(budget, start=start):
        pass
    return Clip.parse(bytes(encoder.clip()))


def measure(clip: Clip, video: Video) -> Point:
    """Return the size and quality of a clip."""
    quality = mean_quality(list(qualities(clip, video)))
    return {
        "bytes": len(bytes(clip)),
        "psnr_db": quality.psnr_db,
        "ms_ssim": quality.ms_ssim,
        "bits_per_weight": clip.bits_per_weight,
    }


def with_recipe(preset: Preset, **changes: Any) -> Preset:
    """Return a preset with another recipe; changes are fields of `Recipe`."""
    return replace(preset, recipe=replace(preset.recipe, **changes))
