"""Fits of one segment, and what comes of them: what several measurements need."""

from typing import Any

import numpy as np
import torch
from tables import Point

from encoder.cli.options import SEGMENT_FRAMES
from encoder.codec.clip import Clip
from encoder.compare.evaluation import pictures
from encoder.config import Budget, Compression
from encoder.jobs.segment_encoder import SegmentEncoder
from encoder.media.metrics import psnr_db
from encoder.media.video import Frames, Video
from encoder.presets import Preset
from encoder.segmentation.plan import Plan, make_plan


def encoder(
    video: Frames,
    preset: Preset,
    compression: Compression,
    *,
    plan: Plan | None = None,
    **options: Any,
) -> SegmentEncoder:
    """Return an encoder of one segment, unless there is a plan."""
    plan = plan or make_plan(video, preset, segment_frames=SEGMENT_FRAMES, key_interval=1)
    device = torch.device("cpu")
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


def fit(
    video: Video, preset: Preset, limit: Budget, compression: Compression, seed: int = 0
) -> tuple[SegmentEncoder, Point]:
    """Fit and write a clip; return the encoder and what was measured of the file."""
    made = encoder(video, preset, compression, seed=seed)
    for _ in made.run(limit):
        pass
    return made, measure(made.clip(), video)


def measure(clip: Clip, video: Video) -> Point:
    """Return size and quality of a clip, as read from its bytes."""
    data = bytes(clip)
    quality = float(np.mean([psnr_db(*pair) for pair in pictures(Clip.parse(data), video)]))
    return {"bytes": len(data), "psnr_db": quality, "bits_per_weight": clip.bits_per_weight}
