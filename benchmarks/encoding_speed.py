"""Speed of fits: against the papers' recipes, for longer videos, and with several workers."""

import time
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.fit_process import fit_repeated
from benchmarks.fits import FAST, Measurement, make_encoder, measure, run_fit
from benchmarks.points import Point
from encoder.cli.options import SAMPLE
from encoder.codec.clip import Clip
from encoder.config import Budget, Compression, SizeName
from encoder.jobs.scheduler import makespan
from encoder.jobs.trace import topology_of
from encoder.kernels import compiled
from encoder.media.size import size_text
from encoder.media.source import read_video
from encoder.media.video import Video
from encoder.presets import find_preset
from encoder.segmentation.plan import Plan

BASELINES: tuple[tuple[str, SizeName, tuple[int, ...]], ...] = (
    ("nerv++", "M", (200, 100, 50, 20)),
    ("hnerv", "S", (100, 50, 20, 10)),
)
"""Presets with their papers' recipes, their sizes, and how many times shorter our fits are."""
FOLDER = Path("baselines")
"""Folder of their clips, which take most of an hour, in the working directory."""
EPOCHS = 300
"""Epochs of the papers' recipes."""
BITS = 8
"""Bits of a weight in the papers' recipes."""
TIMED_EPOCHS = 5
"""Number of timed epochs; the first one also allocates, and is left out."""
SMALL_BYTES = 100_000
"""Size below which our fit is steered to a size; the default rate gives about as much."""
MARGIN = 0.95
"""Wanted size as a share of the baseline's, because fits may miss it by 3 %."""
PARTS = (1 / 3, 1 / 2, 2 / 3)
"""Parts of a fit's time in which fits by the compiled operators may be as good."""
LENGTHS = (100, 500, 2000)
"""Frames of the videos of several lengths."""
LENGTH_EPOCHS = 8
WORKERS_FRAMES = 528
"""Frames of the fit by workers: four times the sample, each a scene of two segments."""
WORKERS_EPOCHS = 8
LARGE_SIZE = (3840, 2160)
LARGE_FRAMES = (16, 32)
FILM_FRAMES = 2 * 3600 * 24
"""Frames of two hours at 24 frames per second."""
FILM_SEGMENT_FRAMES = 150
FILM_KEY_INTERVALS = (8, 4)
FILM_WORKERS = (1, 64)


def speed(video: Video, _: int) -> Iterator[Point]:
    """Yield points of the papers' recipes, and of our fits in small parts of their time."""
    for preset, size, speedups in BASELINES:
        clip = _baseline(video, preset, size)
        data = bytes(clip)
        seconds = EPOCHS * _epoch_seconds(video, preset, size)
        key: Point = {"against": preset, "against_size": size}
        yield key | {"preset": preset, "fit_seconds": seconds} | measure(clip, video)
        is_small = len(data) < SMALL_BYTES
        wanted = Compression(file_bytes=round(MARGIN * len(data)) if is_small else None)
        for speedup in speedups:
            topology_of.cache_clear()  # each fit reads its topology, as a new process would
            began = time.perf_counter()
            encoder = make_encoder(video, FAST, wanted)
            ours = run_fit(encoder, Budget(seconds=seconds / speedup))
            spent = time.perf_counter() - began
            made = {"preset": "fast", "fit_seconds": spent, "speedup": speedup}
            yield key | made | measure(ours, video)


def _baseline(video: Video, preset: str, size: SizeName) -> Clip:
    """Return the clip of a paper's recipe, fitted unless its file exists."""
    path = FOLDER / f"{preset}-{size}-{size_text(video.size)}.nerv"
    if not path.exists():
        encoder = make_encoder(video, find_preset(preset), Compression(bits=BITS), size=size)
        clip = run_fit(encoder, Budget(epochs=EPOCHS))
        FOLDER.mkdir(exist_ok=True)
        path.write_bytes(bytes(clip))
    return Clip.parse(path.read_bytes())


def _epoch_seconds(video: Video, preset: str, size: SizeName) -> float:
    """Return the median seconds of an epoch of a paper's recipe."""
    encoder = make_encoder(video, find_preset(preset), Compression(bits=BITS), size=size)
    ends = [
        time.perf_counter()
        for step in encoder.run(Budget(epochs=TIMED_EPOCHS))
        if step.is_whole and step.finished is None
    ]
    return median(np.diff(ends).tolist())


def operators(video: Video, seconds: int) -> Iterator[Point]:
    """Yield a fit by torch's operators, and fits by the compiled ones in parts of its time."""
    with compiled.off():
        clip = run_fit(make_encoder(video, FAST, Compression()), Budget(seconds=seconds))
    yield {"operators": "torch", "fit_seconds": seconds} | measure(clip, video)
    for part in PARTS:
        limit = round(seconds * part)
        clip = run_fit(make_encoder(video, FAST, Compression()), Budget(seconds=limit))
        yield {"operators": "compiled", "fit_seconds": limit} | measure(clip, video)


def lengths(video: Video, _: int) -> Iterator[Point]:
    """Yield the time of a frame and the memory, for videos that repeat one to several lengths."""
    for frames in LENGTHS:
        ran = fit_repeated(video, frames, LENGTH_EPOCHS)
        yield {
            "frames": frames,
            "prepared_seconds": ran.seconds - ran.fit_seconds,
            "peak_megabytes": ran.megabytes,
            "milliseconds_per_frame": 1000 * ran.fit_seconds / frames,
        }


def workers(video: Video, _: int) -> Iterator[Point]:
    """Yield the time of one worker and of two, with a thread each."""
    for count in (1, 2):
        options = ("--workers", str(count), "--threads", "1")
        ran = fit_repeated(video, WORKERS_FRAMES, WORKERS_EPOCHS, *options)
        yield {
            "workers": count,
            "fit_seconds": ran.fit_seconds,
            "prepared_seconds": ran.seconds - ran.fit_seconds,
        }


def large(_: Video, __: int) -> Iterator[Point]:
    """Yield the time and the memory of an epoch of frames of 3840x2160."""
    video = read_video(SAMPLE, size=LARGE_SIZE)
    for frames in LARGE_FRAMES:
        ran = fit_repeated(video, frames, 1)
        yield {
            "frames": frames,
            "prepared_seconds": ran.seconds - ran.fit_seconds,
            "fit_seconds": ran.fit_seconds,
            "peak_megabytes": ran.megabytes,
        }


def film(_: Video, __: int) -> Iterator[Point]:
    """Yield the time of a film in times of a segment, for one worker and for many."""
    segments = FILM_FRAMES // FILM_SEGMENT_FRAMES
    runs = tuple(range(index, index + 1) for index in range(segments))
    for interval, count in product(FILM_KEY_INTERVALS, FILM_WORKERS):
        keys = frozenset(range(0, segments, interval))
        plan = Plan(runs=runs, keys=keys, hardness=(1.0,) * segments)
        shares = [sum(plan.shares[number] for number in group) for group in plan.groups]
        times = segments * makespan(shares, count)
        yield {"key_interval": interval, "workers": count, "segment_times": times}


MEASUREMENTS: Mapping[str, Measurement] = {
    "speed": speed,
    "operators": operators,
    "lengths": lengths,
    "workers": workers,
    "large": large,
    "film": film,
}
