"""Detection of truncated media files by the lengths that they declare.

FFmpeg plays the rest of a truncated file and gives no reliable sign of the damage.
"""

import struct
from pathlib import Path
from typing import BinaryIO

BOX = struct.Struct(">I4s")  # MP4 and MOV (ISO/IEC 14496-12, 4.2): length with this header, type
NEEDED_BOXES = (b"mdat", b"moof", b"moov")
LONG_LENGTH = struct.Struct(">Q")
# Identifiers of a Matroska file's two outermost elements (RFC 8794, RFC 9559).
EBML = b"\x1a\x45\xdf\xa3"
SEGMENT = b"\x18\x53\x80\x67"
RIFF = struct.Struct("<4sI")  # AVI: type, length without this header


def is_truncated(path: Path) -> bool:
    """Tell whether an MP4, MOV, Matroska, WebM or AVI file is shorter than it declares.

    Returns False for other kinds of files.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
            return _boxes_end(file, size) > size
        if start.startswith(EBML):
            return _segment_end(file) > size
        if start.startswith(b"RIFF") and start[8:12] == b"AVI ":
            return RIFF.size + RIFF.unpack_from(start)[1] > size
    return False


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Return the end of the first outermost box that a player needs and that exceeds the file.

    Returns 0 if there is none. The bytes after the needed boxes may be anything.
    """
    position = 0
    while position < size:
        file.seek(position)
        header = file.read(BOX.size + LONG_LENGTH.size)
        if len(header) < BOX.size:
            break
        length, kind = BOX.unpack_from(header)
        if length == 1 and len(header) == BOX.size + LONG_LENGTH.size:
            (length,) = LONG_LENGTH.unpack_from(header, BOX.size)
        if length < BOX.size:  # 0: to the end of the file
            break
        if kind in NEEDED_BOXES and position + length > size:
            return position + length
        position += length
    return 0


def _segment_end(file: BinaryIO) -> int:
    """Return the end of the segment; 0 if its length is not declared, as in a live recording."""
    file.seek(len(EBML))
    header_length = _read_length(file)
    if header_length is None:
        return 0
    file.seek(header_length, 1)
    if file.read(len(SEGMENT)) != SEGMENT:
        return 0
    length = _read_length(file)
    return 0 if length is None else file.tell() + length


def _read_length(file: BinaryIO) -> int | None:
    """Read the length of an element; return None for an unknown length.

    The field has one byte more than its first byte has leading zero bits.
    """
    first = file.read(1)
    if not first or first == b"\0":
        return None
    count = 9 - first[0].bit_length()
    digits = bytes([first[0] - (1 << (8 - count))]) + file.read(count - 1)
    value = int.from_bytes(digits, "big")
    return None if value == (1 << 7 * count) - 1 else value
