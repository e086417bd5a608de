"""Notice when a fit collapses."""

from math import inf, isfinite

COLLAPSE_DB = 6.0
"""How far an epoch's quality may fall below what it was."""
CHANGE_DB = 15.0
"""How far it may fall when weights begin to be pruned, or to bear noise, or to be rounded."""
EASE_DB = 0.5
"""By how much the quality may fall from epoch to epoch: a size that is wanted comes slowly."""
ENOUGH_DB = 40.0
"""Quality above which changes mean little: of black frames it jumps by tens of decibels."""
LOWER, MAX_COLLAPSES = 0.5, 4
"""What the learning rate is multiplied by after a collapse, and how many there may be until the quality is back."""


class Guard:
    """Looks at the quality of each epoch."""

    def __init__(self) -> None:
        self.reference_db = -inf
        """What the quality was."""
        self._fell_at = -1
        """Number of the step at which it collapsed last."""
        self.collapses = 0
        """Since the quality was as it should be beyond that step."""
        self.gain = 1.0
        """What the learning rate is to be multiplied by."""

    def state(self) -> list[float]:
        """Return what it takes to go on from here."""
        return [self.reference_db, float(self._fell_at), float(self.collapses), self.gain]

    def restore(self, state: list[float]) -> None:
        """Go on from where another was."""
        self.reference_db, self.gain = state[0], state[3]
        self._fell_at, self.collapses = int(state[1]), int(state[2])

    def go_back(self, state: list[float]) -> None:
        """Expect no more than was expected where the fit goes on from now, which may be many steps before the collapse."""
        self.reference_db = state[0]

    def collapsed(self, psnr_db: float, step: int, *, is_changed: bool = False) -> bool:
        """Tell whether an epoch is far worse than it should be, or no number, and lower the learning rate if so.

        Takes the number of the step that it ends with, and whether the network is quantised or pruned otherwise than before.
        """
        shown = min(psnr_db, ENOUGH_DB)
        if isfinite(psnr_db) and shown >= self.reference_db - (CHANGE_DB if is_changed else COLLAPSE_DB):
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
