"""Index of a file's segments: their places, frames and kinds."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

ENTRY = struct.Struct("<QIIB")  # offset, first frame, frames, key


COUNT = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A segment's entry in the index."""

    offset: int
    """Number of bytes of the file before the segment's chunk."""
    start: int
    """Number of the first frame."""
    frames: int
    is_key: bool
    """Whether decoding can start at this segment."""


def index_bytes(entries: Sequence[Entry]) -> bytes:
    """Return the payload of the index chunk: the entries, then their number.

    With the number last, a reader finds the index from the end of the file.
    """
    packed = (
        ENTRY.pack(entry.offset, entry.start, entry.frames, entry.is_key) for entry in entries
    )
    return b"".join(packed) + COUNT.pack(len(entries))
