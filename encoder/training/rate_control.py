"""Rate control of lambda, the weight of a bit in the loss: constant, or steered to a size."""

from collections.abc import Callable
from math import log

import torch
from torch import Tensor

from encoder.training.device import upload
from encoder.training.recipe import Steering
from encoder.training.state import Stateful

DEFAULT = Steering()
SCALINGS = 4
"""Number of times that the quantization steps are scaled to reach a size."""
SLOPE = 0.7
"""Assumed fall of log(size) as the logarithms of the steps rise by 1."""
MIN_SLOPE = 0.1
"""Lower bound of the measured slope."""
MAX_SCALING = 0.7
"""Largest change of the steps' logarithms at once."""


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
    )

    def __init__(
        self,
        *,
        lambda_: float,
        pixels: int,
        target_bits: float | None = None,
        steering: Steering = DEFAULT,
    ) -> None:
        """Take the weight of one bit per pixel and the number of pixels.

        `target_bits` is the wanted size of the tensors; None leaves the weight constant.
        """
        self.target_bits = target_bits
        self._steering = steering
        self._calibrations = list(steering.calibrate_at) if target_bits else []
        self._coded_share = 1.0
        self._first_log_weight = log(lambda_ / pixels)
        self._log_weight = torch.tensor(self._first_log_weight)
        self._began: tuple[float, Tensor] | None = None
        self._latest = 0.0
        self._missing = torch.tensor(0.0)

    def weight(self, bits: Tensor, progress: float) -> Tensor:
        """Return the weight of a bit, for the current rate in bits and the fit's progress, 0..1."""
        if self.target_bits is not None and progress >= self._steering.start:
            self._steer(bits.log(), progress, log(self.target_bits / self._coded_share))
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
