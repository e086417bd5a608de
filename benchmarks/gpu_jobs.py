"""Measurements with an end: the most valuable first, stopped in time, and nothing lost."""

import json
import logging
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.points import Point
from encoder.common.atomic_file import replacing
from export.hardware import describe

PACKAGES = ("torch", "triton", "onnx", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx")
ROOT = Path(__file__).parents[1]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """End of all measurements."""

    minutes: float
    began: float
    clock: Callable[[], float] = time.monotonic

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.began + 60 * self.minutes - self.clock()


@dataclass(frozen=True)
class Job:
    """A measurement of several points."""

    name: str
    run: Callable[[], Iterable[Point]]
    seconds: float
    """Time that it takes at most, as a guess: it does not begin with less time left."""


def run_jobs(jobs: Iterable[Job], deadline: Deadline, path: Path) -> Iterator[Point]:
    """Run jobs until the time is up; write each point to a file at once, and yield it.

    A job that fails is a point as well: it names the error.
    """
    about = environment()
    points: list[Point] = []

    def write() -> None:
        with replacing(path) as part:
            part.write_text(json.dumps(about | {"points": points}, indent=1) + "\n")

    write()
    for job in jobs:
        began = deadline.clock()
        if deadline.left < job.seconds:
            logger.info("left out, since %.0f s are left: %s", max(deadline.left, 0), job.name)
            continue
        for point in _points(job):
            points.append({"job": job.name} | point)
            write()
            yield points[-1]
            if deadline.left < 0:
                logger.info("stopped, since the time is up: %s", job.name)
                break
        logger.info("%.0f s: %s", deadline.clock() - began, job.name)


def environment() -> Point:
    """Return the machine, the driver, the versions and the commit."""
    return {
        "machine": describe(),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"),
    }


def _points(job: Job) -> Iterator[Point]:
    try:
        yield from job.run()
    except Exception as error:
        logger.exception("%s failed", job.name)
        yield {"refused": f"{type(error).__name__}: {error}".splitlines()[0]}


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
