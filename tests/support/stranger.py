"""A second decoder, written from docs/reference/bitstream.md alone: plain integers, one symbol at a time.

Only the network is run by ONNX Runtime, as any decoder may.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

FORMAT = Path(__file__).parents[2] / "docs" / "reference" / "bitstream.md"
CODEC = Path(__file__).parents[2] / "encoder" / "codec"
WORD, STATE = 32, 1 << 64


@cache
def strangers_decays() -> list[int]:
    """Return the numbers of the table in the format's text."""
    block = FORMAT.read_text().split("<!-- decays -->")[1].split("```")[1]
    return [int(word) for word in block.replace("text", "").split()]


@cache
def strangers_frequencies(level: int, bound: int) -> list[int]:
    """Return the frequencies of -bound .. bound."""
    q = strangers_decays()[level]
    beyond = [q]
    for _ in range(bound - 1):
        beyond.append(beyond[-1] * ((q * q) >> 32) >> 32)
    cut = [value >> 9 for value in beyond] + [0]
    side = [max(near - far, 1) for near, far in pairwise(cut)]
    return [*side[::-1], 2**24 - 2 * sum(side), *side]


class StrangersDecoder:
    """Reads symbols from the words of a code."""

    def __init__(self, code: bytes) -> None:
        self._words = [int.from_bytes(code[at : at + 4], "little") for at in range(0, len(code), 4)]
        self._lower, self._range = 0, STATE - 1
        self._point = self._word() << WORD | self._word()

    def _word(self) -> int:
        return self._words.pop(0) if self._words else 0

    def symbol(self, level: int, bound: int) -> int:
        """Return the next integer of -bound .. bound."""
        unit = self._range >> 24
        place = (self._point - self._lower) % STATE // unit
        assert place < 1 << 24
        frequencies = strangers_frequencies(level, bound)
        index = below = 0
        while place >= below + frequencies[index]:
            below += frequencies[index]
            index += 1
        self._lower = (self._lower + unit * below) % STATE
        self._range = unit * frequencies[index]
        if self._range < 1 << WORD:
            self._lower = (self._lower << WORD) % STATE
            self._range <<= WORD
            self._point = (self._point << WORD | self._word()) % STATE
        return index - bound


class StrangersSymbols:
    """Symbols of a segment's code, by either coder."""

    def __init__(self, coder: int, code: bytes) -> None:
        self._range = None if coder == 1 else StrangersDecoder(code)
        self._bytes = zlib.decompress(code, wbits=-15) if coder == 1 else b""

    def read(self, levels: list[int], bound: int) -> list[int]:
        """Return an integer for each level, in the order in which they are wanted."""
        if self._range is None:
            taken, self._bytes = self._bytes[: len(levels)], self._bytes[len(levels) :]
            return list(struct.unpack(f"{len(levels)}b", taken))
        integers = [0] * len(levels)
        for place in sorted(range(len(levels)), key=lambda place: levels[place]):
            integers[place] = self._range.symbol(levels[place], bound)
        return integers


def strangers_weights(
    payload: bytes, shapes: Mapping[str, tuple[int, ...]], before: Mapping[str, NDArray[np.float32]]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield name and weights of each tensor of a SEGM chunk, given those of the segment before."""
    count, coder = struct.unpack_from("<H", payload, 8)[0], payload[11]
    records, code = payload[12 : 12 + 11 * count], payload[12 + 11 * count :]
    if coder == 2:
        end = 14 + struct.unpack_from("<H", payload, 12)[0]
        columns, code = zlib.decompress(payload[14:end], wbits=-15), payload[end:]
        records = b"".join(columns[index::count] for index in range(count))
    symbols = StrangersSymbols(coder, code)
    for index, (name, shape) in enumerate(shapes.items()):
        step, bound, level, flags, *side = struct.unpack_from("<fHBBBBB", records, 11 * index)
        row_level, column_level, channel_level = side
        axis = 1 if flags & 64 else 0
        by_channel = symbols.read([channel_level] * shape[axis], 63) if flags & 32 else [0]
        if flags & 128:
            integers = strangers_latent(symbols, shape, bound, level, row_level)
        else:
            rows = prod(shape[: 2 if flags & 16 else 1])
            columns = prod(shape) // rows
            by_row = symbols.read([row_level] * rows, 63) if flags & 4 else [0] * rows
            by_column = symbols.read([column_level] * columns, 63) if flags & 8 else [0] * columns
            levels = [clamp(level + row + column) for row in by_row for column in by_column]
            integers = symbols.read(levels, bound)
        if flags & 2:
            slice_size = prod(shape[1:])
            for place in range(slice_size, len(integers)):
                integers[place] += integers[place - slice_size]
        steps = [
            np.float32(step) * np.float32(1.41421354 if o % 2 else 1) * np.float32(2.0 ** (o // 2))
            for o in by_channel
        ]
        along = [-1 if each == axis else 1 for each in range(len(shape))]
        weights = np.array(integers, np.float32).reshape(shape) * np.array(
            steps, np.float32
        ).reshape(along)
        yield name, weights + before[name] if flags & 1 else weights


def clamp(level: int) -> int:
    """Return a level within the range of levels."""
    return min(max(level, 0), 63)


def strangers_logarithm(number: int) -> int:
    """Return a sum's logarithm in eighths of an octave."""
    number = min(number, 65535) + 1
    power = 0
    while 2 ** (power + 1) <= number:
        power += 1
    return 8 * (power - 1) + (8 * number >> power)


def strangers_latent(
    symbols: StrangersSymbols, shape: tuple[int, ...], bound: int, level: int, offset_level: int
) -> list[int]:
    """Return the integers of a tensor with contexts, in row-major order."""
    times, channels, height, width = shape
    offsets = symbols.read([offset_level] * channels, 63)
    w = symbols.read([34] * 10, 63)
    known: dict[tuple[int, int, int, int], int] = {}

    def at(t: int, c: int, y: int, x: int) -> int:
        return abs(known.get((t, c, y, x), 0))

    def four(t: int, c: int, y: int, x: int) -> int:
        return at(t, c, y - 1, x) + at(t, c, y + 1, x) + at(t, c, y, x - 1) + at(t, c, y, x + 1)

    def level_at(t: int, c: int, y: int, x: int) -> int:
        sums = [
            at(t - 1, c, y, x),
            at(t - 2, c, y, x),
            sum(at(t, before, y, x) for before in range(c)),
            sum(four(t, before, y, x) for before in range(c)),
        ]
        logs = list(map(strangers_logarithm, sums))
        if (y + x) % 2 == 0:
            total = sum(weight * log for weight, log in zip(w[:4], logs, strict=True))
        else:
            total = sum(weight * log for weight, log in zip(w[4:8], logs, strict=True))
            total += w[8] * strangers_logarithm(four(t, c, y, x)) + 32 * w[9]
        return clamp(level + offsets[c] + (total + 64 >> 7))

    for diagonal in range(times + channels - 1):
        for odd in (0, 1):
            places = [
                (t, diagonal - t, y, x)
                for t in range(times)
                if 0 <= diagonal - t < channels
                for y in range(height)
                for x in range(width)
                if (y + x) % 2 == odd
            ]
            integers = symbols.read([level_at(*place) for place in places], bound)
            known |= zip(places, integers, strict=True)
    return [known[place] for place in sorted(known)]


def strangers_chunks(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield place, type and payload of each chunk of a whole file."""
    assert data[:4] == b"NERV"
    assert data[4:8] in (b"\1\0\0\0", b"\2\0\0\0")
    at, clip, segment = 8, 0, 0
    while at < len(data):
        kind, length, start = struct.unpack_from("<4sII", data, at)
        payload, (checksum,) = (
            data[at + 12 : at + 12 + length],
            struct.unpack_from("<I", data, at + 12 + length),
        )
        is_delta = kind == b"SEGM" and payload[10] == 1
        assert (start, checksum) == (
            zlib.crc32(data[at : at + 8]),
            zlib.crc32(payload, segment if is_delta else clip),
        )
        clip = checksum if kind in (b"HEAD", b"TOPO") else clip
        segment = checksum if kind == b"SEGM" else segment
        yield at, kind, payload
        at += 16 + length


def strangers_graph(payload: bytes, version: int) -> onnx.ModelProto:
    """Return the network of a TOPO chunk, with names in the places' stead."""
    dictionary = (CODEC / f"dictionary{version}.bin").read_bytes()
    model = onnx.ModelProto.FromString(zlib.decompressobj(-15, dictionary).decompress(payload))
    graph, made, following = model.graph, ["t"], 0
    for kind, values in (("tensor", graph.input[1:]), ("constant", graph.initializer)):
        for index, value in enumerate(values):
            value.name = f"{kind} {index}"
    for node in graph.node:
        for index, place in enumerate(node.input):
            if place.startswith("-"):
                node.input[index] = made[int(place)]
            elif place.startswith("+"):
                following += int(place[1:] or 0)
                node.input[index] = f"tensor {following}"
                following += 1
            elif place:
                node.input[index] = f"constant {int(place[1:])}"
        for index, name in enumerate(node.output):
            if name:
                made.append(name if name == "rgb" else f"value {len(made)}")
                node.output[index] = made[-1]
    return model


def strangers_pictures(data: bytes, times: list[float]) -> NDArray[np.uint8]:
    """Return the pictures (N, 3, height, width) of a file at times in frames since its start."""
    (_, _, head), (_, _, topology), *others, (_, _, index) = strangers_chunks(data)
    segments = [chunk for chunk in others if chunk[1] == b"SEGM"]
    width, height, frames = struct.unpack_from("<HHI", head)
    assert list(struct.iter_unpack("<QIIB", index[:-4])) == [
        (at, *struct.unpack_from("<II", payload), payload[10] == 0) for at, _, payload in segments
    ]
    graph = strangers_graph(topology, data[4])
    shapes = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in graph.graph.input[1:]
    }
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    weights: dict[str, NDArray[np.float32]] = {}
    shown: dict[float, NDArray[np.uint8]] = {}
    for _, _, payload in segments:
        start, count = struct.unpack_from("<II", payload)
        weights = dict(strangers_weights(payload, shapes, weights))
        for time in (time for time in times if start <= min(time, frames - 1) < start + count):
            local = np.array([min(time - start, count - 1)], np.float32)
            colours = session.run(["rgb"], {"t": local, **weights})[0][0, :, :height, :width]
            shown[time] = np.rint(colours.clip(0, 1) * 255).astype(np.uint8)
    return np.stack([shown[time] for time in times])


def strangers_sound(data: bytes) -> tuple[tuple[int, int, str], dict[int, bytes]]:
    """Return the channels, delay and language of a file's sound, and its packets by their numbers."""
    form, packets = (0, 0, ""), dict[int, bytes]()
    for _, kind, payload in strangers_chunks(data):
        if kind == b"SOUN":
            channels, _, delay = struct.unpack_from("<BBH", payload)
            form = channels, delay, payload[4:].decode()
        elif kind == b"OPUS":
            (number,) = struct.unpack_from("<I", payload)
            at = 4
            while at < len(payload):
                (length,) = struct.unpack_from("<H", payload, at)
                packets[number] = payload[at + 2 : at + 2 + length]
                number, at = number + 1, at + 2 + length
    return form, packets


def strangers_subtitles(data: bytes) -> list[tuple[str, str, list[tuple[int, int, str]]]]:
    """Return the language, title and cues of each text track of a file."""
    tracks = list[tuple[str, str, list[tuple[int, int, str]]]]()
    for _, kind, payload in strangers_chunks(data):
        if kind == b"TEXT":
            assert payload[0] == len(tracks)
            end = 2 + payload[1]
            tracks.append((payload[2:end].decode(), payload[end:].decode(), []))
        elif kind == b"CUES":
            at = 1
            while at < len(payload):
                start, stop, length = struct.unpack_from("<IIH", payload, at)
                text = payload[at + 10 : at + 10 + length].decode()
                tracks[payload[0]][2].append((start, stop, text))
                at += 10 + length
    return tracks


def strangers_facts(data: bytes) -> list[tuple[int, str | tuple[int, str]]]:
    """Return the entries of a file's META chunk: kind and text, and the start of a chapter."""
    facts = list[tuple[int, str | tuple[int, str]]]()
    for _, kind, payload in strangers_chunks(data):
        at = 0
        while kind == b"META" and at < len(payload):
            entry, length = struct.unpack_from("<BH", payload, at)
            value = payload[at + 3 : at + 3 + length]
            (start,) = struct.unpack_from("<I", value) if entry == 4 else (0,)
            facts.append((entry, (start, value[4:].decode()) if entry == 4 else value.decode()))
            at += 3 + length
    return facts
