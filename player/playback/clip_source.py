"""A clip that can be played: what it is called, and how it is decoded."""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from encoder.codec.clip import Clip
from encoder.codec.growing_file import GrowingFile
from encoder.common.errors import CodecError
from export.engines.base import Engine

FOLLOW_SECONDS = 0.5
"""Time between two looks at a file that is still being written."""

OpenEngine = Callable[[Collection[str]], Engine]
"""Opens an engine for a clip, other than those named, which have failed."""

logger = logging.getLogger(__name__)


@dataclass
class ClipSource:
    """A clip, and what reads on in its file while that is still being written or downloaded."""

    name: str
    clip: Clip
    open_engine: OpenEngine
    file_bytes: int
    """Size of the clip's file, as far as it is there."""
    follower: GrowingFile | None = None
    is_over: Callable[[], bool] = lambda: False
    """Whether nothing more will come, though the clip may have no end."""

    @property
    def bits_per_pixel(self) -> float:
        """Bits of the file for each pixel of the frames that are there."""
        header = self.clip.header
        return 8 * self.file_bytes / (header.width * header.height * self.clip.end)

    @property
    def follows(self) -> bool:
        """Whether there may be more of the clip's file."""
        return self.follower is not None

    def follow(self) -> None:
        """Take what has come to the clip's file; for a thread that may wait."""
        follower = self.follower
        if follower is None:
            return
        is_over = self.is_over()  # before one reads: what came until then is read
        try:
            follower.read_on()
            is_over = is_over or follower.is_whole
        except CodecError as error:
            if self.follower is None:  # it was closed meanwhile
                return
            logger.warning("%s ends at frame %d: %s", self.name, self.clip.end, error)
            is_over = True
        self.file_bytes = follower.file_bytes
        if is_over:
            self.close()

    async def keep_following(self) -> None:
        """Take what comes to the clip's file until nothing more will."""
        while self.follows:
            await asyncio.sleep(FOLLOW_SECONDS)
            await asyncio.to_thread(self.follow)

    def close(self) -> None:
        """Read no further."""
        follower = self.follower
        self.follower = None
        if follower is not None:
            follower.close()
