"""Sound of a clip: Opus packets of 20 ms, in chunks beside the segments that they play with.

docs/reference/bitstream.md defines the bytes.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Self

from encoder.codec.container import CHUNK_BYTES
from encoder.codec.plain_text import MAX_LANGUAGE, parse_language
from encoder.common.errors import BitstreamError

SOUND = b"SOUN"
"""Type of the chunk that describes a clip's sound."""
PACKETS = b"OPUS"
"""Type of the chunks with its packets."""
RATE = 48_000
"""Samples per second of all Opus sound, whatever the encoder was given (RFC 6716, section 2)."""
PACKET_SAMPLES = 960
"""Samples of a packet, 20 ms."""
MAX_PACKET = 1276
"""Largest packet: one byte in front of the largest frame (RFC 6716, section 3.2.1)."""
MAX_PACKETS = 1 << 22
"""Largest number of packets of a clip, over 23 hours: each takes memory of its own."""
FORMAT = struct.Struct("<BxH")  # channels, delay
FIRST = struct.Struct("<I")
LENGTH = struct.Struct("<H")
CHANNELS = 1, 2
STEREO = 0x04
"""Bit of a packet's first byte that tells of two channels (RFC 6716, section 3.1)."""
FRAME_COUNT = 0x03
"""Bits of that byte that are 0 for a packet of one frame."""
HYBRID_MODES = range(12, 16)
CELT_MODES = range(16, 32)


@dataclass(frozen=True, kw_only=True)
class SoundFormat:
    """Properties of the sound, which a decoder needs before the first packet."""

    channels: int
    """1 or 2."""
    delay: int
    """Decoded samples (at 48 kHz) that lie before the clip's first frame, and are not heard."""
    language: str = ""
    """Language tag, such as `en` (RFC 5646); empty if it is not known."""

    def __bytes__(self) -> bytes:
        """Return the payload of the chunk; a language that is too long is left out."""
        language = self.language.encode()
        return FORMAT.pack(self.channels, self.delay) + language * (len(language) <= MAX_LANGUAGE)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the payload of the chunk. Raises BitstreamError if it is invalid."""
        if not FORMAT.size <= len(data) <= FORMAT.size + MAX_LANGUAGE:
            raise BitstreamError(f"description of the sound has {len(data)} bytes")
        channels, delay = FORMAT.unpack_from(data)
        if channels not in CHANNELS:
            raise BitstreamError(f"sound must have 1 or 2 channels, got {channels}")
        language = parse_language(data[FORMAT.size :])
        return cls(channels=channels, delay=delay, language=language)

    def seconds(self, number: int) -> Fraction:
        """Return the time at which a packet begins, in seconds since the clip's start."""
        return Fraction(number * PACKET_SAMPLES - self.delay, RATE)

    def number_at(self, seconds: Fraction) -> int:
        """Return the number of the first packet that does not begin before a time."""
        return max(-(-(seconds * RATE + self.delay) // PACKET_SAMPLES), 0)


@dataclass(frozen=True)
class SoundPart:
    """Packets in a row, as one chunk holds them."""

    first: int
    """Number of the first packet."""
    packets: tuple[bytes, ...]

    @property
    def stop(self) -> int:
        """Number of the packet after the last."""
        return self.first + len(self.packets)

    @property
    def file_bytes(self) -> int:
        """Bytes of the chunk."""
        return CHUNK_BYTES + FIRST.size + sum(LENGTH.size + len(each) for each in self.packets)

    def __bytes__(self) -> bytes:
        """Return the payload of the chunk."""
        return FIRST.pack(self.first) + b"".join(
            LENGTH.pack(len(packet)) + packet for packet in self.packets
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the payload of a chunk. Raises BitstreamError if it is invalid."""
        if len(data) < FIRST.size:
            raise BitstreamError("sound has no number of a packet")
        (first,) = FIRST.unpack_from(data)
        packets = tuple(islice(_packets(data), max(MAX_PACKETS - first, 0) + 1))
        if not packets or first + len(packets) > MAX_PACKETS:
            raise BitstreamError("sound has no packets, or too many")
        return cls(first, packets)


def _packets(data: bytes) -> Iterator[bytes]:
    at = FIRST.size
    while at < len(data):
        if at + LENGTH.size > len(data):
            raise BitstreamError("sound ends inside a packet")
        (length,) = LENGTH.unpack_from(data, at)
        at += LENGTH.size
        packet = data[at : at + length]
        if len(packet) < length:
            raise BitstreamError("sound ends inside a packet")
        if not is_packet(packet):
            raise BitstreamError("sound has a packet that is not one Opus frame of 20 ms")
        yield packet
        at += length


def is_packet(packet: bytes) -> bool:
    """Return whether a packet is one Opus frame of 20 ms, by its first byte."""
    if not 1 <= len(packet) <= MAX_PACKET or packet[0] & FRAME_COUNT:
        return False
    mode = packet[0] >> 3
    if mode in CELT_MODES:
        return mode % 4 == 3  # noqa: PLR2004 (2.5, 5, 10, 20 ms)
    return mode % 2 == 1 if mode in HYBRID_MODES else mode % 4 == 1


@dataclass(frozen=True)
class Sound:
    """The sound of a clip, as far as it has arrived."""

    format: SoundFormat
    parts: Sequence[SoundPart]
    """Parts in the order of their packets. A damaged one leaves a gap, which is silent."""

    def packet(self, number: int) -> bytes | None:
        """Return a packet, or None where there is none."""
        index = bisect_right(self.parts, number, key=lambda part: part.first) - 1
        part = self.parts[index] if index >= 0 else None
        return part.packets[number - part.first] if part and number < part.stop else None

    @property
    def stop(self) -> int:
        """Number of the packet after the last."""
        return self.parts[-1].stop if self.parts else 0

    @property
    def file_bytes(self) -> int:
        """Bytes of all its chunks."""
        return CHUNK_BYTES + len(bytes(self.format)) + sum(part.file_bytes for part in self.parts)


def cut(sound: Sound, stops: Sequence[Fraction]) -> Sound:
    """Return the same sound in parts that begin before the given times, in seconds and ascending.

    Each time is the end of a segment; packets from the last one on are left out.
    """
    packets = [packet for part in sound.parts for packet in part.packets]
    start = 0
    parts: list[SoundPart] = []
    for end in stops:
        stop = min(sound.format.number_at(end), len(packets))
        if stop > start:
            parts.append(SoundPart(start, tuple(packets[start:stop])))
        start = max(start, stop)
    return Sound(sound.format, parts)
