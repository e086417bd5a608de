"""Speed of fits on a GPU, by kind of training step, and the quality after a minute."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.fits import make_encoder, measure, run_fit
from benchmarks.gpu_jobs import Deadline, Job
from benchmarks.points import Point
from benchmarks.train_steps import PRECISIONS, step_of
from encoder.cli.options import SAMPLE
from encoder.codec.clip import Clip
from encoder.compare.benchmark import bench, peak_gflops
from encoder.config import Budget, Compression, SizeName
from encoder.jobs.segment_encoder import SegmentEncoder
from encoder.media.size import size_text
from encoder.media.source import read_video
from encoder.media.video import Video
from encoder.presets import find_preset
from encoder.training.device import pick_device
from encoder.training.step import TrainStep

PUBLISHED_BOOST = {"preset": "hnerv-boost", "psnr_db": 37.75, "fit_seconds": 0.71 * 3600}
"""HNeRV-Boost on Bunny at 720p on one GPU (Boosting-NeRV, arXiv 2402.18152)."""
PUBLISHED_BITS = 8
FIRST_MODES = 5
"""Number of modes that are timed before `fast` is fitted."""
LARGEST = 16
"""Operators of a step that are named, those that take the most time."""
WARM = 8
"""Number of steps before the profiled ones."""
PROFILED = 8
"""Number of profiled steps, one of them with the rate term if the preset has one."""
FROM = 0.5
"""Progress of the schedule at the first step, where a rate term comes with noise."""
COURSE = 24
"""Largest number of epochs whose quality in training is kept, to see how a fit went."""
EPOCH_GUESS = 3
"""Epochs that are timed before a fit of as many epochs as there is time for."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured."""

    frame_size: tuple[int, int]
    frames: int | None
    """Frames of the video; None for all."""
    steps: Sequence[tuple[str, SizeName]]
    """Presets whose steps are timed, and sizes of their networks."""
    modes: Sequence[tuple[str, str]]
    """Precision and mode of the timed steps, the most valuable first."""
    compiler: str
    matrix: int
    """Rows and columns of the matrices whose product measures the peak."""
    fits: Sequence[tuple[SizeName, float]]
    """Sizes of `fast`, and its lambdas, that are fitted."""
    seconds: float
    """Time of each fit."""
    epochs: int
    """Epochs of the fits that compare the kinds of arithmetic."""
    papers: Sequence[tuple[str, SizeName]]
    """Networks that are fitted for as many epochs as there is time for, in equal numbers."""
    most_epochs: int
    """Largest number of those epochs."""
    job_seconds: float
    """Time that the timing of a kind of step takes at most."""


WHOLE = Scale(
    frame_size=(1280, 720),
    frames=None,
    steps=(("fast", "S"), ("nerv++", "M"), ("hnerv", "M")),
    modes=(
        ("fp32", "eager"),
        ("fp32", "recorded"),
        ("tf32", "eager"),
        ("tf32", "recorded"),
        ("bf16", "recorded"),
        ("bf16", "eager"),
        ("tf32", "recorded, channels last"),
        ("bf16", "recorded, channels last"),
        ("tf32", "recorded, compiled"),
        ("bf16", "recorded, compiled"),
    ),
    compiler="inductor",
    matrix=8192,
    fits=(("S", 0.05), ("L", 0.01)),
    seconds=60,
    epochs=24,
    papers=(("nerv", "XS"), ("nerv++", "XS")),
    most_epochs=300,
    job_seconds=25,
)
SMOKE = Scale(
    frame_size=(64, 36),
    frames=24,
    steps=(("fast", "XS"),),
    modes=(("bf16", "recorded"), ("tf32", "recorded, compiled")),
    compiler="eager",
    matrix=256,
    fits=(("XS", 0.05),),
    seconds=1,
    epochs=2,
    papers=(("nerv", "XS"),),
    most_epochs=2,
    job_seconds=0,
)


def jobs(deadline: Deadline, *, smoke: bool) -> Iterator[Job]:
    """Yield the measurements, the most valuable first."""
    fits = _Fits(SMOKE if smoke else WHOLE, deadline)
    scale = fits.scale
    yield Job("peak arithmetic", fits.peaks, 0)
    for precision, mode in scale.modes[:FIRST_MODES]:
        for preset, size in scale.steps:
            yield fits.timing(preset, size, precision, mode)
    for preset, size in scale.steps:
        yield fits.operators(preset, size)
    for precision in PRECISIONS:
        yield fits.equal(precision)
    for size, lambda_ in scale.fits:
        yield fits.fast(size, lambda_)
    for precision, mode in scale.modes[FIRST_MODES:]:
        for preset, size in scale.steps:
            yield fits.timing(preset, size, precision, mode)
    yield Job("networks of papers", fits.papers, 2 * scale.job_seconds)


class _Fits:
    """Measurements at a scale, on the device that is there."""

    def __init__(self, scale: Scale, deadline: Deadline) -> None:
        self.scale = scale
        self._deadline = deadline
        self._device = pick_device("auto")
        self._speeds: dict[tuple[str, str, str], float] = {}

    def peaks(self) -> Iterator[Point]:
        """Yield the peak arithmetic of each precision."""
        for precision in PRECISIONS:
            yield {"precision": precision, "peak_gflops": self._peak(precision)}

    @cache  # noqa: B019 (there is one object)
    def _peak(self, precision: str) -> float:
        return peak_gflops(self._device, side=self.scale.matrix, precision=PRECISIONS[precision])

    def timing(self, preset: str, size: SizeName, precision: str, mode: str) -> Job:
        """Return the job that times one kind of step."""
        about = {"preset": preset, "size": size, "frame": size_text(self.scale.frame_size)}
        about |= {"precision": precision, "mode": mode}

        def run() -> Iterator[Point]:
            width, height = self.scale.frame_size
            began = time.perf_counter()
            speed = bench(
                find_preset(preset),
                size,
                height=height,
                width=width,
                device=self._device,
                precision=PRECISIONS[precision],
                train_step=step_of(mode, compiler=self.scale.compiler),
            )
            self._speeds[preset, precision, mode] = speed.steps_per_second
            peak = self._peak(precision)
            found = asdict(speed) | {"peak_gflops": peak, "share_of_peak": speed.gflops / peak}
            whole = time.perf_counter() - began
            yield about | {"measurement": "steps"} | found | {"whole_seconds": whole}

        name = f"steps of {preset} {size}, {precision}, {mode}"
        return Job(name, run, self.scale.job_seconds)

    def fast(self, size: SizeName, lambda_: float) -> Job:
        """Return the job that fits our network for a while with its fastest kind of step."""

        def run() -> Iterator[Point]:
            yield PUBLISHED_BOOST | {"measurement": "fit", "source": "published"}
            precision, mode = self._fastest("fast")
            budget = Budget(seconds=self.scale.seconds)
            yield self._fitted(size, lambda_, precision, mode, budget)

        return Job(f"fit of fast {size}, lambda {lambda_:g}", run, 2 * self.scale.seconds)

    def equal(self, precision: str) -> Job:
        """Return the job that fits our network for a number of epochs in a kind of arithmetic."""
        size, lambda_ = self.scale.fits[0]
        budget = Budget(epochs=self.scale.epochs)

        def run() -> Iterator[Point]:
            yield self._fitted(size, lambda_, precision, "recorded", budget)

        name = f"fit of fast {size}, {budget}, {precision}"
        return Job(name, run, self.scale.job_seconds)

    def _fitted(
        self, size: SizeName, lambda_: float, precision: str, mode: str, budget: Budget
    ) -> Point:
        began = time.perf_counter()
        encoder = self._open(
            "fast",
            size,
            Compression(lambda_=lambda_),
            precision=PRECISIONS[precision],
            train_step=step_of(mode, compiler=self.scale.compiler),
        )
        course = [
            round(progress.psnr_db, 2)
            for progress in encoder.run(budget)
            if progress.is_whole and progress.finished is None
        ]
        spent = time.perf_counter() - began
        clip = Clip.parse(bytes(encoder.clip()))
        about = {"preset": "fast", "size": size, "lambda": lambda_, "measurement": "fit"}
        about |= {"precision": precision, "mode": mode, "epochs": len(course)}
        about |= {"training_psnr_db": course[:: max(-(-len(course) // COURSE), 1)]}
        return about | {"fit_seconds": spent} | measure(clip, self._video)

    def operators(self, preset: str, size: SizeName) -> Job:
        """Return the job that finds the operators of a step that take the most time."""

        def run() -> Iterator[Point]:
            kinds = {"cpu": ProfilerActivity.CPU, "cuda": ProfilerActivity.CUDA}
            profiler = profile(activities={kinds["cpu"], kinds[self._device.type]})

            class Profiled(TrainStep):
                def step(self, *args: Any, **options: Any) -> Tensor:
                    if self.steps == WARM:
                        profiler.start()
                    error = super().step(*args, **options)
                    if self.steps == WARM + PROFILED:
                        profiler.stop()
                    return error

            encoder = self._open(preset, size, Compression(), train_step=Profiled)
            batch = find_preset(preset).recipe.batch
            epochs = -(-(WARM + PROFILED + 1) * batch // self._video.count)
            for _ in encoder.run(Budget(epochs=epochs), start=FROM):
                pass
            spent = {
                event.key: self._seconds(event)
                for event in profiler.key_averages()
                if event.key.startswith("aten::")
            }
            for operator, seconds in Counter(spent).most_common(LARGEST):
                about = {"preset": preset, "size": size, "precision": "tf32"}
                milliseconds = 1000 * seconds / PROFILED
                yield about | {"operator": operator, "milliseconds": milliseconds}

        return Job(f"profile of a step of {preset} {size}", run, self.scale.job_seconds)

    def papers(self) -> Iterator[Point]:
        """Yield what the papers' networks reach in an equal number of epochs, in the time left."""
        compression = Compression(bits=PUBLISHED_BITS)
        paces: list[float] = []
        for name, size in self.scale.papers:
            encoder = self._open(name, size, compression)
            ends = [
                time.perf_counter()
                for progress in encoder.run(Budget(epochs=EPOCH_GUESS))
                if progress.is_whole and progress.finished is None
            ]
            paces.append((ends[-1] - ends[0]) / (len(ends) - 1))
        # A part of the time is for the decoding, on the CPU.
        left = int(0.8 * self._deadline.left / sum(paces))
        epochs = max(min(left, self.scale.most_epochs), 1)
        for (name, size), pace in zip(self.scale.papers, paces, strict=True):
            encoder = self._open(name, size, compression)
            point = {"preset": name, "size": size, "epochs": epochs, "measurement": "fit"}
            clip = run_fit(encoder, Budget(epochs=epochs))
            yield point | {"epoch_seconds": pace} | measure(clip, self._video)

    def _open(
        self, preset: str, size: SizeName, compression: Compression, **options: Any
    ) -> SegmentEncoder:
        options |= {"size": size, "device": self._device}
        return make_encoder(self._video, find_preset(preset), compression, **options)

    def _seconds(self, event: Any) -> float:
        """Return the time of an operator by itself."""
        is_cuda = self._device.type == "cuda"
        return float(event.self_device_time_total if is_cuda else event.self_cpu_time_total) / 1e6

    @property
    def _video(self) -> Video:
        return _sample(self.scale.frame_size, self.scale.frames)

    def _fastest(self, preset: str) -> tuple[str, str]:
        """Return the precision and mode of the fastest steps so far."""
        speeds = {key: speed for key, speed in self._speeds.items() if key[0] == preset}
        _, precision, mode = max(speeds, key=speeds.__getitem__)
        return precision, mode


@cache
def _sample(frame_size: tuple[int, int], frames: int | None) -> Video:
    video = read_video(SAMPLE, size=frame_size)
    return Video(video.frames[:frames], video.rate)
