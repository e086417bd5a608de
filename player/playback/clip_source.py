"""A clip to play: its name, its file, and the engines that decode it."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from encoder.codec.clip import Clip
from encoder.codec.growing_file import GrowingFile
from encoder.common.errors import CodecError
from export.engines.base import Engine

FOLLOW_SECONDS = 0.5
"""Time between two reads of a growing file."""

OpenEngine = Callable[[Collection[str]], Engine]
"""Function that opens an engine for the clip, but none of the named engines, which have failed."""

logger = logging.getLogger(__name__)


@dataclass
class ClipSource:
    """A clip, and the reader of its file while that is still being written or downloaded."""

    name: str
    clip: Clip
    open_engine: OpenEngine
    file_bytes: int
    """Size of the clip's file so far."""
    path: Path | None = None
    """Place of the clip's file; a download has one while it is open."""
    follower: GrowingFile | None = None
    rungs: Sequence["ClipSource"] = ()
    """All clips of its ladder, from the smallest file to this one; none without a ladder."""
    is_over: Callable[[], bool] = lambda: False
    """Function that tells whether the file has stopped growing, even if the clip has no end."""

    @property
    def bits_per_pixel(self) -> float:
        """Bits of the file for each pixel of the frames so far."""
        header = self.clip.header
        return 8 * self.file_bytes / (header.width * header.height * self.clip.end)

    @property
    def follows(self) -> bool:
        """Whether the file may still grow."""
        return self.follower is not None

    def follow(self) -> None:
        """Read the new part of the file. This blocks, so never call it in an event loop."""
        follower = self.follower
        if follower is None:
            return
        is_over = self.is_over()  # asked before the read, which takes all bytes until now
        try:
            follower.read_on()
            is_over = is_over or follower.is_whole
        except CodecError as error:
            if self.follower is None:  # `close` was called meanwhile
                return
            logger.warning("%s ends at frame %d: %s", self.name, self.clip.end, error)
            is_over = True
        self.file_bytes = follower.file_bytes
        if is_over:
            self.close()

    async def keep_following(self) -> None:
        """Read the new parts of the file until it stops growing."""
        while self.follows:
            await asyncio.sleep(FOLLOW_SECONDS)
            await asyncio.to_thread(self.follow)

    def close(self) -> None:
        """Stop reading the file."""
        follower = self.follower
        self.follower = None
        if follower is not None:
            follower.close()
