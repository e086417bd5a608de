"""A clip whose file is still being written: each time one looks, it may have more segments."""

import os
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from encoder.codec.clip import BLOCK_BYTES, Clip, ClipReader
from encoder.common.errors import BitstreamError


class GrowingFile:
    """Reads a file as it grows."""

    def __init__(self, path: Path) -> None:
        """Read what there is; raises BitstreamError, also where not even a segment is there."""
        self._reader = ClipReader()
        self._path = path
        self._lock = threading.Lock()
        self._segments = self._reader.segments
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise BitstreamError(f"cannot read {path}: {error.strerror}") from None
        try:
            self.read_on()
            self.clip = self._begun()
            """The clip, whose segments become more."""
        except BitstreamError:
            self.close()
            raise

    def _begun(self) -> Clip:
        reader = self._reader
        if reader.header is None or reader.topology is None or not reader.segments:
            raise BitstreamError("clip ends before its first segment")
        return Clip(reader.header, reader.topology, reader.segments)

    @property
    def damage(self) -> tuple[str, ...]:
        """What was wrong with the file so far, for people to read."""
        return self._reader.damage

    @property
    def is_whole(self) -> bool:
        """Whether the file has ended."""
        return self._reader.is_whole

    @property
    def file_bytes(self) -> int:
        """Size of what has been read."""
        return self._reader.file_bytes

    def read_on(self) -> None:
        """Read what has come since, also of a file that goes on in this one's place, as that of a resumed fit does.

        That of an interrupted fit ends there.

        Raises BitstreamError for another file in its place, and for one that grows too large or cannot be read.
        """
        with self._lock:
            try:
                if not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                    self._file.close()
                    self._file = self._path.open("rb")
                    self._reader = ClipReader()
                for block in iter(partial(self._file.read, BLOCK_BYTES), b""):
                    self._reader.feed(block)
            except (OSError, ValueError) as error:  # it may have been closed
                raise BitstreamError(f"cannot read on: {error}") from None
            if self._reader.segments is not self._segments:
                self._take_over()

    def _take_over(self) -> None:
        """Take the segments that a file in place of the first has beyond those that are known."""
        reader = self._reader
        known = len(self._segments)
        # A fit that is interrupted leaves a whole clip of fewer frames.
        header = reader.header and replace(reader.header, frames=self.clip.header.frames)
        heads = (header, reader.topology and reader.topology.packed)
        common = min(known, len(reader.segments))
        if (
            heads != (self.clip.header, self.clip.topology.packed)
            or reader.segments[:common] != self._segments[:common]
        ):
            raise BitstreamError("another file has taken its place")
        self._segments += reader.segments[known:]

    def close(self) -> None:
        """Close the file, once nothing reads it."""
        with self._lock:
            self._file.close()
