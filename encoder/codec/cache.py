"""What this machine keeps because it took time to measure or to build, and can be again."""

import logging
import os
from pathlib import Path

from encoder.codec.console import replacing
from encoder.codec.errors import CodecError

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of such files, which may not exist."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "nervcast"


def keep(path: Path, data: bytes) -> None:
    """Write such a file if that can be; it is only time that is lost otherwise."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_bytes(data)
    except (CodecError, OSError) as error:
        logger.warning("the next start takes as long as this one: cannot write %s: %s", path, error)
