"""A ladder: clips of the same film in several sizes, which players change between.

Its manifest is a JSON file beside the clips. docs/how-to/ladder.md describes it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Self

from encoder.codec.container import MAX_FILE_BYTES, MAX_SIDE
from encoder.common.atomic_file import replacing
from encoder.common.errors import BitstreamError

if TYPE_CHECKING:
    from encoder.codec.clip import Clip

SUFFIX = ".json"
FORMAT = "nervcast ladder"
VERSION = 1
MAX_RUNGS = 16
MAX_MANIFEST_BYTES = 1 << 16
MAX_NAME = 255


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A clip of a ladder."""

    file: str
    """Name of the file, in the folder of the manifest."""
    bytes: int
    """Size of the file."""
    width: int
    height: int

    @classmethod
    def of(cls, path: Path, clip: "Clip") -> Self:
        """Return the rung of a clip's file."""
        header = clip.header
        size = path.stat().st_size
        return cls(file=path.name, bytes=size, width=header.width, height=header.height)


@dataclass(frozen=True)
class Ladder:
    """The clips of a film, from the smallest file to the largest."""

    rungs: Sequence[Rung]

    def as_dict(self) -> dict[str, object]:
        """Return the content of the manifest."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "rungs": [asdict(rung) for rung in self.rungs],
        }

    def save(self, path: Path) -> None:
        """Write the manifest, completely or not at all; raises OSError, SettingsError."""
        with replacing(path) as part:
            part.write_text(json.dumps(self.as_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a manifest. Raises BitstreamError if it is none, or if it breaks a rule."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise BitstreamError(f"cannot read {path}: {error.strerror}") from None
        if len(data) > MAX_MANIFEST_BYTES:
            raise BitstreamError(f"{path} has over {MAX_MANIFEST_BYTES} bytes")
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            raise BitstreamError(f"{path} is no manifest of a ladder: it is not JSON") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise BitstreamError(f"{path} is no manifest of a ladder")
        version: object = found.get("version")
        if type(version) is bool or version != VERSION:
            raise BitstreamError(f"{path} is of another version than {VERSION}")
        entries = found.get("rungs")
        if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_RUNGS:
            raise BitstreamError(f"{path} must have 1 to {MAX_RUNGS} rungs")
        rungs = sorted((_rung(entry, path) for entry in entries), key=lambda rung: rung.bytes)
        if len({rung.file for rung in rungs}) < len(rungs):
            raise BitstreamError(f"{path} names a file twice")
        return cls(tuple(rungs))


def _rung(entry: object, path: Path) -> Rung:
    if not isinstance(entry, dict):
        raise BitstreamError(f"{path} has a rung that is no object")
    name = entry.get("file")
    if not isinstance(name, str) or not _is_name(name):
        raise BitstreamError(f"{path} has a rung without a file of its own folder")
    limits = {"bytes": MAX_FILE_BYTES, "width": MAX_SIDE, "height": MAX_SIDE}
    numbers: dict[str, int] = {}
    for key, most in limits.items():
        value = entry.get(key)
        if type(value) is not int or not 0 < value <= most:
            raise BitstreamError(f"{path}: {key} of {name} must be in 1..{most}")
        numbers[key] = value
    return Rung(file=name, **numbers)


def _is_name(name: str) -> bool:
    """Return whether a name is that of a clip in the same folder."""
    is_plain = name.isprintable() and "\\" not in name and PurePosixPath(name).name == name
    return is_plain and name.endswith(".nerv") and len(name.encode()) <= MAX_NAME


def check_alike(clips: "Sequence[tuple[str, Clip]]") -> None:
    """Raise BitstreamError unless named clips have the same frames and segments.

    A damaged clip lacks segments, and may do so.
    """
    (first, one), *others = clips
    for name, other in others:
        alike = (one.header.frames, one.header.rate) == (other.header.frames, other.header.rate)
        is_whole = not (one.damage or other.damage)
        if not alike or (is_whole and _starts(one) != _starts(other)):
            raise BitstreamError(f"{name} has other frames or segments than {first}")


def _starts(clip: "Clip") -> list[int]:
    return [segment.start for segment in clip.segments]
