"""Reading of a clip whose bytes arrive in pieces: each complete segment is usable at once."""

from encoder.codec.container import (
    HEAD,
    INDEX,
    MAX_FILE_BYTES,
    SEGMENT,
    TOPOLOGY,
    Chunk,
    ChunkReader,
    Header,
)
from encoder.codec.extras_reader import KINDS, ExtrasReader
from encoder.codec.segment import Segment
from encoder.codec.segment_index import Entry, index_bytes
from encoder.codec.topology import Topology
from encoder.common.errors import BitstreamError

MAX_NOTES = 100
"""Largest number of notes about a file's damage."""
MAX_RECORDS = 1 << 20
"""Largest number of coded tensors in all segments together."""
MAX_CHAIN_WEIGHTS = 1 << 27
"""Largest number of weights of a key segment and its delta segments together.

A seek may have to decode all of them.
"""


class ClipReader:
    """Reader of a file that arrives in pieces: complete segments are usable at once."""

    def __init__(self) -> None:
        self._chunks = ChunkReader()
        self.header: Header | None = None
        self.topology: Topology | None = None
        self.segments: list[Segment] = []
        self.extras = ExtrasReader()
        """Reader of sound, subtitles, and facts about the film."""
        self._damage: list[str] = []
        self._notes = 0
        self._entries: list[Entry] = []
        self._index: bytes | None = None
        self._size = 0
        self._records = 0
        self._chain = 0

    @property
    def is_whole(self) -> bool:
        """Whether the file's last chunk has been read."""
        return self._index is not None

    @property
    def file_bytes(self) -> int:
        """Number of bytes read so far."""
        return self._size

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises BitstreamError if the file cannot be used at all or becomes too large.
        """
        self._size += len(data)
        if self._size > MAX_FILE_BYTES:
            raise BitstreamError(f"clip is larger than {MAX_FILE_BYTES} bytes")
        for part in self._chunks.feed(data):
            if self.header is None:
                self.header = Header.parse(_essential(part, HEAD))
            elif self.topology is None:
                topology = Topology.parse(_essential(part, TOPOLOGY), self._chunks.version)
                self.topology = _fitting(topology, self.header)
            else:
                self._take(part, self.header, self.topology)

    @property
    def damage(self) -> tuple[str, ...]:
        """Faults of the chunks so far, described for people."""
        more = self._notes - MAX_NOTES
        return (*self._damage, *([f"{more} more chunks are damaged"] if more > 0 else []))

    def finish(self) -> tuple[Header, Topology, tuple[Segment, ...], tuple[str, ...]]:
        """Return the header, topology, segments and faults of the whole file.

        Raises BitstreamError if no frame can be shown.
        """
        if self.header is None or self.topology is None:
            raise BitstreamError("clip ends before its first segment")
        damage = list(self.damage)
        if self._chunks.skipped_bytes:
            damage.append(f"{self._chunks.skipped_bytes} bytes belong to no chunk")
        if self._chunks.rest_bytes:
            damage.append(
                f"clip ends inside a chunk, of which it has {self._chunks.rest_bytes} bytes"
            )
        if self._position < self.header.frames:
            damage.append(f"frames from {self._position} to the end are missing")
        if self._index != index_bytes(self._entries) and not damage:
            damage.append(
                "index is missing" if self._index is None else "index does not fit the segments"
            )
        if not self.segments:
            raise BitstreamError(damage[0])
        return self.header, self.topology, tuple(self.segments), tuple(damage)

    @property
    def _position(self) -> int:
        """Number of the frame after the last segment."""
        return self.segments[-1].start + self.segments[-1].frames if self.segments else 0

    def _take(self, part: Chunk, header: Header, topology: Topology) -> None:
        where = f"chunk {part.kind.decode('ascii', 'backslashreplace')} at byte {part.offset}"
        if not part.intact:
            self._note(f"{where} is damaged: its checksum differs")
            return
        try:
            if self._index is not None or part.kind in (HEAD, TOPOLOGY):
                raise BitstreamError("it is out of order")  # noqa: TRY301 (as the calls below do)
            if part.kind == SEGMENT:
                segment = Segment.parse(part.payload, len(topology.tensors), topology.version)
                self._take_segment(segment, part.offset, header, topology)
            elif part.kind == INDEX:
                self._index = part.payload
            elif part.kind in KINDS:
                self.extras.take(part.kind, part.payload, header, begun=bool(self.segments))
        except BitstreamError as error:
            self._note(f"{where} cannot be used: {error}")

    def _note(self, text: str) -> None:
        self._notes += 1
        if self._notes <= MAX_NOTES:
            self._damage.append(text)

    def _take_segment(
        self, segment: Segment, offset: int, header: Header, topology: Topology
    ) -> None:
        stop = segment.start + segment.frames
        if not self._position <= segment.start < stop <= header.frames:
            raise BitstreamError(
                f"segment of frames {segment.start} to {stop} cannot follow frame {self._position}"
            )
        self._records += len(segment.tensors)
        self._chain = topology.weights if segment.is_key else self._chain + topology.weights
        _check_lengths(self._records, self._chain)
        if not segment.is_key and (segment.start > self._position or not self.segments):
            raise BitstreamError(f"segment at frame {segment.start} needs the one before")
        if segment.start > self._position:
            self._note(f"frames {self._position} to {segment.start - 1} are missing")
        self._entries.append(
            Entry(offset=offset, start=segment.start, frames=segment.frames, is_key=segment.is_key)
        )
        self.segments.append(segment)


def check_lengths(topology: Topology, segments: int, chain: int) -> None:
    """Raise BitstreamError if a clip has too many segments, in total or between two keys.

    `chain` is the number of segments from one key up to the next.
    """
    _check_lengths(segments * len(topology.tensors), chain * topology.weights)


def _check_lengths(records: int, weights: int) -> None:
    if records > MAX_RECORDS:
        raise BitstreamError("clip has too many segments: make them longer")
    if weights > MAX_CHAIN_WEIGHTS:
        raise BitstreamError("clip has too many segments without a key segment")


def _essential(part: Chunk, kind: bytes) -> bytes:
    """Return the payload of an indispensable chunk: header or topology."""
    if part.kind != kind or not part.intact:
        raise BitstreamError(f"chunk {kind.decode()} is missing or damaged")
    return part.payload


def _fitting(topology: Topology, header: Header) -> Topology:
    height, width = topology.frame_shape
    if height < header.even_size[0] or width < header.even_size[1]:
        raise BitstreamError(
            f"topology makes frames of {width}x{height}, {header.width}x{header.height} are needed"
        )
    return topology
