"""Speed of fits on a GPU, by kind of training step, and the quality after a minute."""

import contextlib
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.fits import make_encoder, measure, run_fit
from benchmarks.gpu_jobs import Deadline, Job
from benchmarks.points import Point
from benchmarks.train_steps import ChannelsLast, Compiled, HalfPrecision, Recorded
from encoder.cli.options import SAMPLE
from encoder.codec.clip import Clip
from encoder.compare.benchmark import GIGA, bench
from encoder.config import Budget, Compression, SizeName
from encoder.media.size import size_text
from encoder.media.source import read_video
from encoder.media.video import Video
from encoder.presets import find_preset
from encoder.training.device import pick_device
from encoder.training.step import TrainStep

PRODUCTS = 9
PUBLISHED_BOOST = {"preset": "hnerv-boost", "psnr_db": 37.75, "fit_seconds": 0.71 * 3600}
"""HNeRV-Boost on Bunny at 720p on one GPU (Boosting-NeRV, arXiv 2402.18152)."""
PUBLISHED_BITS = 8
"""Bits of a weight in the papers' pipeline."""
FIRST_MODES = 5
"""Number of modes that are timed before `fast` is fitted."""
EPOCH_GUESS = 3
"""Epochs that are timed before a fit of as many epochs as there is time for."""


class PlainProducts(TrainStep):
    """Step in fp32 throughout: torch's default takes TF32 for convolutions."""

    TF32 = False

    def step(
        self, batch: Tensor, target: Tensor, mask: Tensor | None, progress: float, *, gain: float
    ) -> Tensor:
        """Take a step."""
        with tf32(allowed=self.TF32):
            return super().step(batch, target, mask, progress, gain=gain)


class FasterProducts(PlainProducts):
    """Step whose matrix products and convolutions use TF32."""

    TF32 = True


@contextlib.contextmanager
def tf32(*, allowed: bool) -> Generator[None]:
    """Allow or forbid TF32 for a while."""
    flags: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = allowed
    try:
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value


PRECISIONS: Mapping[str, type[TrainStep]] = {
    "fp32": PlainProducts,
    "tf32": FasterProducts,
    "bf16": HalfPrecision,
}


class _RecordedCompiled(Recorded, Compiled):
    """Recorded steps of a compiled network."""


MODES: Mapping[str, type[TrainStep]] = {
    "eager": TrainStep,
    "recorded": Recorded,
    "channels last": ChannelsLast,
    "compiled": Compiled,
    "compiled, recorded": _RecordedCompiled,
}


def kind_of_step(precision: str, mode: str, *, compiler: str = "inductor") -> type[TrainStep]:
    """Return a kind of training step, with torch's compiler of a name."""
    made: dict[str, Any] = {}
    if issubclass(MODES[mode], Compiled):
        made["OPTIONS"] = {"backend": compiler}
    return type("Step", (PRECISIONS[precision], MODES[mode]), made)


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
        ("tf32", "eager"),
        ("bf16", "eager"),
        ("tf32", "recorded"),
        ("bf16", "recorded"),
        ("bf16", "compiled, recorded"),
        ("tf32", "compiled"),
        ("bf16", "channels last"),
        ("fp32", "recorded"),
    ),
    compiler="inductor",
    matrix=8192,
    fits=(("S", 0.05), ("L", 0.01)),
    seconds=60,
    papers=(("nerv", "XS"), ("nerv++", "XS")),
    most_epochs=300,
    job_seconds=25,
)
SMOKE = Scale(
    frame_size=(64, 36),
    frames=8,
    steps=(("fast", "XS"),),
    modes=(("bf16", "recorded"), ("tf32", "compiled, recorded")),
    compiler="eager",
    matrix=256,
    fits=(("XS", 0.05),),
    seconds=1,
    papers=(("nerv", "XS"), ("nerv++", "XS")),
    most_epochs=4,
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
        side = self.scale.matrix
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (torch.randn(side, side, device=self._device).to(kind) for _ in range(2))
        seconds: list[float] = []
        with tf32(allowed=precision == "tf32"):
            for _ in range(PRODUCTS):
                self._wait()
                began = time.perf_counter()
                torch.mm(a, b)
                self._wait()
                seconds.append(time.perf_counter() - began)
        return 2 * side**3 / median(seconds) / GIGA

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
                train_step=kind_of_step(precision, mode, compiler=self.scale.compiler),
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
            began = time.perf_counter()
            encoder = make_encoder(
                self._video,
                find_preset("fast"),
                Compression(lambda_=lambda_),
                size=size,
                device=self._device,
                train_step=kind_of_step(precision, mode, compiler=self.scale.compiler),
            )
            epochs = 0
            for progress in encoder.run(Budget(seconds=self.scale.seconds)):
                epochs += progress.is_whole and progress.finished is None
            spent = time.perf_counter() - began
            clip = Clip.parse(bytes(encoder.clip()))
            about = {"preset": "fast", "size": size, "lambda": lambda_, "measurement": "fit"}
            about |= {"precision": precision, "mode": mode, "epochs": epochs}
            yield about | {"fit_seconds": spent} | measure(clip, self._video)

        return Job(f"fit of fast {size}, lambda {lambda_:g}", run, 2 * self.scale.seconds)

    def papers(self) -> Iterator[Point]:
        """Yield what the papers' networks reach in an equal number of epochs, in the time left."""
        compression = Compression(bits=PUBLISHED_BITS)
        paces: list[float] = []
        for name, size in self.scale.papers:
            encoder = make_encoder(
                self._video, find_preset(name), compression, size=size, device=self._device
            )
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
            encoder = make_encoder(
                self._video, find_preset(name), compression, size=size, device=self._device
            )
            point = {"preset": name, "size": size, "epochs": epochs, "measurement": "fit"}
            clip = run_fit(encoder, Budget(epochs=epochs))
            yield point | {"epoch_seconds": pace} | measure(clip, self._video)

    @property
    def _video(self) -> Video:
        return _sample(self.scale.frame_size, self.scale.frames)

    def _fastest(self, preset: str) -> tuple[str, str]:
        """Return the precision and mode of the fastest steps so far."""
        speeds = {key: speed for key, speed in self._speeds.items() if key[0] == preset}
        _, precision, mode = max(speeds, key=speeds.__getitem__)
        return precision, mode

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@cache
def _sample(frame_size: tuple[int, int], frames: int | None) -> Video:
    video = read_video(SAMPLE, size=frame_size)
    return Video(video.frames[:frames], video.rate)
