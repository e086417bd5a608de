"""The container: a signature, then chunks, each with a type, a length and checksums.

The reader takes bytes as they arrive and yields each chunk that is complete.
So the first segment plays while the second is still on its way.
docs/reference/bitstream.md defines the bytes.
"""

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from encoder.common.errors import BitstreamError, UnsupportedVersionError

MAGIC = b"NERV"
VERSION = 2
"""Version of the files that are written."""
VERSIONS = 1, 2
"""Versions of the files that are read."""
SIGNATURE = struct.Struct("<4sHxx")  # magic, version
CHUNK = struct.Struct("<4sI")  # type, payload length
CHECKSUM = struct.Struct("<I")  # CRC-32: one of type and length, a chained one of the payload
HEADER = struct.Struct("<HHIIIBx")  # width, height, frames, rate numerator and denominator, flags
HEAD = b"HEAD"
"""Type of a file's first chunk, the header."""
TOPOLOGY = b"TOPO"
"""Type of a file's second chunk, the topology."""
SEGMENT = b"SEGM"
"""Type of the chunks that follow, one for each segment."""
INDEX = b"INDX"
"""Type of a file's last chunk, the index of its segments."""
CHUNK_BYTES = CHUNK.size + 2 * CHECKSUM.size
"""Bytes of a chunk in addition to its payload."""
KIND_AT = 10
"""Offset of the byte in a segment's payload that tells its kind."""
DELTA_SEGMENT = 1
"""Kind of a segment that is coded on top of the segment before."""
ESSENTIALS = 2
"""Number of indispensable chunks at the start of a file: header and topology."""
RESUME = re.compile(b"|".join((SEGMENT, INDEX)))
"""Chunk types at which reading resumes after damage; the others must be intact anyway."""

MAX_SIDE = 8192
"""Largest width and height, in pixels."""
MAX_FRAMES = 1 << 24
MAX_RATE = 1000
"""Largest frame rate, in frames per second."""
MAX_TERM = 100_000_000
"""Largest numerator and denominator of a frame rate; FFmpeg's have 31 bits."""
MAX_DENOMINATOR = 100_000
"""Largest denominator after rounding a measured or requested frame rate."""
MAX_SETTINGS_BYTES = 1024
MAX_CHUNK_BYTES = 1 << 28
MAX_FILE_BYTES = 1 << 30
CONTINUOUS = 1
"""Header flag: times between two frames decode to pictures in between."""


def signature(version: int = VERSION) -> bytes:
    """Return the first bytes of every file of a version."""
    return SIGNATURE.pack(MAGIC, version)


def file_bytes(chunks: Iterable[tuple[bytes, bytes]], version: int = VERSION) -> bytes:
    """Return a file of chunks, each given as a four-letter type and a payload."""
    checksums = Checksums()
    return signature(version) + b"".join(checksums.chunk(*part) for part in chunks)


class Checksums:
    """Chained checksums of a file's payloads.

    Each continues an earlier one, so that a chunk of another file does not fit.
    """

    def __init__(self) -> None:
        self._count = 0
        self._clip = 0
        self._segment = 0

    def chunk(self, kind: bytes, payload: bytes) -> bytes:
        """Return the next chunk of a file."""
        start = CHUNK.pack(kind, len(payload))
        checksum = self.of(kind, payload)
        self.take(kind, checksum)
        return start + _checksum(start) + payload + CHECKSUM.pack(checksum)

    def of(self, kind: bytes, payload: bytes) -> int:
        """Return the checksum of the next payload.

        The topology's checksum continues the header's.
        A delta segment's checksum continues that of the segment before, all others the topology's.
        """
        is_delta = kind == SEGMENT and payload[KIND_AT : KIND_AT + 1] == bytes([DELTA_SEGMENT])
        return zlib.crc32(payload, self._segment if is_delta else self._clip)

    def take(self, kind: bytes, checksum: int) -> None:
        """Record a payload's checksum, which later checksums continue."""
        if self._count < ESSENTIALS:
            self._clip = checksum
            self._count = self._count + 1
        elif kind == SEGMENT:
            self._segment = checksum


def _checksum(data: bytes) -> bytes:
    return CHECKSUM.pack(zlib.crc32(data))


@dataclass(frozen=True)
class Chunk:
    """A chunk of a file."""

    kind: bytes
    payload: bytes
    offset: int
    """Number of bytes of the file before the chunk."""
    intact: bool = True
    """Whether the checksum fits the payload and the earlier checksum that it continues."""


class ChunkReader:
    """Reader that cuts a file into chunks as its bytes arrive, in pieces of any size.

    A chunk with a damaged payload is yielded, marked as not intact.
    Damage between two chunks is skipped. Reading resumes at the next chunk start with a fitting
    checksum.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._offset = 0
        self.version = 0
        """Version of the file; 0 before its signature has been read."""
        self._checksums = Checksums()
        self.skipped_bytes = 0
        """Number of bytes that belong to no chunk."""

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Take the next bytes of the file and yield the chunks that they complete.

        Raises BitstreamError if the file is not a clip.
        Raises UnsupportedVersionError if the clip is of another version.
        """
        self._buffer += data
        if not self.version and not self._read_signature():
            return
        while (found := self._next_chunk()) is not None:
            yield found

    @property
    def rest_bytes(self) -> int:
        """Number of bytes of an incomplete chunk: 0 at the end of a complete file."""
        return len(self._buffer)

    def _read_signature(self) -> bool:
        if len(self._buffer) < SIGNATURE.size:
            return False
        magic, version = SIGNATURE.unpack_from(self._buffer)
        if magic != MAGIC:
            raise BitstreamError(f"not a nervcast clip: starts with {magic!r}")
        if version not in VERSIONS:
            raise UnsupportedVersionError(
                f"clip is of version {version}, "
                f"this decoder reads versions {VERSIONS[0]} to {VERSION}"
            )
        self._drop(SIGNATURE.size)
        self.version = version
        return True

    def _next_chunk(self) -> Chunk | None:
        start = CHUNK.size + CHECKSUM.size
        while len(self._buffer) >= start:
            head = bytes(self._buffer[:start])
            kind, length = CHUNK.unpack_from(head)
            if head[CHUNK.size :] != _checksum(head[: CHUNK.size]) or length > MAX_CHUNK_BYTES:
                self._resynchronise()
                continue
            end = start + length
            if len(self._buffer) < end + CHECKSUM.size:
                return None
            payload = bytes(self._buffer[start:end])
            checksum = self._checksums.of(kind, payload)
            intact = bytes(self._buffer[end : end + CHECKSUM.size]) == CHECKSUM.pack(checksum)
            if intact:
                self._checksums.take(kind, checksum)
            found = Chunk(kind, payload, self._offset, intact)
            self._drop(end + CHECKSUM.size)
            return found
        return None

    def _resynchronise(self) -> None:
        """Drop all bytes before the next possible start of a segment or index chunk."""
        found = RESUME.search(self._buffer, 1)
        # The last bytes may be the beginning of a type; its end has not arrived yet.
        step = found.start() if found else max(len(self._buffer) - len(SEGMENT) + 1, 1)
        self.skipped_bytes += step
        self._drop(step)

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._offset += count


@dataclass(frozen=True, kw_only=True)
class Header:
    """Frame size, length and frame rate of a clip."""

    width: int
    """Width of a frame, in pixels."""
    height: int
    """Height of a frame, in pixels."""
    frames: int
    rate: Fraction
    """Frames per second."""
    continuous: bool
    """Whether times between two frames decode to pictures in between."""
    settings: str
    """Settings of the encoder, for people to read."""

    @property
    def even_size(self) -> tuple[int, int]:
        """Height and width rounded up to even numbers, as 4:2:0 pictures need."""
        return self.height + self.height % 2, self.width + self.width % 2

    @property
    def duration(self) -> Fraction:
        """Time from the start of the first frame to the end of the last, in seconds."""
        return self.frames / self.rate

    @property
    def duration_seconds(self) -> float:
        """The same, rounded."""
        return float(self.duration)

    @property
    def pixels(self) -> int:
        """Number of pixels of all frames: the divisor of bits per pixel."""
        return self.width * self.height * self.frames

    def __bytes__(self) -> bytes:
        """Return the payload of the header chunk. Settings too long for the format are cut."""
        flags = CONTINUOUS if self.continuous else 0
        numerator, denominator = self.rate.as_integer_ratio()
        settings = self.settings.encode()[:MAX_SETTINGS_BYTES].decode(errors="ignore").encode()
        return (
            HEADER.pack(self.width, self.height, self.frames, numerator, denominator, flags)
            + settings
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the payload of a header chunk. Raises BitstreamError if it is invalid."""
        if not HEADER.size <= len(data) <= HEADER.size + MAX_SETTINGS_BYTES:
            raise BitstreamError(
                f"header has {len(data)} bytes, "
                f"needs {HEADER.size} and at most {MAX_SETTINGS_BYTES} more"
            )
        width, height, frames, numerator, denominator, flags = HEADER.unpack_from(data)
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
            raise BitstreamError(f"frame size must be in 1..{MAX_SIDE}, got {width}x{height}")
        if not 0 < frames <= MAX_FRAMES:
            raise BitstreamError(f"{frames = } must be in 1..{MAX_FRAMES}")
        terms_fit = 0 < numerator <= MAX_TERM and 0 < denominator <= MAX_TERM
        if not (terms_fit and Fraction(numerator, denominator) <= MAX_RATE):
            raise BitstreamError(
                f"frame rate must be over 0 and at most {MAX_RATE}, got {numerator}/{denominator}"
            )
        if flags & ~CONTINUOUS:
            raise BitstreamError(f"unknown flags {flags:#x}")
        try:
            settings = data[HEADER.size :].decode()
        except UnicodeDecodeError:
            raise BitstreamError("settings are not UTF-8") from None
        return cls(
            width=width,
            height=height,
            frames=frames,
            rate=Fraction(numerator, denominator),
            continuous=bool(flags & CONTINUOUS),
            settings=settings,
        )
