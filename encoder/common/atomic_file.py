"""Files that are written whole or not at all, and the clips of the current folder."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

from encoder.common.errors import SettingsError


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a temporary name beside a file to write to; it takes the file's place at the end, or vanishes on an error."""
    writable(path)
    part = temporary(path)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def writable(path: Path, *others: Path | None) -> None:
    """Raise SettingsError or OSError for a file that cannot be written, or is one of some others: now, not at the end."""
    if any(other is not None and other.resolve() == path.resolve() for other in others):
        raise SettingsError(
            f"output {path} would take the place of what is read or written besides"
        )
    if path.is_dir():
        raise SettingsError(f"output {path} is a folder")
    if not path.parent.is_dir():
        raise SettingsError(f"no such folder: {path.parent}")
    part = temporary(path)
    part.touch()
    part.unlink()


def temporary(path: Path) -> Path:
    """Return a name beside a file to write to, before it takes the file's place."""
    return path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")


def newest_clip() -> Path:
    """Return the `.nerv` file of the current folder that was written last; raises SettingsError if there is none."""
    clips = clips_here()
    if not clips:
        raise SettingsError(
            "no .nerv file in the current folder: name one, or make one with python -m encoder fit"
        )
    return max(clips, key=lambda path: path.stat().st_mtime)


def clips_here() -> list[Path]:
    """Return the `.nerv` files of the current folder by name, without those that are being written."""
    return sorted(path for path in Path().glob("*.nerv") if not path.name.startswith("."))
