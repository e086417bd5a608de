"""How even the quality of segments is, as their shares of time and bytes are planned and otherwise."""

from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import numpy as np
from fits import encoder
from tables import Point

from encoder.cli.options import KEY_INTERVAL, SAMPLE
from encoder.codec.clip import Clip
from encoder.compare.evaluation import pictures
from encoder.config import Budget, Compression
from encoder.media.metrics import psnr_db
from encoder.media.source import read_video
from encoder.media.video import Video
from encoder.presets import PRESETS
from encoder.segmentation.plan import Plan, make_plan

FAST = PRESETS["fast"]
KEY_SHARES = (1.0, 1.5, 2.0)
PARTS = 3
"""Segments that a scene is cut into."""
SCENES = 6
SCENE_FRAMES = 44
"""Frames of all scenes but the first."""
LARGE = (640, 360)
"""Width and height of the sample that scenes are cut from."""
BYTES_PER_PIXEL = 0.0105
"""Size of a file, for each pixel of all frames."""


def keys(video: Video, seconds: int) -> Iterator[Point]:
    """Yield the quality of the segments of one scene, of which the first is a key."""
    plan = make_plan(
        video, FAST, segment_frames=-(-video.count // PARTS), key_interval=KEY_INTERVAL
    )
    for share in KEY_SHARES:
        yield {"key_share": share} | _qualities(
            video, replace(plan, key_share=share), seconds, _wish(video)
        )


def scenes(video: Video, seconds: int) -> Iterator[Point]:
    """Yield the quality of six scenes, a segment each."""
    joined = _six_scenes(video)
    plan = make_plan(joined, FAST, segment_frames=video.count, key_interval=KEY_INTERVAL)
    assert len(plan.runs) == SCENES
    alike = replace(plan, hardness=(1.0,) * SCENES)
    for size, wish in (("", _wish(joined)), (", at the preset's rate", Compression())):
        # Each in a plan of its own, which keeps the shares that it is asked for once.
        yield {"shares": f"as planned{size}"} | _qualities(joined, replace(plan), seconds, wish)
        yield {"shares": f"as if all frames were as hard{size}"} | _qualities(
            joined, replace(alike), seconds, wish
        )
        with patch("encoder.segmentation.plan.STILL_FRAMES", 0):
            yield {"shares": f"by frames alone{size}"} | _qualities(
                joined, replace(alike), seconds, wish
            )


def _six_scenes(video: Video) -> Video:
    """Return a video; the sample; a detail of its middle; a still; a detail of its corner; the sample three times as fast."""
    width, height = video.size
    small, large = (read_video(SAMPLE, size=size).frames for size in (video.size, LARGE))
    top, left = (LARGE[1] - height) // 2, (LARGE[0] - width) // 2
    parts = [
        video.frames,
        small[:SCENE_FRAMES],
        large[-SCENE_FRAMES:, :, top : top + height, left : left + width],
        np.repeat(video.frames[video.count // 2][np.newaxis], SCENE_FRAMES, axis=0),
        large[:SCENE_FRAMES, :, :height, :width],
        small[::3][:SCENE_FRAMES],
    ]
    return replace(video, frames=np.concatenate(parts))


def _wish(video: Video) -> Compression:
    width, height = video.size
    return Compression(file_bytes=round(BYTES_PER_PIXEL * width * height * video.count))


def _qualities(video: Video, plan: Plan, seconds: int, wish: Compression) -> Point:
    """Fit a video in the segments of a plan, and return the quality of each."""
    made = encoder(video, FAST, wish, plan=plan)
    for _ in made.run(Budget(seconds=seconds)):
        pass
    data = bytes(made.clip())
    found = [psnr_db(*pair) for pair in pictures(Clip.parse(data), video)]
    segments = [float(np.mean(found[run.start : run.stop])) for run in plan.runs]
    return {
        "bytes": len(data),
        "psnr_db": float(np.mean(found)),
        "shares_of_segments": plan.shares,
        "segments_psnr_db": segments,
    }
