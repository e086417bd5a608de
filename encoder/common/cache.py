"""What this machine keeps because it took time to measure or to build, and can be again."""

import contextlib
import logging
import os
from pathlib import Path
from tempfile import gettempdir

from encoder.common.atomic_file import replacing
from encoder.common.errors import CodecError

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of such files, which may not exist."""
    folder = os.environ.get("XDG_CACHE_HOME")
    if folder:
        return Path(folder) / "nervcast"
    try:
        return Path.home() / ".cache" / "nervcast"
    except RuntimeError:  # a user without a home, as in containers
        return Path(gettempdir()) / "nervcast"


def kept(path: Path) -> bytes | None:
    """Return such a file, None if it is not there or cannot be read."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    with contextlib.suppress(OSError):
        path.touch()  # those that were not used for the longest time go first
    return data


def evict(folder: Path, pattern: str, most: int) -> None:
    """Delete those of such files that were not used for the longest time, so that no more are left than there may be."""
    with contextlib.suppress(OSError):  # another process may do the same
        for old in sorted(folder.glob(pattern), key=lambda found: found.stat().st_mtime)[:-most]:
            old.unlink(missing_ok=True)


def keep(path: Path, data: bytes) -> None:
    """Write such a file if that can be; it is only time that is lost otherwise."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_bytes(data)
    except (CodecError, OSError) as error:
        logger.warning("the next start takes as long as this one: cannot write %s: %s", path, error)
