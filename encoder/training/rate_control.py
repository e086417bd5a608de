"""Rate control of lambda, the weight of a bit in the loss.

It follows from the fit's length alone, or is steered to a size or to a quality.
"""

from collections.abc import Callable
from math import log

import torch
from torch import Tensor

from encoder.training.device import upload
from encoder.training.recipe import Steering
from encoder.training.state import Stateful

DEFAULT = Steering()
SHORT_POWER = 0.6
"""Exponent of the factor by which bits weigh more in a fit that is short of steps."""
MAX_SHORT_FACTOR = 4.0
"""Largest such factor."""
SCALINGS = 4
"""Number of times that the quantization steps are scaled to reach a size."""
SLOPE = 0.7
"""Assumed fall of log(size) as the logarithms of the steps rise by 1."""
MIN_SLOPE = 0.1
"""Lower bound of the measured slope."""
MAX_SCALING = 0.7
"""Largest change of the steps' logarithms at once."""
QUALITY = Steering(
    start=0.5,
    arrive=0.85,
    proportional=2.0,
    integral=60.0,
    firm_integral=300.0,
    max_change=0.5,
    max_rise=log(100),
)
"""Gains of the controller that steers to a quality, by the logarithm of the squared error.

Before `start`, the quality rises by itself, and tells little of the end.
"""
LAST_RISE_DB = 0.2
"""Rise of the quality at the end of a fit, when the weight changes little any more."""
MAX_FALL = log(1000)
"""Largest fall of log(lambda) for a quality that is out of reach."""
MEMORY = 0.05
"""Share of the latest step in the mean logarithm of the squared errors: frames differ."""
ROUNDING_ERROR = 1 / 12 / 255**2
"""Mean squared error of rounding to 8 bits."""


class RateControl(Stateful):
    """Weight of the bits in the loss."""

    STATE = (
        "_calibrations",
        "_coded_share",
        "_first_log_weight",
        "_log_weight",
        "_began",
        "_latest",
        "_missing",
        "_log_error",
    )

    def __init__(
        self,
        *,
        lambda_: float,
        pixels: int,
        target_bits: float | None = None,
        target_db: float | None = None,
        steering: Steering = DEFAULT,
    ) -> None:
        """Take the weight of one bit per pixel and the number of pixels.

        `target_bits` is the wanted size of the tensors, which `steering` reaches. `target_db` is
        the wanted PSNR of the frames. Without either, `expect` alone changes the weight.
        """
        self.target_bits = target_bits
        self.target_db = target_db
        self._steering = steering if target_db is None else QUALITY
        self._calibrations = list(steering.calibrate_at) if target_bits else []
        self._coded_share = 1.0
        self._first_log_weight = log(lambda_ / pixels)
        self._log_weight = torch.tensor(self._first_log_weight)
        self._began: tuple[float, Tensor] | None = None
        self._latest = 0.0
        self._missing = torch.tensor(0.0)
        self._log_error: Tensor | None = None
        """Mean logarithm of the latest steps' squared errors."""

    @property
    def is_steered(self) -> bool:
        """Whether the weight follows a target."""
        return self.target_bits is not None or self.target_db is not None

    def fixes_steps(self, *, is_last: bool) -> bool:
        """Return whether the target alone decides on the quantization steps, not their cost.

        Before a quality is steered, its weight is that of any fit. The last choice is later.
        """
        return self.target_bits is not None or (is_last and self.target_db is not None)

    def expect(self, full_steps: int, steps: int, share: float) -> None:
        """Adapt a weight without a target to a fit of fewer steps than `full_steps`.

        `steps` have been taken in a share of the fit, 0..1. In a short fit, many bits go into
        latents that have not settled, and buy little quality. This is done as a phase begins,
        since recorded steps keep the weight that they have seen.
        """
        if steps and not self.is_steered:
            shortness = max(full_steps * share / steps, 1.0)
            factor = min(shortness**SHORT_POWER, MAX_SHORT_FACTOR)
            self._log_weight = torch.tensor(self._first_log_weight + log(factor))

    def observe(self, error: Tensor) -> None:
        """Take the mean squared error of a step's frames."""
        if self.target_db is not None:
            now = (error.detach() + ROUNDING_ERROR).log()
            before = now if self._log_error is None else self._log_error.to(now.device)
            self._log_error = before.lerp(now, MEMORY)

    def weight(self, bits: Tensor, progress: float) -> Tensor:
        """Return the weight of a bit, for the current rate in bits and the fit's progress, 0..1."""
        if self.target_bits is not None and progress >= self._steering.start:
            self._steer(bits.log(), progress, log(self.target_bits / self._coded_share))
        is_late = progress >= self._steering.start
        if self.target_db is not None and is_late and self._log_error is not None:
            # As a larger size does, a smaller error asks for a larger weight.
            goal = (self.target_db - LAST_RISE_DB) * log(10) / 10
            self._steer(-self._log_error, progress, goal)
            self._log_weight = self._log_weight.clamp(min=self._first_log_weight - MAX_FALL)
        if self._log_weight.device != bits.device:
            self._log_weight = upload(self._log_weight, bits.device)
        return self._log_weight.exp()

    @property
    def bit_weight(self) -> float:
        """Present weight of a bit."""
        return self._log_weight.exp().item()

    def wants_calibration(self, progress: float) -> bool:
        """Return whether to run the coder now, which takes as long as many steps."""
        return bool(self._calibrations) and progress >= self._calibrations[0]

    def calibrate(self, estimate: Tensor, coded: float) -> None:
        """Set the ratio of the coder's size to the estimated rate; both are in bits."""
        self._calibrations.pop(0)
        self._coded_share = coded / estimate.item()

    @torch.no_grad()
    def scale(self, log_steps: Tensor, coded_bits: Callable[[], float]) -> None:
        """Change the logarithms of all steps to reach the target size, which steering misses."""
        if self.target_bits is None:
            return
        slope = SLOPE
        missing = log(coded_bits() / self.target_bits)
        for _ in range(SCALINGS):
            change = min(max(missing / slope, -MAX_SCALING), MAX_SCALING)
            log_steps.add_(change)
            before = missing
            missing = log(coded_bits() / self.target_bits)
            slope = max((before - missing) / change if change else SLOPE, MIN_SLOPE)

    def _steer(self, now: Tensor, progress: float, goal: float) -> None:
        gains = self._steering
        if self._began is None:
            self._began = (progress, now)
            self._latest = progress
        start, first = self._began
        share = min(1.0, (progress - start) / max(gains.arrive - start, 1e-9))
        missing = now - (first + (goal - first) * share)
        integral = gains.integral if progress < gains.firm_from else gains.firm_integral
        change = (
            gains.proportional * (missing - self._missing)
            + integral * (progress - self._latest) * missing
        )
        self._log_weight = self._log_weight + change.clamp(-gains.max_change, gains.max_change)
        if progress < gains.arrive:
            self._log_weight = self._log_weight.clamp(max=self._first_log_weight + gains.max_rise)
        self._latest = progress
        self._missing = missing
