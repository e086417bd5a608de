"""The index: where each segment stands in the file, for a reader that seeks without having read what lies before."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

ENTRY = struct.Struct("<QIIB")  # offset, first frame, frames, key
COUNT = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A segment of the file."""

    offset: int
    """Bytes of the file before the segment's chunk."""
    start: int
    """Number of the first frame."""
    frames: int
    is_key: bool
    """Whether decoding may start here."""


def index_bytes(entries: Sequence[Entry]) -> bytes:
    """Return the payload of the index's chunk: the entries, then their number, so that it can be found from the file's end."""
    packed = (ENTRY.pack(entry.offset, entry.start, entry.frames, entry.is_key) for entry in entries)
    return b"".join(packed) + COUNT.pack(len(entries))
