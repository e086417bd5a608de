"""What a bit weighs against the distortion: a constant, or steered so that a size comes out."""

import copy
from collections.abc import Callable, Mapping
from math import log
from typing import Any

import torch
from torch import Tensor

STEER_FROM = 0.1
ARRIVE_AT = 0.5
"""Shares of the fit between which the size goes from where it is to what is wanted."""
PROPORTIONAL = 4.0
INTEGRAL = 60.0
"""Change of the weight's logarithm for each unit of the size's logarithm that is missing; at once, and during a whole fit."""
FIRM_FROM = 0.85
FIRM_INTEGRAL = 1200.0
"""Share of the fit after which there is little time left to reach a size, at low learning rates; and the integral gain then."""
MAX_CHANGE = 0.5
"""Largest change of the weight's logarithm at once."""
MAX_RISE = log(4)
"""How far the weight's logarithm may rise on the way: a short fit would pay in quality for what longer steps save later."""
CALIBRATE_AT = (0.4, 0.6, 0.7, 0.8, 0.9, 0.94)
"""Shares of the fit at which the estimate of the bits is compared with what the coder makes of them."""
SCALINGS = 4
SLOPE = 0.7
MIN_SLOPE = 0.1
"""How often the steps are scaled so that a size comes out; the fall of its logarithm as theirs rises, at first and at least."""
MAX_SCALING = 0.7
"""Largest change of the steps' logarithms at once."""


class RateControl:
    """Weight of the bits in the loss."""

    def __init__(
        self, *, rate_weight: float, pixels: int, target_bits: float | None = None
    ) -> None:
        """Take the weight of one bit per pixel, the number of pixels, and the bits that are wanted of the tensors, if any."""
        self.target_bits = target_bits
        self._calibrations = list(CALIBRATE_AT) if target_bits else []
        self._coded_share = 1.0
        self._first_log_weight = log(rate_weight / pixels)
        self._log_weight = torch.tensor(self._first_log_weight)
        self._began: tuple[float, Tensor] | None = None
        self._latest = 0.0
        self._missing = torch.tensor(0.0)

    def state(self) -> dict[str, Any]:
        """Return what it takes to go on from here."""
        return {name: value for name, value in vars(self).items() if name != "target_bits"}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where another was."""
        vars(self).update(copy.deepcopy(dict(state)))

    def weight(self, bits: Tensor, progress: float) -> Tensor:
        """Return the weight of a bit, given how many the tensors take now, and the share of the fit that is done, 0..1."""
        if self.target_bits is not None and progress >= STEER_FROM:
            self._steer(bits.log(), progress, log(self.target_bits / self._coded_share))
        return self._log_weight.exp().to(bits.device)

    def wants_calibration(self, progress: float) -> bool:
        """Whether the coder shall be asked now, which costs the time of many steps."""
        return bool(self._calibrations) and progress >= self._calibrations[0]

    def calibrate(self, estimate: Tensor, coded: float) -> None:
        """Take an estimate of the bits, and how many they were."""
        self._calibrations.pop(0)
        self._coded_share = coded / estimate.item()

    @torch.no_grad()
    def scale(self, log_steps: Tensor, coded_bits: Callable[[], float]) -> None:
        """Change all steps' logarithms so that the size that is wanted comes out, which steering alone misses by a little."""
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
        if self._began is None:
            self._began = (progress, now)
            self._latest = progress
        start, first = self._began
        share = min(1.0, (progress - start) / max(ARRIVE_AT - start, 1e-9))
        missing = now - (first + (goal - first) * share)
        integral = INTEGRAL if progress < FIRM_FROM else FIRM_INTEGRAL
        change = (
            PROPORTIONAL * (missing - self._missing)
            + integral * (progress - self._latest) * missing
        )
        self._log_weight = self._log_weight + change.clamp(-MAX_CHANGE, MAX_CHANGE)
        if progress < ARRIVE_AT:
            self._log_weight = self._log_weight.clamp(max=self._first_log_weight + MAX_RISE)
        self._latest = progress
        self._missing = missing
