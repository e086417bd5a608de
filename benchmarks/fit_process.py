"""Run `python -m encoder fit` in a process of its own, and watch its time and memory."""

import contextlib
import re
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from encoder.compare import anchors
from encoder.compare.anchors import find_codec
from encoder.media.video import Video

SEGMENT_FRAMES = 100
SOURCE_FACTOR = 18
"""Constant rate factor of the video files."""
POLL_SECONDS = 0.05


@dataclass
class Ran:
    """Time and memory of a run of `fit`."""

    seconds: float = 0.0
    """Seconds that the command reports."""
    fit_seconds: float = 0.0
    """Seconds from the first step on."""
    megabytes: float = 0.0
    """Peak memory. It is read while the process runs: afterwards it would include its parent's."""


def fit_repeated(video: Video, frames: int, epochs: int, *options: str) -> Ran:
    """Fit a file that repeats a video to a number of frames, with further options of `fit`."""
    codec = find_codec("x264")
    repeated = replace(video, frames=video.frames[np.arange(frames) % video.count])
    with TemporaryDirectory() as folder:
        path = Path(folder, f"video.{codec.form}")
        log = Path(folder, "log")
        path.write_bytes(anchors.encode(repeated, codec, SOURCE_FACTOR))
        command = [
            *(sys.executable, "-m", "encoder", "fit", str(path)),
            *("--resize", "source"),
            *("--segment-frames", str(SEGMENT_FRAMES)),
            *("--key-interval", "1"),
            *("--epochs", str(epochs)),
            *options,
            *("-o", f"{folder}/clip.nerv"),
        ]
        with (
            log.open("w") as stderr,
            subprocess.Popen(command, stderr=stderr) as process,  # noqa: S603 (our own command)
        ):
            return _watch(process, log)


def _watch(process: subprocess.Popen[bytes], log: Path) -> Ran:
    """Poll a process and its log until it ends."""
    ran = Ran()
    began = 0.0
    while process.poll() is None:
        ran.megabytes = max(ran.megabytes, _peak_megabytes(process.pid))
        text = log.read_text()
        if not began and "frames of" in text:
            began = time.perf_counter()
        if not ran.seconds and (told := re.search(r"fitted in ([\d.]+) s", text)):
            ran.seconds = float(told[1])
            ran.fit_seconds = time.perf_counter() - began
        time.sleep(POLL_SECONDS)
    return ran


def _peak_megabytes(pid: int) -> float:
    """Return the peak memory of a process so far; 0 if it has ended."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0
    return 0.0
