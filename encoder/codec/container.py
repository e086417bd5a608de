"""The container: a signature, then chunks, each with a type, a length and a checksum. docs/format.md has the bytes."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from encoder.codec.errors import BitstreamError, UnsupportedVersionError

MAGIC = b"NERV"
VERSION = 0
SIGNATURE = struct.Struct("<4sHxx")  # magic, version
CHUNK = struct.Struct("<4sI")  # type, payload length
CHECKSUM = struct.Struct("<I")  # CRC-32 of type and payload
HEADER = struct.Struct("<HHIIIBx")  # width, height, frames, rate numerator and denominator, flags

MAX_SIDE = 8192
"""Largest width and height, in pixels."""
MAX_FRAMES = 1 << 24
MAX_RATE = 1000
"""Largest number of frames per second."""
MAX_TERM = 100_000_000
"""Largest numerator and denominator of a frame rate: FFmpeg's have 31 bits."""
MAX_DENOMINATOR = 100_000
"""Denominator that a measured or wanted rate is rounded to."""
MAX_SETTINGS_BYTES = 1024
CONTINUOUS = 1
"""Header flag: times between whole numbers decode to pictures in between."""


def signature() -> bytes:
    """Return what a file starts with."""
    return SIGNATURE.pack(MAGIC, VERSION)


def chunk(kind: bytes, payload: bytes) -> bytes:
    """Return a chunk of a four-letter type."""
    return CHUNK.pack(kind, len(payload)) + payload + CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(kind)))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and payload of each chunk of a file.

    Raises BitstreamError for anything but a whole number of undamaged chunks, UnsupportedVersionError for another version.
    """
    if len(data) < SIGNATURE.size:
        raise BitstreamError(f"signature needs {SIGNATURE.size} bytes, got {len(data)}")
    magic, version = SIGNATURE.unpack_from(data)
    if magic != MAGIC:
        raise BitstreamError(f"not a nervcast clip: starts with {magic!r}")
    if version != VERSION:
        raise UnsupportedVersionError(f"clip is of version {version}, this decoder reads version {VERSION}")
    position = SIGNATURE.size
    while position < len(data):
        if len(data) - position < CHUNK.size:
            raise BitstreamError("clip ends inside a chunk's header")
        kind, length = CHUNK.unpack_from(data, position)
        position += CHUNK.size
        if len(data) - position < length + CHECKSUM.size:
            raise BitstreamError(f"clip ends inside chunk {kind!r}: {length} bytes announced")
        payload = data[position : position + length]
        position += length
        (checksum,) = CHECKSUM.unpack_from(data, position)
        position += CHECKSUM.size
        if checksum != zlib.crc32(payload, zlib.crc32(kind)):
            raise BitstreamError(f"chunk {kind!r} is damaged: its checksum differs")
        yield kind, payload


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a clip shows."""

    width: int
    """Width of a frame, in pixels."""
    height: int
    """Height of a frame, in pixels."""
    frames: int
    rate: Fraction
    """Frames per second."""
    continuous: bool
    """Whether times between frames decode to pictures in between."""
    settings: str
    """What the encoder was told, for people to read."""

    @property
    def even_size(self) -> tuple[int, int]:
        """Height and width rounded up to even numbers, which 4:2:0 pictures have."""
        return self.height + self.height % 2, self.width + self.width % 2

    @property
    def duration_seconds(self) -> float:
        """Time from the first frame to the end of the last."""
        return float(self.frames / self.rate)

    @property
    def pixels(self) -> int:
        """Pixels of all frames, what bits per pixel are counted over."""
        return self.width * self.height * self.frames

    def __bytes__(self) -> bytes:
        """Return the payload of the header chunk; settings too long for the format are cut."""
        flags = CONTINUOUS if self.continuous else 0
        numerator, denominator = self.rate.as_integer_ratio()
        settings = self.settings.encode()[:MAX_SETTINGS_BYTES].decode(errors="ignore").encode()
        return HEADER.pack(self.width, self.height, self.frames, numerator, denominator, flags) + settings

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the payload of a header chunk; raises BitstreamError."""
        if not HEADER.size <= len(data) <= HEADER.size + MAX_SETTINGS_BYTES:
            raise BitstreamError(f"header has {len(data)} bytes, needs {HEADER.size} and at most {MAX_SETTINGS_BYTES} more")
        width, height, frames, numerator, denominator, flags = HEADER.unpack_from(data)
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
            raise BitstreamError(f"frame size must be in 1..{MAX_SIDE}, got {width}x{height}")
        if not 0 < frames <= MAX_FRAMES:
            raise BitstreamError(f"{frames = } must be in 1..{MAX_FRAMES}")
        terms_fit = 0 < numerator <= MAX_TERM and 0 < denominator <= MAX_TERM
        if not (terms_fit and Fraction(numerator, denominator) <= MAX_RATE):
            raise BitstreamError(f"frame rate must be over 0 and at most {MAX_RATE}, got {numerator}/{denominator}")
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
