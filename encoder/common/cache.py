"""Cache of results that take this machine time to measure or build, and can be made again."""

import contextlib
import logging
import os
from pathlib import Path
from tempfile import gettempdir

from encoder.common.atomic_file import replacing
from encoder.common.errors import CodecError

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of cached files, which may not exist."""
    folder = os.environ.get("XDG_CACHE_HOME")
    if folder:
        return Path(folder) / "nervcast"
    try:
        return Path.home() / ".cache" / "nervcast"
    except RuntimeError:  # the user has no home folder, as in containers
        return Path(gettempdir()) / "nervcast"


def kept(path: Path) -> bytes | None:
    """Return the bytes of a cached file; None if it is missing or unreadable."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    with contextlib.suppress(OSError):
        path.touch()  # `evict` deletes the least recently used files
    return data


def evict(folder: Path, pattern: str, most: int) -> None:
    """Delete the least recently used files that match a pattern, so that `most` are left."""
    with contextlib.suppress(OSError):  # another process may do the same
        for old in sorted(folder.glob(pattern), key=lambda found: found.stat().st_mtime)[:-most]:
            old.unlink(missing_ok=True)


def keep(path: Path, data: bytes) -> None:
    """Write a cached file. Log a failure as a warning, because it costs only time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_bytes(data)
    except (CodecError, OSError) as error:
        logger.warning("the next start takes as long as this one: cannot write %s: %s", path, error)
