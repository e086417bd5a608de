"""How fast fits are: beside the papers' recipes, along longer videos, and by several workers."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import inf
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
from fits import encoder, measure
from tables import Point

from encoder.cli.options import SAMPLE
from encoder.codec.clip import Clip
from encoder.compare import anchors
from encoder.compare.anchors import find_codec
from encoder.config import Budget, Compression, SizeName
from encoder.jobs import segment_encoder
from encoder.jobs.scheduler import makespan
from encoder.jobs.segment_encoder import SegmentEncoder
from encoder.media.source import read_video
from encoder.media.video import Video
from encoder.presets import PRESETS
from encoder.segmentation.plan import Plan

BASELINES: tuple[tuple[str, SizeName, tuple[int, ...]], ...] = (
    ("nerv++", "M", (200, 100, 50, 20)),
    ("hnerv", "S", (100, 50, 20, 10)),
)
"""Presets that are fitted by their papers' recipes, their sizes, and how many times shorter our fits are."""
FOLDER = Path("baselines")
"""Where their clips are kept, since they take most of an hour."""
EPOCHS, BITS = 300, 8
"""Of the papers' recipes."""
TIMED_EPOCHS = 5
"""Of which the first also allocates."""
SMALL_BYTES = 100_000
"""Size under which a file's size is asked for, since our default is about that large."""
MARGIN = 0.95
"""Size that is asked for, as a share of the baseline's, since it is missed by up to 3 %."""
LENGTHS, LENGTH_EPOCHS, SEGMENT_FRAMES = (100, 500, 2000), 8, 100
WORKERS_FRAMES, WORKERS_EPOCHS = 528, 8
"""Four times the sample, each of them a scene in two groups of a segment."""
LARGE_SIZE, LARGE_FRAMES = (3840, 2160), (16, 32)
POLL_SECONDS = 0.05
SOURCE_FACTOR = 18
"""Constant rate factor of the long videos' files."""
FILM_FRAMES, FILM_SEGMENT_FRAMES = 2 * 3600 * 24, 150
"""Two hours of 24 frames per second, ..."""
FILM_KEY_INTERVALS, FILM_WORKERS = (8, 4), (1, 64)
"""... and how they are fitted."""


def speed(video: Video, _: int) -> Iterator[Point]:
    """Yield what the papers' recipes come to, and our fits of small parts of their time at no more bytes."""
    for preset, size, speedups in BASELINES:
        data = _baseline(video, preset, size)
        seconds = EPOCHS * _epoch_seconds(video, preset, size)
        made = {"against": preset, "against_size": size}
        yield made | {"preset": preset, "fit_seconds": seconds} | measure(Clip.parse(data), video)
        wish = (
            Compression(file_bytes=round(MARGIN * len(data)))
            if len(data) < SMALL_BYTES
            else Compression()
        )
        for speedup in speedups:
            segment_encoder._topology.cache_clear()  # noqa: SLF001 (each traces its network, as a new process would)
            began = time.perf_counter()
            ours = _fitted(encoder(video, PRESETS["fast"], wish), Budget(seconds=seconds / speedup))
            found = {"preset": "fast", "fit_seconds": time.perf_counter() - began}
            yield made | found | {"speedup": speedup} | measure(Clip.parse(ours), video)


def _baseline(video: Video, preset: str, size: SizeName) -> bytes:
    """Return the clip of a paper's recipe, which is fitted if it has not been."""
    path = FOLDER / f"{preset}-{size}-{video.size[0]}x{video.size[1]}.nerv"
    if not path.exists():
        data = _fitted(
            encoder(video, PRESETS[preset], Compression(bits=BITS), size=size),
            Budget(epochs=EPOCHS),
        )
        FOLDER.mkdir(exist_ok=True)
        path.write_bytes(data)
    return path.read_bytes()


def _epoch_seconds(video: Video, preset: str, size: SizeName) -> float:
    made = encoder(video, PRESETS[preset], Compression(bits=BITS), size=size)
    with patch(
        "encoder.training.trainer.QUIET_SECONDS", inf
    ):  # it would also tell how far it is within an epoch
        times = [
            time.perf_counter()
            for step in made.run(Budget(epochs=TIMED_EPOCHS))
            if step.finished is None
        ]
    return median(np.diff(times).tolist())


def _fitted(made: SegmentEncoder, limit: Budget) -> bytes:
    for _ in made.run(limit):
        pass
    return bytes(made.clip())


def lengths(video: Video, _: int) -> Iterator[Point]:
    """Yield the time that a frame takes in the fit of videos of several lengths, which repeat one, and the memory."""
    for frames in LENGTHS:
        ran = _run(video, frames, LENGTH_EPOCHS)
        made = {
            "frames": frames,
            "prepared_seconds": ran.seconds - ran.fit_seconds,
            "peak_megabytes": ran.megabytes,
        }
        yield made | {"milliseconds_per_frame": 1000 * ran.fit_seconds / frames}


def workers(video: Video, _: int) -> Iterator[Point]:
    """Yield the time of one worker and of two, of a thread each."""
    for count in (1, 2):
        ran = _run(video, WORKERS_FRAMES, WORKERS_EPOCHS, "--workers", str(count), "--threads", "1")
        yield {
            "workers": count,
            "fit_seconds": ran.fit_seconds,
            "prepared_seconds": ran.seconds - ran.fit_seconds,
        }


def large(_: Video, __: int) -> Iterator[Point]:
    """Yield the time and the memory of an epoch of frames of 3840x2160."""
    video = read_video(SAMPLE, size=LARGE_SIZE)
    for frames in LARGE_FRAMES:
        ran = _run(video, frames, 1)
        made = {"frames": frames, "prepared_seconds": ran.seconds - ran.fit_seconds}
        yield made | {"fit_seconds": ran.fit_seconds, "peak_megabytes": ran.megabytes}


def film(_: Video, __: int) -> Iterator[Point]:
    """Yield how long a film takes on one worker and on many, in times of a segment; this needs no fit."""
    segments = FILM_FRAMES // FILM_SEGMENT_FRAMES
    for interval, count in product(FILM_KEY_INTERVALS, FILM_WORKERS):
        keys = frozenset(range(0, segments, interval))
        runs = tuple(range(index, index + 1) for index in range(segments))
        plan = Plan(runs=runs, keys=keys, hardness=(1.0,) * segments)
        shares = [sum(plan.shares[number] for number in group) for group in plan.groups]
        yield {
            "key_interval": interval,
            "workers": count,
            "segment_times": segments * makespan(shares, count),
        }


@dataclass
class _Ran:
    """What a run of `fit` took."""

    seconds: float = 0.0
    """As it reports."""
    fit_seconds: float = 0.0
    """Of these, from the first step on."""
    megabytes: float = 0.0
    """Most memory that it had: what the system says once it has ended includes its parent's."""


def _run(video: Video, frames: int, epochs: int, *options: str) -> _Ran:
    """Fit a file that repeats a video."""
    codec = find_codec("x264")
    repeated = replace(video, frames=video.frames[np.arange(frames) % video.count])
    lengths = [
        "--segment-frames",
        str(SEGMENT_FRAMES),
        "--key-interval",
        "1",
        "--epochs",
        str(epochs),
    ]
    with TemporaryDirectory() as folder:
        path, log = Path(folder, f"video.{codec.form}"), Path(folder, "log")
        path.write_bytes(anchors.encode(repeated, codec, SOURCE_FACTOR))
        command = [
            sys.executable,
            "-m",
            "encoder",
            "fit",
            str(path),
            "--resize",
            "source",
            *lengths,
            *options,
        ]
        with (
            log.open("w") as stderr,
            subprocess.Popen([*command, "-o", f"{folder}/clip.nerv"], stderr=stderr) as process,
        ):  # noqa: S603 (our own command)
            return _watched(process, log)


def _watched(process: subprocess.Popen[bytes], log: Path) -> _Ran:
    """Look at a process and at what it says until it has ended."""
    ran, began = _Ran(), 0.0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            ran.megabytes = max(
                [
                    ran.megabytes,
                    *(int(found) / 1024 for found in re.findall(r"VmHWM:\s+(\d+)", status)),
                ]
            )
        text = log.read_text()
        if not began and "frames of" in text:
            began = time.perf_counter()
        if not ran.seconds and (told := re.search(r"fitted in ([\d.]+) s", text)):
            ran.seconds, ran.fit_seconds = float(told[1]), time.perf_counter() - began
        time.sleep(POLL_SECONDS)
    return ran
