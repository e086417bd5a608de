"""Settings for the sound of a source."""

from dataclasses import dataclass

from encoder.common.errors import SettingsError
from encoder.common.quantities import parse_quantity

NONE = "none"
COPY = "copy"
RATES = range(6_000, 256_001)
"""Bits per second that are worth a choice."""


@dataclass(frozen=True)
class SoundChoice:
    """A way to take over a source's sound."""

    rate: int | None
    """Bits per second; None takes the default, or the source's own packets if they are Opus."""
    copies: bool
    """Whether the source's own packets are wanted, and nothing else."""
    track: int | None
    """Number of the audio track, from 0; None picks one."""


def parse_choice(audio: str | int | None, track: int | None) -> SoundChoice | None:
    """Return the choice that settings make; None for no sound. Raises SettingsError."""
    if track is not None and track < 0:
        raise SettingsError(f"audio tracks count from 0, got {track}")
    if audio is None or audio == COPY:
        return SoundChoice(None, audio == COPY, track)
    if audio == NONE:
        return None
    rate = parse_quantity(audio, "")
    if not rate or round(rate) not in RATES:
        raise SettingsError(f"sound is none, copy, or 6k to 256k bits per second, got {audio!r}")
    return SoundChoice(round(rate), copies=False, track=track)
