"""A clip: header, topology and segments, as a value that can be read from bytes and become the same bytes."""

import struct
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Self

import numpy as np
import onnx
from numpy.typing import NDArray

from encoder.codec import entropy
from encoder.codec.container import Header, chunk, chunks, signature
from encoder.codec.errors import BitstreamError
from encoder.codec.topology import Shape, Topology

HEAD, TOPOLOGY, SEGMENT = b"HEAD", b"TOPO", b"SEGM"
"""Types of the chunks, in the order in which they stand in a file; there may be many segments."""
PREFIX = struct.Struct("<IIHBx")  # first frame, frames, coded tensors, kind
TENSOR = struct.Struct("<fHH")  # step, decay, bound
KEY = 0
"""Kind of a segment that is coded alone."""
MAX_BOUND = 4095
"""Largest magnitude of a code."""
MAX_FILE_BYTES = 1 << 30

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class CodedTensor:
    """How a tensor of a segment is coded: weight = code * step."""

    step: float
    """Distance of two neighbouring weights."""
    decay: int
    """Parameter of the Laplace model, `entropy.laplace_probabilities`."""
    bound: int
    """Largest magnitude of the codes."""


@dataclass(frozen=True)
class Segment:
    """A run of frames with weights of its own."""

    start: int
    """Number of the first frame."""
    frames: int
    tensors: tuple[CodedTensor, ...]
    """One for each coded tensor of the topology."""
    code: bytes
    """Range coder's output for all tensors."""

    @classmethod
    def encode(
        cls, start: int, frames: int, tensors: Mapping[str, tuple[NDArray[np.int32], float]], shapes: Mapping[str, Shape]
    ) -> Self:
        """Code integers and their step for each tensor of a topology."""
        coded, jobs = list[CodedTensor](), list[tuple[NDArray[np.int32], int, int]]()
        for name, shape in shapes.items():
            codes, step = tensors[name]
            if codes.shape != shape:
                raise ValueError(f"tensor {name!r} must have shape {shape}, got {codes.shape}")
            bound = max(int(np.abs(codes).max()), 1)
            if bound > MAX_BOUND:
                raise ValueError(f"codes of tensor {name!r} must be in -{MAX_BOUND}..{MAX_BOUND}, got {bound}")
            coded.append(CodedTensor(float(np.float32(step)), entropy.best_decay(codes), bound))
            jobs.append((codes, coded[-1].decay, bound))
        return cls(start, frames, tuple(coded), entropy.encode(jobs))

    def weights(self, shapes: Mapping[str, Shape]) -> Weights:
        """Decode and dequantise the tensors; raises BitstreamError."""
        jobs = [(prod(shape), t.decay, t.bound) for shape, t in zip(shapes.values(), self.tensors, strict=True)]
        codes = entropy.decode(self.code, jobs)
        return {
            name: (values.astype(np.float32) * np.float32(tensor.step)).reshape(shape)
            for (name, shape), values, tensor in zip(shapes.items(), codes, self.tensors, strict=True)
        }

    def __bytes__(self) -> bytes:
        """Return the payload of the segment's chunk."""
        table = (TENSOR.pack(t.step, t.decay, t.bound) for t in self.tensors)
        return PREFIX.pack(self.start, self.frames, len(self.tensors), KEY) + b"".join(table) + self.code

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the payload of a segment's chunk; raises BitstreamError. The weights are decoded when asked for."""
        if len(data) < PREFIX.size:
            raise BitstreamError(f"segment needs {PREFIX.size} bytes, got {len(data)}")
        start, frames, count, kind = PREFIX.unpack_from(data)
        if kind != KEY:
            raise BitstreamError(f"unknown kind of segment {kind}")
        code = PREFIX.size + count * TENSOR.size
        if len(data) < code or (len(data) - code) % 4:
            raise BitstreamError(f"segment of {count} tensors cannot have {len(data)} bytes")
        tensors = tuple(CodedTensor(*TENSOR.unpack_from(data, at)) for at in range(PREFIX.size, code, TENSOR.size))
        for tensor in tensors:
            if not (isfinite(tensor.step) and tensor.step > 0 and tensor.decay and 0 < tensor.bound <= MAX_BOUND):
                raise BitstreamError(f"tensor's parameters are out of range: {tensor}")
        return cls(start, frames, tensors, data[code:])


@dataclass(frozen=True)
class Clip:
    """A file's content."""

    header: Header
    topology: Topology
    segments: tuple[Segment, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a whole file; raises BitstreamError."""
        parts = list(chunks(data))
        kinds = [kind for kind, _ in parts]
        if kinds[:2] != [HEAD, TOPOLOGY] or set(kinds[2:]) != {SEGMENT}:
            raise BitstreamError("clip must consist of a header, a topology and segments, in this order")
        header, topology = Header.parse(parts[0][1]), Topology.parse(parts[1][1])
        height, width = topology.frame_shape
        if height < header.even_size[0] or width < header.even_size[1]:
            raise BitstreamError(f"topology makes frames of {width}x{height}, {header.width}x{header.height} are needed")
        segments = tuple(Segment.parse(payload) for _, payload in parts[2:])
        position = 0
        for segment in segments:
            if segment.start != position or not segment.frames:
                raise BitstreamError(f"segment starts at frame {segment.start}, expected {position}")
            if len(segment.tensors) != len(topology.tensors):
                raise BitstreamError(f"segment has {len(segment.tensors)} tensors, expected {len(topology.tensors)}")
            position += segment.frames
        if position != header.frames:
            raise BitstreamError(f"clip holds {position} of its {header.frames} frames")
        return cls(header, topology, segments)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file from disk; raises BitstreamError, also where there is no such file."""
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise BitstreamError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
            data = path.read_bytes()
        except OSError as error:
            raise BitstreamError(f"cannot read {path}: {error.strerror}") from None
        return cls.parse(data)

    def __bytes__(self) -> bytes:
        """Return the file's bytes."""
        segments = (chunk(SEGMENT, bytes(segment)) for segment in self.segments)
        head = chunk(HEAD, bytes(self.header)) + chunk(TOPOLOGY, bytes(self.topology))
        return signature() + head + b"".join(segments)

    def model(self, segment: int) -> onnx.ModelProto:
        """Return the ONNX model of a segment, weights and all; raises BitstreamError."""
        return self.topology.bind(self.segments[segment].weights(self.topology.tensors))

    def locate(self, time: float) -> tuple[int, float]:
        """Return the segment that shows a time (in frames since the clip's start), and the time since that segment's start.

        Between the last frame of a segment and the first of the next the former stays.
        """
        time = min(max(time, 0.0), self.header.frames - 1)
        index = bisect_right(self.segments, time, key=lambda segment: segment.start) - 1
        segment = self.segments[index]
        return index, min(time - segment.start, segment.frames - 1)
