"""A segment: a run of frames with its own weights.

A key segment is coded alone; a delta segment adds to the weights of the segment before.
"""

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from encoder.codec.coder import HUFFMAN, HUFFMAN_BOUND, NUMBERS, RANGE, CoderName
from encoder.codec.container import DELTA_SEGMENT
from encoder.codec.entropy import Integers, RangeDecoder, RangeEncoder
from encoder.codec.tensor_coder import MODES, best_mode
from encoder.codec.tensor_header import DELTA, NOTHING, RECORD, SECOND, CodedTensor, Shape
from encoder.common.errors import BitstreamError

PREFIX = struct.Struct("<IIHBB")  # first frame, frames, coded tensors, kind, coder
KEY_SEGMENT = 0

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A tensor as integers."""

    integers: Integers
    step: float
    """Quantization step as float32 holds it, before a channel's offset."""
    channels: Integers = field(default_factory=NOTHING.copy)
    """Offsets of the channels' steps in half octaves, or an empty array."""
    channel_axis: int = 0
    """Axis of the channels: 0 or 1."""
    delta: bool = False
    """Whether the weights are added to those of the segment before."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of frames with its own weights."""

    start: int
    """Number of the first frame."""
    frames: int
    tensors: tuple[CodedTensor, ...]
    """Record of each coded tensor of the topology, in its order."""
    coder: int
    """Number of the coder: RANGE or HUFFMAN."""
    code: bytes
    """The coder's output for all tensors."""

    @classmethod
    def encode(
        cls,
        start: int,
        frames: int,
        tensors: Mapping[str, Quantized],
        shapes: Mapping[str, Shape],
        *,
        coder: CoderName = "range",
        modes: Sequence[int] = MODES,
    ) -> Self:
        """Code the tensors of a topology.

        `modes` are the modes of a tensor that the range coder tries.
        Raises ValueError if a shape is not the topology's or an integer is too large.
        """
        for name, shape in shapes.items():
            if tensors[name].integers.shape != shape:
                raise ValueError(
                    f"tensor {name!r} must have shape {shape}, got {tensors[name].integers.shape}"
                )
        number = NUMBERS[coder]
        records, data = CODERS[number].encode([tensors[name] for name in shapes], modes)
        return cls(start=start, frames=frames, tensors=records, coder=number, code=data)

    @property
    def is_key(self) -> bool:
        """Whether the segment is coded alone."""
        return not any(tensor.flags & DELTA for tensor in self.tensors)

    def weights(self, shapes: Mapping[str, Shape], before: Weights | None = None) -> Weights:
        """Decode and dequantize the tensors.

        A delta segment adds to `before`, the weights of the segment before.
        Raises BitstreamError if the code is invalid or a delta segment gets no `before`.
        """
        if before is None and not self.is_key:
            raise BitstreamError(f"segment at frame {self.start} needs the one before")
        weights = CODERS[self.coder].decode(self, shapes)
        for name, tensor in zip(shapes, self.tensors, strict=True):
            if before is not None and tensor.flags & DELTA:
                weights[name] += before[name]
        return weights

    def __bytes__(self) -> bytes:
        """Return the payload of the segment's chunk."""
        kind = KEY_SEGMENT if self.is_key else DELTA_SEGMENT
        prefix = PREFIX.pack(self.start, self.frames, len(self.tensors), kind, self.coder)
        return prefix + b"".join(map(bytes, self.tensors)) + self.code

    @classmethod
    def parse(cls, data: bytes, tensors: int) -> Self:
        """Read the payload of a segment's chunk with a number of tensors.

        The weights are not decoded yet. Raises BitstreamError if the payload is invalid.
        """
        if len(data) < PREFIX.size:
            raise BitstreamError(f"segment needs {PREFIX.size} bytes, got {len(data)}")
        start, frames, count, kind, coder = PREFIX.unpack_from(data)
        if kind not in (KEY_SEGMENT, DELTA_SEGMENT) or coder not in CODERS:
            raise BitstreamError(f"unknown kind of segment {kind} or coder {coder}")
        if count != tensors:
            raise BitstreamError(f"segment has {count} tensors, expected {tensors}")
        stop = PREFIX.size + count * RECORD.size
        if len(data) < stop:
            raise BitstreamError(f"segment of {count} tensors cannot have {len(data)} bytes")
        records = tuple(CodedTensor.parse(data, at) for at in range(PREFIX.size, stop, RECORD.size))
        segment = cls(start=start, frames=frames, tensors=records, coder=coder, code=data[stop:])
        if coder == HUFFMAN and any(t.flags & ~DELTA or t.bound != HUFFMAN_BOUND for t in records):
            raise BitstreamError(
                f"segment at frame {start} has models, which Huffman's code has not"
            )
        if segment.is_key != (kind == KEY_SEGMENT):
            raise BitstreamError(f"segment at frame {start} is of the other kind than it says")
        return segment


Coded = tuple[tuple[CodedTensor, ...], bytes]


def _encode_range(tensors: list[Quantized], modes: Sequence[int]) -> Coded:
    flags = [
        DELTA * t.delta | SECOND * (t.channels.size > 0 and t.channel_axis == 1) for t in tensors
    ]
    codings = [
        best_mode(t.integers, step=t.step, flags=f, channels=t.channels, modes=modes)
        for t, f in zip(tensors, flags, strict=True)
    ]
    coder = RangeEncoder()
    for coding in codings:
        coding.encode(coder)
    return tuple(coding.tensor for coding in codings), coder.bytes()


def _decode_range(segment: Segment, shapes: Mapping[str, Shape]) -> Weights:
    coder = RangeDecoder(segment.code)
    return {
        name: t.decode(coder, shape)
        for t, (name, shape) in zip(segment.tensors, shapes.items(), strict=True)
    }


def _encode_huffman(tensors: list[Quantized], _: Sequence[int]) -> Coded:
    largest = max(int(np.abs(t.integers).max()) for t in tensors)
    if largest > HUFFMAN_BOUND:
        raise ValueError(
            f"integers must be in -{HUFFMAN_BOUND}..{HUFFMAN_BOUND} for Huffman's code, "
            f"got {largest}"
        )
    if any(t.channels.size for t in tensors):
        raise ValueError("Huffman's code has one step for each tensor")
    symbols = np.concatenate([t.integers.ravel() for t in tensors]).astype(np.int8)
    # DEFLATE without its search for repetitions is Huffman's code alone.
    packer = zlib.compressobj(9, wbits=-15, strategy=zlib.Z_HUFFMAN_ONLY)
    records = [
        CodedTensor(step=t.step, bound=HUFFMAN_BOUND, level=0, flags=DELTA * t.delta)
        for t in tensors
    ]
    return tuple(records), packer.compress(symbols.tobytes()) + packer.flush()


def _decode_huffman(segment: Segment, shapes: Mapping[str, Shape]) -> Weights:
    sizes = [prod(shape) for shape in shapes.values()]
    unpacker = zlib.decompressobj(wbits=-15)
    try:
        data = unpacker.decompress(segment.code, sum(sizes) + 1)
    except zlib.error as error:
        raise BitstreamError(f"weights cannot be unpacked: {error}") from None
    if len(data) != sum(sizes) or not unpacker.eof or unpacker.unused_data:
        raise BitstreamError(f"segment must hold {sum(sizes)} weights, and nothing after them")
    symbols = np.frombuffer(data, np.int8)
    if symbols.min() < -HUFFMAN_BOUND:
        raise BitstreamError(f"integers must be in -{HUFFMAN_BOUND}..{HUFFMAN_BOUND}")
    parts = np.split(symbols, np.cumsum(sizes)[:-1])
    return {
        name: part.reshape(shape).astype(np.float32) * np.float32(tensor.step)
        for part, tensor, (name, shape) in zip(parts, segment.tensors, shapes.items(), strict=True)
    }


@dataclass(frozen=True)
class Coder:
    """A way to code the integers of all tensors of a segment."""

    encode: Callable[[list[Quantized], Sequence[int]], Coded]
    decode: Callable[[Segment, Mapping[str, Shape]], Weights]


CODERS = {
    RANGE: Coder(_encode_range, _decode_range),
    HUFFMAN: Coder(_encode_huffman, _decode_huffman),
}
