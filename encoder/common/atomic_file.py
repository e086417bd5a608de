"""Files that are written completely or not at all, and the clips of the current folder."""

import contextlib
import os
from collections.abc import Generator
from glob import escape
from pathlib import Path

from encoder.common.errors import SettingsError


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a temporary path beside a file; at the end it replaces the file.

    On an error it is deleted instead. Raises the errors of `writable`.
    """
    writable(path)
    part = temporary(path)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def writable(path: Path, *others: Path | None) -> None:
    """Raise SettingsError or OSError if a file cannot be written, or is one of `others`.

    With this check, a long job fails at its start instead of its end.
    """
    if any(other is not None and other.resolve() == path.resolve() for other in others):
        raise SettingsError(f"output {path} is also another file of this command")
    if path.is_dir():
        raise SettingsError(f"output {path} is a folder")
    if not path.parent.is_dir():
        raise SettingsError(f"no such folder: {path.parent}")
    part = temporary(path)
    part.touch()
    part.unlink(missing_ok=True)


def temporary(path: Path) -> Path:
    """Return a temporary path beside a file, whose finished version replaces it."""
    return path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")


def remove_leftovers(path: Path) -> None:
    """Remove temporary files beside a file that processes have left which were killed."""
    for part in path.parent.glob(f".{escape(path.stem)}.*.part{escape(path.suffix)}"):
        number = part.name.removeprefix(f".{path.stem}.").split(".")[0]
        if number.isdecimal() and not _is_running(int(number)):
            part.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


def newest_clip() -> Path:
    """Return the `.nerv` file of the current folder that was written last.

    Raises SettingsError if there is none.
    """
    clips = clips_here()
    if not clips:
        raise SettingsError(
            "no .nerv file in the current folder: name one, or make one with python -m encoder fit"
        )
    return max(clips, key=lambda path: path.stat().st_mtime)


def clips_here() -> list[Path]:
    """Return the `.nerv` files of the current folder by name, without temporary ones."""
    return sorted(path for path in Path().glob("*.nerv") if not path.name.startswith("."))
