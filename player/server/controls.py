"""What viewers wish for: controls of a timeline, all checked before any is carried out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Self

from player.playback.playout import MAX_SPEED, MIN_SPEED, Playout

SPEED_DENOMINATOR = 1000
"""Speeds are taken this exactly."""
MAX_STEP = 1_000_000
"""Most frames of a step."""


class ControlError(Exception):
    """A wish that cannot be carried out."""


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What to do with a timeline; None leaves as it is."""

    item: int | None = None
    """Clip of the playlist, by its index."""
    frame: float | None = None
    playing: bool | None = None
    loop: bool | None = None
    speed: Fraction | None = None
    step: int | None = None
    """Frames to go on, or back, and pause."""

    @classmethod
    def parse(cls, body: Mapping[str, object], stream: Playout) -> Self:
        """Read the values of a JSON object; raises WishError for unknown keys and values out of range."""
        known = [field.name for field in fields(cls)]
        for key in body:
            if key not in known:
                raise ControlError(f"unknown key {key!r}, known are: {', '.join(known)}")
        item = _item(body["item"], stream) if "item" in body else None
        clip = (stream.item if item is None else stream.items[item]).clip
        return cls(
            item=item,
            frame=_number(body, "frame", 0, clip.end - 1),
            playing=_boolean(body, "playing"),
            loop=_boolean(body, "loop"),
            speed=_speed(body),
            step=_step(body),
        )

    def carry_out(self, stream: Playout) -> None:
        """Do what is wished for."""
        if self.item is not None:
            stream.play_item(self.item)
        if self.frame is not None:
            stream.seek(self.frame)
        if self.loop is not None:
            stream.loop = self.loop
        if self.speed is not None:
            stream.set_speed(self.speed)
        if self.playing is not None:
            stream.playing = self.playing
        if self.step is not None:
            stream.step(self.step)


def object_of(body: object) -> dict[str, object]:
    """Return what was JSON as an object; raises WishError if it is none."""
    if not isinstance(body, dict):
        raise ControlError("the body is not a JSON object")
    return {str(key): value for key, value in body.items()}


def _boolean(body: Mapping[str, object], key: str) -> bool | None:
    value = body.get(key)
    if key in body and not isinstance(value, bool):
        raise ControlError(f"{key} must be true or false")
    return value if isinstance(value, bool) else None


def _number(body: Mapping[str, object], key: str, least: float, most: float) -> float | None:
    if key not in body:
        return None
    value = body[key]
    if (
        isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most
    ):  # NaN is nowhere
        raise ControlError(f"{key} must be a number in {least:g}..{most:g}")
    return value


def _speed(body: Mapping[str, object]) -> Fraction | None:
    speed = _number(body, "speed", float(MIN_SPEED), float(MAX_SPEED))
    return None if speed is None else Fraction(speed).limit_denominator(SPEED_DENOMINATOR)


def _step(body: Mapping[str, object]) -> int | None:
    step = _number(body, "step", -MAX_STEP, MAX_STEP)
    if step is not None and not math.floor(step) == step:
        raise ControlError("step must be a whole number of frames")
    return None if step is None else int(step)


def _item(name: object, stream: Playout) -> int:
    names = [item.name for item in stream.items]
    if not isinstance(name, str) or name not in names:
        raise ControlError("item must be one of the playlist's clips")
    return names.index(name)


def report_of(body: Mapping[str, object]) -> dict[str, float | None]:
    """Return what a viewer's page measured, of what is known; raises WishError."""
    report: dict[str, float | None] = {}
    for key in REPORTED:
        value = body.get(key)
        report[key] = None if value is None else _number(body, key, -MAX_REPORTED, MAX_REPORTED)
    return report


REPORTED = ("received_fps", "presented_fps", "freezes", "latency_ms")
"""What a page tells of itself."""
MAX_REPORTED = 1e9
