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

from encoder.codec.coder import HUFFMAN, HUFFMAN_BOUND, NUMBERS, PLAIN, RANGE, CoderName
from encoder.codec.container import DELTA_SEGMENT, VERSION
from encoder.codec.context import MAX_PLANES
from encoder.codec.entropy import Integers, RangeDecoder, RangeEncoder
from encoder.codec.tensor_coder import MODES, Coding, best_mode
from encoder.codec.tensor_header import (
    CONTEXT,
    DELTA,
    NOTHING,
    RECORD,
    SECOND,
    CodedTensor,
    Shape,
)
from encoder.common.errors import BitstreamError

PREFIX = struct.Struct("<IIHBB")  # first frame, frames, coded tensors, kind, coder
KEY_SEGMENT = 0
PACKED = struct.Struct("<H")  # length of packed records

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
    """Number of the coder: RANGE, HUFFMAN or PLAIN."""
    records: bytes
    """The records' bytes in the file; another DEFLATE may pack the same records differently."""
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
        encode = _encode_huffman if number == HUFFMAN else _encode_range
        headers, data = encode([tensors[name] for name in shapes], modes)
        records = b"".join(map(bytes, headers))
        return cls(
            start=start,
            frames=frames,
            tensors=headers,
            coder=number,
            records=_pack(records) if number == RANGE else records,
            code=data,
        )

    @property
    def tensor_bytes(self) -> int:
        """Number of bytes of the tensors: their records and code."""
        return len(self.records) + len(self.code)

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
        weights = DECODERS[self.coder](self, shapes)
        for name, tensor in zip(shapes, self.tensors, strict=True):
            if before is not None and tensor.flags & DELTA:
                weights[name] += before[name]
        return weights

    def __bytes__(self) -> bytes:
        """Return the payload of the segment's chunk."""
        kind = KEY_SEGMENT if self.is_key else DELTA_SEGMENT
        prefix = PREFIX.pack(self.start, self.frames, len(self.tensors), kind, self.coder)
        return prefix + self.records + self.code

    @classmethod
    def parse(cls, data: bytes, tensors: int, version: int = VERSION) -> Self:
        """Read the payload of a segment's chunk with a number of tensors, of a file's version.

        The weights are not decoded yet. Raises BitstreamError if the payload is invalid.
        """
        if len(data) < PREFIX.size:
            raise BitstreamError(f"segment needs {PREFIX.size} bytes, got {len(data)}")
        start, frames, count, kind, coder = PREFIX.unpack_from(data)
        if kind not in (KEY_SEGMENT, DELTA_SEGMENT) or coder not in DECODERS:
            raise BitstreamError(f"unknown kind of segment {kind} or coder {coder}")
        if coder == RANGE and version == 1:
            raise BitstreamError(f"files of version 1 have no coder {RANGE}")
        if count != tensors:
            raise BitstreamError(f"segment has {count} tensors, expected {tensors}")
        length = count * RECORD.size
        packed = PACKED.size if coder == RANGE else 0
        if len(data) < PREFIX.size + (packed or length):
            raise BitstreamError(f"segment of {count} tensors cannot have {len(data)} bytes")
        if packed:
            stop = PREFIX.size + packed + PACKED.unpack_from(data, PREFIX.size)[0]
            plain = _unpack(data[PREFIX.size + packed : stop], length)
        else:
            stop = PREFIX.size + length
            plain = data[PREFIX.size : stop]
        headers = tuple(CodedTensor.parse(plain, at) for at in range(0, length, RECORD.size))
        segment = cls(
            start=start,
            frames=frames,
            tensors=headers,
            coder=coder,
            records=data[PREFIX.size : stop],
            code=data[stop:],
        )
        if coder == HUFFMAN and any(t.flags & ~DELTA or t.bound != HUFFMAN_BOUND for t in headers):
            raise BitstreamError(
                f"segment at frame {start} has models, which Huffman's code has not"
            )
        if coder == PLAIN and any(t.flags & CONTEXT for t in headers):
            raise BitstreamError(f"segment at frame {start} has contexts, which its coder has not")
        if segment.is_key != (kind == KEY_SEGMENT):
            raise BitstreamError(f"segment at frame {start} is of the other kind than it says")
        return segment


def _pack(records: bytes) -> bytes:
    """Return the length and the DEFLATE stream of records, with equal fields next to each other."""
    fields = np.frombuffer(records, np.uint8).reshape(-1, RECORD.size)
    packer = zlib.compressobj(9, wbits=-15, memLevel=9)
    packed = packer.compress(fields.T.tobytes()) + packer.flush()
    return PACKED.pack(len(packed)) + packed


def _unpack(packed: bytes, length: int) -> bytes:
    """Return records of a length; raises BitstreamError."""
    unpacker = zlib.decompressobj(wbits=-15)
    try:
        fields = unpacker.decompress(packed, length + 1)
    except zlib.error as error:
        raise BitstreamError(f"records cannot be unpacked: {error}") from None
    if len(fields) != length or not unpacker.eof or unpacker.unused_data:
        raise BitstreamError(f"records must have {length} bytes, and nothing after them")
    return np.frombuffer(fields, np.uint8).reshape(RECORD.size, -1).T.tobytes()


Coded = tuple[tuple[CodedTensor, ...], bytes]


def _encode_range(tensors: list[Quantized], modes: Sequence[int]) -> Coded:
    flags = [
        DELTA * t.delta | SECOND * (t.channels.size > 0 and t.channel_axis == 1) for t in tensors
    ]
    codings: list[Coding] = []
    planes = MAX_PLANES
    for tensor, given in zip(tensors, flags, strict=True):
        best = best_mode(
            tensor.integers,
            step=tensor.step,
            flags=given,
            channels=tensor.channels,
            modes=modes,
            planes=planes,
        )
        planes -= best.planes
        codings.append(best)
    coder = RangeEncoder()
    for coding in codings:
        coding.encode(coder)
    return tuple(coding.tensor for coding in codings), coder.bytes()


def _decode_range(segment: Segment, shapes: Mapping[str, Shape]) -> Weights:
    with_contexts = [
        shape
        for t, shape in zip(segment.tensors, shapes.values(), strict=True)
        if t.flags & CONTEXT
    ]
    if sum(prod(shape[:2]) for shape in with_contexts) > MAX_PLANES:
        raise BitstreamError(f"tensors with contexts have over {MAX_PLANES} planes")
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


DECODERS: Mapping[int, Callable[[Segment, Mapping[str, Shape]], Weights]] = {
    PLAIN: _decode_range,
    HUFFMAN: _decode_huffman,
    RANGE: _decode_range,
}
