"""Speed of a fit, and its share of the machine's peak arithmetic."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from encoder.common.memory import keep_freed_memory
from encoder.compare.step_profile import Part, profile_steps
from encoder.config import Budget, PrecisionName, SizeName
from encoder.kernels import compiled
from encoder.models.base import VideoShape
from encoder.presets import Preset, build
from encoder.training.rate_control import RateControl
from encoder.training.recorded_step import kind_of_step
from encoder.training.step import TrainStep
from encoder.training.trainer import Trainer, frames_per_step

STEPS = 12
"""Number of steps of a timed epoch."""
LONG_EPOCHS = 40
EPOCHS = 6
"""Number of epochs; the first also allocates memory and is not timed."""
FROM = 0.5
"""Progress of the schedule at the first step: with the rate term, and with noise on the weights."""
MATRIX = 2048
"""Rows and columns of the matrices whose product measures the machine's peak."""
SMALL_MATRIX = 256
PRODUCTS = 9
GIGA = 1e9
MARGIN = (2, 2)
"""Margin of the canvas under a camera, in pixels."""


def _backward_flop(
    given: Sequence[int], _: object, weights: Sequence[int], *settings: Any, **__: object
) -> int:
    """Return the operations of a convolution's gradients, given its output's and weights' shapes.

    Those of the input and of the weights have as many as the convolution, whatever its groups.
    """
    wanted = settings[7]  # input, weights, bias
    return sum(wanted[:2]) * 2 * given[0] * prod(given[2:]) * prod(weights)


GRADIENTS = {torch.ops.aten.convolution_backward: _backward_flop}
"""Arithmetic of gradients. torch's own count of those of depthwise convolutions is far too high."""


@dataclass(frozen=True, kw_only=True)
class FitSpeed:
    """Speed of a fit on a machine."""

    steps_per_second: float
    frames_per_second: float
    gflop_per_step: float
    """Operations of convolutions and matrix products, forward and backward, in billions."""
    gflops: float
    """Billions of operations per second."""
    peak_gflops: float
    """Billions of operations per second in a product of two large fp32 matrices."""
    share_of_peak: float


def bench(
    preset: Preset,
    size: SizeName,
    *,
    height: int,
    width: int,
    device: torch.device,
    precision: PrecisionName = "auto",
    train_step: Callable[..., TrainStep] | None = None,
) -> FitSpeed:
    """Time the steps of a preset's fit to frames of noise, with another kind of step if given."""
    keep_freed_memory()  # as fits do
    kind = train_step or kind_of_step(preset.recipe, device)
    frames = preset.group_frames or preset.recipe.batch * STEPS
    pictures = torch.randint(256, (frames, 3, height, width), dtype=torch.uint8, device=device)
    fit = _fit(preset, size, pictures, precision)
    steps = -(-frames // frames_per_step(preset.recipe, height, width))
    seconds: list[float] = []
    began = time.perf_counter()
    for epoch in fit(EPOCHS, kind).epochs(pictures):
        if epoch.is_whole:
            _wait(device)
            seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
    # The counter knows torch's operators alone.
    with compiled.off(), FlopCounterMode(display=False, custom_mapping=GRADIENTS) as counter:
        list(fit(1, TrainStep).epochs(pictures))
    per_second = steps / median(seconds[1:])
    gflop = counter.get_total_flops() / steps / GIGA
    # A CPU without instructions for bf16 would take minutes for large matrices.
    is_slow = device.type == "cpu" and precision == "bf16"
    side = SMALL_MATRIX if is_slow else MATRIX
    peak = peak_gflops(device, side=side, precision=precision)
    return FitSpeed(
        steps_per_second=per_second,
        frames_per_second=per_second * frames / steps,
        gflop_per_step=gflop,
        gflops=gflop * per_second,
        peak_gflops=peak,
        share_of_peak=gflop * per_second / peak,
    )


def profiled(
    preset: Preset, size: SizeName, *, height: int, width: int, precision: PrecisionName = "auto"
) -> list[Part]:
    """Return the parts of a step of a preset's fit on a CPU, see `profile_steps`."""
    device = torch.device("cpu")
    speed = bench(preset, size, height=height, width=width, device=device, precision=precision)
    frames = preset.group_frames or preset.recipe.batch * STEPS
    pictures = torch.randint(256, (frames, 3, height, width), dtype=torch.uint8)
    # So many epochs that no phase begins in those that are profiled, with its search for steps.
    fit = _fit(preset, size, pictures, precision)
    epochs = fit(LONG_EPOCHS, TrainStep).epochs(pictures)
    return profile_steps(
        epochs.__next__,
        steps=-(-frames // frames_per_step(preset.recipe, height, width)),
        gflop=speed.gflop_per_step,
        peak=speed.peak_gflops,
    )


def _fit(
    preset: Preset, size: SizeName, pictures: Tensor, precision: PrecisionName
) -> Callable[[int, Callable[..., TrainStep]], Trainer]:
    """Return a maker of trainers for pictures (T, 3, H, W), by epochs and kind of step."""
    frames, _, height, width = pictures.shape
    margin = MARGIN if preset.camera else None
    shape = VideoShape(height=height, width=width, frames=frames, margin=margin)

    def fit(epochs: int, make_step: Callable[..., TrainStep]) -> Trainer:
        network = build(preset, shape, size).to(pictures.device)
        network.prepare(lambda: pictures, None)
        encoder = network.frame_encoder()
        if encoder is not None:
            encoder = encoder.to(pictures.device)
        rate = None
        if preset.recipe.lambda_:
            rate = RateControl(lambda_=preset.recipe.lambda_, pixels=frames * height * width)
        training = make_step(
            network, preset.recipe, frame_encoder=encoder, rate=rate, precision=precision
        )
        return Trainer(training, Budget(epochs=epochs), start=FROM)

    return fit


def peak_gflops(
    device: torch.device, *, side: int = MATRIX, precision: PrecisionName = "auto"
) -> float:
    """Return the billions of operations per second in a product of large matrices.

    Their arithmetic is that of a fit's convolutions, so that both are comparable.
    """
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, precision != "fp32"
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    try:
        a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
        seconds = median(_timed(lambda: a @ b, device) for _ in range(PRODUCTS))
    finally:
        matmul.allow_tf32 = before
    return 2 * side**3 / seconds / GIGA


def _timed(run: Callable[[], Tensor], device: torch.device) -> float:
    began = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
