"""A clip: header, topology and segments.

`Clip.parse` reads a clip from bytes, and `bytes(clip)` gives the same bytes back. Chunks of unknown
kinds are left out.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import onnx

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
from encoder.codec.segment import Segment, Weights
from encoder.codec.segment_index import Entry, index_bytes
from encoder.codec.topology import Topology
from encoder.codec.writer import ClipBytes
from encoder.common.errors import BitstreamError

BLOCK_BYTES = 1 << 20
"""Bytes of a file that are read at once, so that few bytes are held twice."""
MAX_NOTES = 100
"""Largest number of notes about a file's damage."""
MAX_RECORDS = 1 << 20
"""Largest number of coded tensors in all segments together."""
MAX_CHAIN_WEIGHTS = 1 << 27
"""Largest number of weights of a key segment and its delta segments together.

A seek may have to decode all of them.
"""


@dataclass(frozen=True)
class Clip:
    """The content of a file."""

    header: Header
    topology: Topology
    segments: Sequence[Segment]
    """Segments in the order of their frames, at least one. A damaged one leaves a gap of frames."""
    damage: tuple[str, ...] = ()
    """Faults of the file, described for people."""

    @classmethod
    def parse(cls, data: bytes, *, strict: bool = True) -> Self:
        """Read a whole file.

        If not strict, leave out damaged segments and the segments that depend on them.
        The clip's `damage` then names them. Raises BitstreamError if the file cannot be used.
        """
        return cls._read(
            (data[start : start + BLOCK_BYTES] for start in range(0, len(data), BLOCK_BYTES)),
            strict=strict,
        )

    @classmethod
    def _read(cls, blocks: Iterable[bytes], *, strict: bool) -> Self:
        reader = ClipReader()
        for block in blocks:
            reader.feed(block)
        header, topology, segments, damage = reader.finish()
        if strict and damage:
            raise BitstreamError(damage[0])
        return cls(header, topology, segments, damage)

    @classmethod
    def read(cls, path: Path, *, strict: bool = True) -> Self:
        """Read a file from disk.

        Raises BitstreamError as `parse` does, and if there is no such file.
        """
        try:
            with path.open("rb") as file:
                return cls._read(iter(partial(file.read, BLOCK_BYTES), b""), strict=strict)
        except OSError as error:
            raise BitstreamError(f"cannot read {path}: {error.strerror}") from None

    def __bytes__(self) -> bytes:
        """Return the file's bytes."""
        made = ClipBytes(self.header, self.topology)
        return b"".join([made.start, *map(made.segment, self.segments), made.end])

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight over all segments, with their records and code."""
        return (
            8
            * sum(len(bytes(segment)) for segment in self.segments)
            / (len(self.segments) * self.topology.weights)
        )

    @property
    def end(self) -> int:
        """Number of the frame after the last segment: the header's `frames` in a whole clip."""
        last = self.segments[-1]
        return last.start + last.frames

    def locate(self, time: float) -> tuple[int, float]:
        """Return the index of the segment that shows a time, and the time since its start.

        Both times are in frames; the given one counts from the clip's start.
        A segment's last frame lasts until the next segment starts, even if frames are missing.
        """
        time = min(max(time, 0.0), self.header.frames - 1)
        index = max(bisect_right(self.segments, time, key=lambda segment: segment.start) - 1, 0)
        segment = self.segments[index]
        return index, min(max(time - segment.start, 0.0), segment.frames - 1)


class ClipReader:
    """Reader of a file that arrives in pieces: complete segments are usable at once."""

    def __init__(self) -> None:
        self._chunks = ChunkReader()
        self.header: Header | None = None
        self.topology: Topology | None = None
        self.segments: list[Segment] = []
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


class SegmentModels:
    """ONNX models of a clip's segments.

    The latest weights are kept, because a delta segment that needs them may follow.
    """

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self.header = clip.header
        self._latest: tuple[int, Weights] = (-1, {})

    def weights(self, index: int) -> Weights:
        """Return the weights of a segment. Raises BitstreamError if they are damaged."""
        latest, weights = self._latest
        first = index
        while not self._clip.segments[first].is_key and first - 1 != latest and first != latest:
            first -= 1
        before = weights if first == latest or first - 1 == latest else None
        for position in range(first + (first == latest), index + 1):
            before = self._clip.segments[position].weights(self._clip.topology.tensors, before)
        assert before is not None  # the first segment of a clip is a key
        self._latest = index, before
        return before

    def model(self, index: int) -> onnx.ModelProto:
        """Return the model of a segment with its weights. Raises the errors of `weights`."""
        return self._clip.topology.bind(self.weights(index))


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
