"""Files with chunks that no writer would put there."""

import struct
import zlib

from encoder.codec.clip import Clip
from encoder.codec.container import CHUNK, SEGMENT, ChunkReader


def chunked(clip: Clip, *extra: tuple[bytes, bytes], segment: int = 1) -> bytes:
    """Return a clip's bytes with further chunks before a segment."""
    data = bytes(clip)
    topology = next(chunk for chunk in ChunkReader().feed(data) if chunk.kind == b"TOPO")
    seed = zlib.crc32(topology.payload, zlib.crc32(bytes(clip.header)))
    place = [chunk.offset for chunk in ChunkReader().feed(data) if chunk.kind == SEGMENT][segment]
    made = b""
    for kind, payload in extra:
        start = CHUNK.pack(kind, len(payload))
        made += start + struct.pack("<I", zlib.crc32(start)) + payload
        made += struct.pack("<I", zlib.crc32(payload, seed))
    return data[:place] + made + data[place:]
