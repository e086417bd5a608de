"""Detection of fits whose quality collapses, so that they can be rolled back."""

from math import inf, isfinite

from encoder.training.state import Stateful

COLLAPSE_DB = 6.0
"""Largest fall of the quality below the expected one."""
CHANGE_DB = 15.0
"""Largest fall when pruning, noise or rounding starts."""
EASE_DB = 0.5
"""Fall of the expected quality per epoch: steering to a size costs quality slowly."""
ENOUGH_DB = 40.0
"""Quality above which changes mean little: black frames jump by tens of decibels."""
LOWER = 0.5
"""Factor of the learning rate after a collapse."""
MAX_COLLAPSES = 4
"""Largest number of collapses before the quality recovers."""


class DivergenceMonitor(Stateful):
    """Detects collapses of the quality."""

    STATE = ("reference_db", "_fell_at", "collapses", "gain")

    def __init__(self) -> None:
        self.reference_db = -inf
        """Expected quality."""
        self._fell_at = -1
        """Number of the step of the latest collapse."""
        self.collapses = 0
        """Number of collapses since the quality last recovered."""
        self.gain = 1.0
        """Factor of the learning rate."""

    def expect(self, reference_db: float) -> None:
        """Set the expected quality to that of the state the fit rolls back to."""
        self.reference_db = reference_db

    def collapsed(self, psnr_db: float, step: int, *, is_changed: bool = False) -> bool:
        """Return whether the quality is NaN or far too low; lower the learning rate if so.

        `step` is the number of the last step of the epochs that are judged. `is_changed` tells
        whether a phase of quantization or pruning has just begun.
        """
        shown = min(psnr_db, ENOUGH_DB)
        tolerance = CHANGE_DB if is_changed else COLLAPSE_DB
        if isfinite(psnr_db) and shown >= self.reference_db - tolerance:
            if shown >= self.reference_db and step > self._fell_at:
                self.collapses = 0
            self.reference_db = shown if is_changed else max(shown, self.reference_db - EASE_DB)
            return False
        self._fell_at = step
        self.collapses += 1
        self.gain *= LOWER
        return True

    @property
    def is_hopeless(self) -> bool:
        """Whether lower learning rates do not help."""
        return self.collapses > MAX_COLLAPSES
