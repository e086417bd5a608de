"""A clip: header, topology and segments.

`Clip.parse` reads a clip from bytes, and `bytes(clip)` gives the same bytes back. Chunks of unknown
kinds are left out.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import onnx

from encoder.codec.clip_reader import ClipReader
from encoder.codec.container import Header
from encoder.codec.extras import Extras
from encoder.codec.segment import Segment, Weights
from encoder.codec.sound import Sound
from encoder.codec.topology import Topology
from encoder.codec.writer import ClipBytes
from encoder.common.errors import BitstreamError

BLOCK_BYTES = 1 << 20
"""Bytes of a file that are read at once, so that few bytes are held twice."""


@dataclass(frozen=True)
class Clip:
    """The content of a file."""

    header: Header
    topology: Topology
    segments: Sequence[Segment]
    """Segments in the order of their frames, at least one. A damaged one leaves a gap of frames."""
    damage: tuple[str, ...] = ()
    """Faults of the file, described for people."""
    extras: Extras = field(default_factory=Extras)
    """Sound, subtitles, and facts about the film."""

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
        return cls(header, topology, segments, damage, reader.extras.found)

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
        made = ClipBytes(self.header, self.topology, self.extras)
        return b"".join([made.start, *map(made.segment, self.segments), made.end])

    @property
    def sound(self) -> Sound | None:
        """Sound, if the clip has any."""
        return self.extras.sound

    @property
    def extra_bytes(self) -> int:
        """Bytes of the file that are not for pictures."""
        rate = self.header.rate
        return self.extras.file_bytes((x.start + x.frames) / rate for x in self.segments)

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
