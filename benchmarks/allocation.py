"""Evenness of the quality of segments, with planned shares of time and bytes, and with others."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from benchmarks.fits import FAST, Measurement, make_encoder, run_fit
from benchmarks.points import Point
from encoder.cli.options import SAMPLE
from encoder.compare.evaluation import pictures
from encoder.config import Budget, Compression, FitConfig
from encoder.media.metrics import psnr_db
from encoder.media.source import read_video
from encoder.media.video import Video
from encoder.segmentation.plan import Plan, make_plan

KEY_SHARES = (1.0, 1.5, 2.0)
"""Shares of a key segment relative to a delta segment."""
PARTS = 3
"""Segments that a scene is cut into."""
SCENES = 6
SCENE_FRAMES = 44
"""Frames of all scenes but the first."""
LARGE = (640, 360)
"""Width and height of the sample that details are cut from."""
BYTES_PER_PIXEL = 0.0105
"""Size of a file, for each pixel of all frames."""


def keys(video: Video, seconds: int) -> Iterator[Point]:
    """Yield the quality of the segments of one scene, whose first segment is a key."""
    frames = -(-video.count // PARTS)
    plan = make_plan(video, FAST, segment_frames=frames, key_interval=FitConfig.key_interval)
    wanted = _target(video)
    for share in KEY_SHARES:
        found = _qualities(video, replace(plan, key_share=share), seconds, wanted)
        yield {"key_share": share} | found


def scenes(video: Video, seconds: int) -> Iterator[Point]:
    """Yield the quality of six scenes, a segment each."""
    joined = _six_scenes(video)
    plan = make_plan(joined, FAST, segment_frames=video.count, key_interval=FitConfig.key_interval)
    assert len(plan.runs) == SCENES
    alike = replace(plan, hardness=(1.0,) * SCENES)
    plans = {
        "as planned": plan,
        "as if all frames were as hard": alike,
        "by frames alone": replace(alike, still_frames=0),
    }
    for size, wanted in (("", _target(joined)), (", at the preset's rate", Compression())):
        for name, each in plans.items():
            yield {"shares": f"{name}{size}"} | _qualities(joined, each, seconds, wanted)


def _six_scenes(video: Video) -> Video:
    """Return a video of six scenes.

    They are the video, the sample, a detail of the sample's middle, a still picture, a detail of
    the sample's corner, and the sample three times as fast.
    """
    width, height = video.size
    small = read_video(SAMPLE, size=video.size).frames
    large = read_video(SAMPLE, size=LARGE).frames
    top = (LARGE[1] - height) // 2
    left = (LARGE[0] - width) // 2
    parts = [
        video.frames,
        small[:SCENE_FRAMES],
        large[-SCENE_FRAMES:, :, top : top + height, left : left + width],
        np.repeat(video.frames[video.count // 2][np.newaxis], SCENE_FRAMES, axis=0),
        large[:SCENE_FRAMES, :, :height, :width],
        small[::3][:SCENE_FRAMES],
    ]
    return replace(video, frames=np.concatenate(parts))


def _target(video: Video) -> Compression:
    width, height = video.size
    return Compression(file_bytes=round(BYTES_PER_PIXEL * width * height * video.count))


def _qualities(video: Video, plan: Plan, seconds: int, wanted: Compression) -> Point:
    """Fit a video in the segments of a plan, and return the quality of each."""
    clip = run_fit(make_encoder(video, FAST, wanted, plan=plan), Budget(seconds=seconds))
    found = [psnr_db(*pair) for pair in pictures(clip, video)]
    segments = [float(np.mean(found[run.start : run.stop])) for run in plan.runs]
    return {
        "bytes": len(bytes(clip)),
        "psnr_db": float(np.mean(found)),
        "shares_of_segments": plan.shares,
        "segments_psnr_db": segments,
    }


MEASUREMENTS: Mapping[str, Measurement] = {"scenes": scenes, "keys": keys}
