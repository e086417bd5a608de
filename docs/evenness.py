"""How even the quality of segments is, as their shares of time and bytes are planned and otherwise."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from fits import encoder
from tables import Point

from encoder.cli_common import KEY_INTERVAL, SAMPLE
from encoder.codec.clip import Clip
from encoder.compression import Compression
from encoder.evaluate import pictures, psnr_db
from encoder.limit import Limit
from encoder.plan import Plan, make_plan
from encoder.presets import PRESETS
from encoder.source import read_video
from encoder.video import Video

FAST = PRESETS["fast"]
KEY_FACTORS = (1.0, 1.5, 2.0, 3.0)
"""Time and bytes of a key segment, as multiples of those of another one."""
PARTS = 3
"""Segments that a scene is cut into."""
OTHER_FRAMES = 44
"""Frames of the other scene."""
BYTES_PER_PIXEL = 0.0105
"""Size of a file, for each pixel of all frames."""


def keys(video: Video, seconds: int) -> Iterator[Point]:
    """Yield the quality of the segments of one scene, of which the first is a key."""
    plan = make_plan(video, FAST, segment_frames=-(-video.count // PARTS), key_interval=KEY_INTERVAL)
    for factor in KEY_FACTORS:
        yield {"key_factor": factor} | _qualities(video, replace(plan, key_time=factor, key_bytes=factor), seconds)


def scenes(video: Video, seconds: int) -> Iterator[Point]:
    """Yield the quality of two scenes of different lengths: a video, and the sample's first frames."""
    other = read_video(SAMPLE, size=video.size)
    both = replace(video, frames=np.concatenate([video.frames, other.frames[:OTHER_FRAMES]]))
    plan = make_plan(both, FAST, segment_frames=both.count, key_interval=KEY_INTERVAL)
    ways: dict[str, tuple[Plan, AbstractContextManager[Any]]] = {
        "as planned": (plan, nullcontext()),
        "as if all were as hard": (replace(plan, hardness=(1.0,) * len(plan.runs)), nullcontext()),
        "bytes by frames alone": (plan, patch("encoder.plan.STILL_FRAMES", 0.0)),
    }
    for name, (changed, context) in ways.items():
        with context:
            # A plan of its own, since each keeps the shares that it is asked for once.
            yield {"shares": name, "hardness": changed.hardness} | _qualities(both, replace(changed), seconds)


def _qualities(video: Video, plan: Plan, seconds: int) -> Point:
    """Fit a video in the segments of a plan, and return the quality of each."""
    width, height = video.size
    wish = Compression(file_bytes=round(BYTES_PER_PIXEL * width * height * video.count))
    made = encoder(video, FAST, wish, plan=plan)
    for _ in made.run(Limit(seconds=seconds)):
        pass
    data = bytes(made.clip())
    found = [psnr_db(*pair) for pair in pictures(Clip.parse(data), video)]
    segments = [float(np.mean(found[run.start : run.stop])) for run in plan.runs]
    return {"bytes": len(data), "psnr_db": float(np.mean(found)), "segments_psnr_db": segments}
