"""When a fit ends."""

from dataclasses import dataclass
from math import isfinite

from encoder.codec.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Limit:
    """When a fit ends: after a time or a number of epochs, whichever is given."""

    seconds: float | None = None
    """Wall-clock seconds."""
    epochs: int | None = None
    """Passes over the frames; with a seed, the result is reproducible."""

    def __post_init__(self) -> None:
        """Raise SettingsError unless just one limit is given, and is positive."""
        if (self.seconds is None) == (self.epochs is None):
            raise SettingsError("give either a budget or a number of epochs")
        if self.seconds is not None and not (isfinite(self.seconds) and self.seconds > 0):
            raise SettingsError(f"the budget must be over 0 seconds, got {self.seconds:g}")
        if self.epochs is not None and self.epochs < 1:
            raise SettingsError(f"the number of epochs must be at least 1, got {self.epochs}")
