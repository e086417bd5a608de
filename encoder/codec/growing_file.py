"""A clip whose file is still being written, and gains segments over time."""

import os
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from encoder.codec.clip import BLOCK_BYTES, Clip
from encoder.codec.clip_reader import ClipReader
from encoder.common.errors import BitstreamError


class GrowingFile:
    """Reader of a file that grows."""

    def __init__(self, path: Path) -> None:
        """Read the existing part. Raises BitstreamError if it is unusable or has no segment."""
        self._reader = ClipReader()
        self._path = path
        self._lock = threading.Lock()
        self._segments = self._reader.segments
        self._extras = self._reader.extras
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise BitstreamError(f"cannot read {path}: {error.strerror}") from None
        try:
            self.read_on()
            self.clip = self._begun()
            """The clip; new segments are appended to its `segments`."""
        except BitstreamError:
            self.close()
            raise

    def _begun(self) -> Clip:
        reader = self._reader
        if reader.header is None or reader.topology is None or not reader.segments:
            raise BitstreamError("clip ends before its first segment")
        return Clip(reader.header, reader.topology, reader.segments, extras=reader.extras.found)

    @property
    def damage(self) -> tuple[str, ...]:
        """Faults of the file so far, described for people."""
        return self._reader.damage

    @property
    def is_whole(self) -> bool:
        """Whether the file has ended."""
        return self._reader.is_whole

    @property
    def file_bytes(self) -> int:
        """Number of bytes read so far."""
        return self._reader.file_bytes

    def read_on(self) -> None:
        """Read the bytes that were added since the last call.

        A new file may have taken the old one's place. A resumed fit continues in a new file.
        An interrupted fit ends with a new file of the finished segments.
        Raises BitstreamError if the new file is of another clip.
        Raises BitstreamError if the file grows too large or cannot be read.
        """
        with self._lock:
            try:
                if not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                    self._file.close()
                    self._file = self._path.open("rb")
                    self._reader = ClipReader()
                for block in iter(partial(self._file.read, BLOCK_BYTES), b""):
                    self._reader.feed(block)
            except (OSError, ValueError) as error:  # ValueError: the file is closed
                raise BitstreamError(f"cannot read on: {error}") from None
            if self._reader.segments is not self._segments:
                self._take_over()

    def _take_over(self) -> None:
        """Append the segments of a new file in the old one's place, beyond those already known."""
        reader = self._reader
        known = len(self._segments)
        # An interrupted fit leaves a whole clip of fewer frames.
        header = reader.header and replace(reader.header, frames=self.clip.header.frames)
        heads = (header, reader.topology and reader.topology.packed)
        common = min(known, len(reader.segments))
        if (
            heads != (self.clip.header, self.clip.topology.packed)
            or reader.segments[:common] != self._segments[:common]
        ):
            raise BitstreamError("another file has taken its place")
        self._segments += reader.segments[known:]
        self._extras.extend(reader.extras)

    def close(self) -> None:
        """Close the file, after any running `read_on`."""
        with self._lock:
            self._file.close()
