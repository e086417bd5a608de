"""The index: where each segment stands in the file, for a reader that seeks without having read what lies before."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from encoder.codec.errors import BitstreamError

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


def parse_index(data: bytes) -> list[Entry]:
    """Read the payload of an index's chunk; raises BitstreamError."""
    if len(data) < COUNT.size:
        raise BitstreamError(f"index needs {COUNT.size} bytes, got {len(data)}")
    (count,) = COUNT.unpack_from(data, len(data) - COUNT.size)
    if len(data) != count * ENTRY.size + COUNT.size:
        raise BitstreamError(f"index of {count} segments cannot have {len(data)} bytes")
    fields = ENTRY.iter_unpack(data[: -COUNT.size])
    return [Entry(offset=offset, start=start, frames=frames, is_key=bool(key)) for offset, start, frames, key in fields]
