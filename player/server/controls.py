"""Controls of a timeline as JSON: all of them are checked before any is carried out."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Self

from player.playback.playout import MAX_SPEED, MIN_SPEED, Playout

SPEED_DENOMINATOR = 1000
"""Largest denominator of a speed; others are rounded."""
MAX_STEP = 1_000_000
"""Most frames of a step."""
REPORTED = ("received_fps", "presented_fps", "freezes", "latency_ms")
"""Measurements that pages report."""
MAX_REPORTED = 1e9
"""Largest absolute value of a measurement."""


class ControlError(Exception):
    """A control that cannot be carried out."""


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Changes of a timeline; None leaves a property as it is. The names are keys of the JSON."""

    item: int | None = None
    """Index of a clip of the playlist; the JSON has its name."""
    frame: float | None = None
    playing: bool | None = None
    loop: bool | None = None
    speed: Fraction | None = None
    step: int | None = None
    """Number of frames to go forward, or back if negative, and pause."""

    @classmethod
    def parse(cls, body: Mapping[str, object], playout: Playout) -> Self:
        """Read the values of a JSON object.

        Raises ControlError for unknown keys and values out of range.
        """
        known = [field.name for field in fields(cls)]
        for key in body:
            if key not in known:
                raise ControlError(f"unknown key {key!r}, known are: {', '.join(known)}")
        index = _source_index(body["item"], playout) if "item" in body else None
        source = playout.source if index is None else playout.sources[index]
        return cls(
            item=index,
            frame=_number(body, "frame", 0, source.clip.end - 1),
            playing=_boolean(body, "playing"),
            loop=_boolean(body, "loop"),
            speed=_speed(body),
            step=_step(body),
        )

    def carry_out(self, playout: Playout, others: Collection[Playout] = ()) -> None:
        """Apply the controls to a playout, and to others with the same timeline."""
        if self.item is not None:
            playout.play_source(self.item)
        if self.frame is not None:
            playout.seek(self.frame)
        if self.loop is not None:
            playout.loop = self.loop
        if self.speed is not None:
            playout.set_speed(self.speed)
        if self.playing is not None:
            playout.playing = self.playing
        if self.step is not None:
            playout.step(self.step)
        for other in others:
            replace(self, step=None).carry_out(other)
            if self.step is not None or self.playing is False:
                # Paused, all show the same picture.
                other.playing = False
                other.seek(playout.frame)


def object_of(body: object) -> dict[str, object]:
    """Return parsed JSON as an object; raises ControlError for any other value."""
    if not isinstance(body, dict):
        raise ControlError("the body is not a JSON object")
    return {str(key): value for key, value in body.items()}


def report_of(body: Mapping[str, object]) -> dict[str, float | None]:
    """Return the known measurements of a viewer's page; raises ControlError."""
    report: dict[str, float | None] = {}
    for key in REPORTED:
        value = body.get(key)
        report[key] = None if value is None else _number(body, key, -MAX_REPORTED, MAX_REPORTED)
    return report


def rung_of(value: object, rungs: int) -> int | None:
    """Return a JSON value as the number of a rung, or None; raises ControlError."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < rungs:
        return value
    raise ControlError(f"rung must be null, or a whole number in 0..{rungs - 1}")


def _boolean(body: Mapping[str, object], key: str) -> bool | None:
    value = body.get(key)
    if key in body and not isinstance(value, bool):
        raise ControlError(f"{key} must be true or false")
    return value if isinstance(value, bool) else None


def _number(body: Mapping[str, object], key: str, least: float, most: float) -> float | None:
    if key not in body:
        return None
    value = body[key]
    if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise ControlError(f"{key} must be a number in {least:g}..{most:g}")  # NaN is in no range


def _speed(body: Mapping[str, object]) -> Fraction | None:
    speed = _number(body, "speed", float(MIN_SPEED), float(MAX_SPEED))
    return None if speed is None else Fraction(speed).limit_denominator(SPEED_DENOMINATOR)


def _step(body: Mapping[str, object]) -> int | None:
    step = _number(body, "step", -MAX_STEP, MAX_STEP)
    if step is not None and math.floor(step) != step:
        raise ControlError("step must be a whole number of frames")
    return None if step is None else int(step)


def _source_index(name: object, playout: Playout) -> int:
    names = [source.name for source in playout.sources]
    if not isinstance(name, str) or name not in names:
        raise ControlError("item must be one of the playlist's clips")
    return names.index(name)
