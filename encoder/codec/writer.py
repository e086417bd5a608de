"""Writing of a clip, chunk by chunk: its first segments play while the rest is still fitted."""

import os
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from encoder.codec.coder import RANGE
from encoder.codec.container import (
    CHUNK_BYTES,
    HEAD,
    INDEX,
    MAX_FILE_BYTES,
    SEGMENT,
    SIGNATURE,
    TOPOLOGY,
    Checksums,
    Header,
    signature,
)
from encoder.codec.extras import Extras, ExtrasChunks
from encoder.codec.segment import PREFIX, Segment
from encoder.codec.segment_index import COUNT, ENTRY, Entry, index_bytes
from encoder.codec.topology import Topology
from encoder.common.atomic_file import temporary
from encoder.common.errors import BitstreamError

END_BYTES = 1 << 24
"""Bytes reserved for the index, which grows with the number of segments."""

NO_EXTRAS = Extras()


class ClipBytes:
    """Maker of a clip's chunks, in their order."""

    def __init__(self, header: Header, topology: Topology, extras: Extras = NO_EXTRAS) -> None:
        self._checksums = Checksums()
        self._rate = header.rate
        self._extras = ExtrasChunks(extras)
        self._entries: list[Entry] = []
        self._version = topology.version
        essentials = [(HEAD, bytes(header)), (TOPOLOGY, topology.packed)]
        self.start = signature(topology.version) + b"".join(
            self._checksums.chunk(*part) for part in (*essentials, *self._extras.start)
        )
        """Bytes of the file before the first segment."""
        self.size = len(self.start)
        """Number of bytes of the file so far."""

    def segment(self, segment: Segment) -> bytes:
        """Return the chunk of the next segment, and those of sound and cues that begin in it."""
        assert self._version > 1 or segment.coder != RANGE  # version 1 has no such coder
        self._entries.append(
            Entry(
                offset=self.size, start=segment.start, frames=segment.frames, is_key=segment.is_key
            )
        )
        chunks = self._checksums.chunk(SEGMENT, bytes(segment))
        for part in self._extras.until(Fraction(segment.start + segment.frames) / self._rate):
            chunks += self._checksums.chunk(*part)
        self.size += len(chunks)
        return chunks

    @property
    def end(self) -> bytes:
        """Bytes of the file after the last segment."""
        return self._checksums.chunk(INDEX, index_bytes(self._entries))


class ClipWriter:
    """Writer of a clip to a file that grows.

    The file appears with its first segment. Each later segment is on disk once it is added.
    """

    def __init__(
        self, path: Path, header: Header, topology: Topology, extras: Extras = NO_EXTRAS
    ) -> None:
        """Take the path of the file. The first segment creates or replaces it."""
        self.path = path
        self._bytes = ClipBytes(header, topology, extras)
        self._file: BinaryIO | None = None
        self._start = self._bytes.start

    def add(self, segment: Segment) -> None:
        """Append a segment.

        Raises BitstreamError if the clip would become too large, OSError if writing fails.
        """
        if self._bytes.size + len(bytes(segment)) + END_BYTES > MAX_FILE_BYTES:
            raise BitstreamError(
                f"a clip has at most {MAX_FILE_BYTES} bytes: it ends before frame {segment.start}"
            )
        self._append(self._bytes.segment(segment))

    def finish(self) -> None:
        """Append the index and close the file. Raises OSError if writing fails."""
        self._append(self._bytes.end)
        self.close()

    def close(self) -> None:
        """Close the file as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, data: bytes) -> None:
        if self._file is not None:
            self._write(data)
            return
        # A playable file replaces any existing one in a single step.
        part = temporary(self.path)
        try:
            self._file = part.open("wb")
            self._write(self._start + data)
            part.replace(self.path)  # an open file keeps growing under its new name
        finally:
            part.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        assert self._file is not None  # ensured by the caller
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())


def overhead_bytes(header: Header, topology: Topology, segments: int) -> int:
    """Return the size of a file without its tensors: their records and coded integers."""
    head = SIGNATURE.size + len(bytes(header)) + len(topology.packed)
    chunks = (segments + 3) * CHUNK_BYTES
    return head + segments * (PREFIX.size + ENTRY.size) + COUNT.size + chunks
