import contextlib
import zlib
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.codec.container import (
    HEAD,
    HEADER,
    MAX_RATE,
    MAX_SETTINGS_BYTES,
    MAX_SIDE,
    SEGMENT,
    SIGNATURE,
    TOPOLOGY,
    VERSION,
    Chunk,
    ChunkReader,
    Header,
    file_bytes,
    signature,
)
from encoder.common.errors import BitstreamError, UnsupportedVersionError

HEADER_1 = Header(
    width=320,
    height=180,
    frames=132,
    rate=Fraction(30000, 1001),
    continuous=True,
    settings="--seed 0 é",
)


def test_header_round_trip():
    assert Header.parse(bytes(HEADER_1)) == HEADER_1


def test_header_bytes_are_those_of_the_documentation():
    header = replace(HEADER_1, settings="")
    assert bytes(header).hex() == "4001b4008400000030750000e90300000100"


@pytest.mark.parametrize("length", range(HEADER.size))
def test_truncated_header(length):
    with pytest.raises(BitstreamError, match=f"header has {length} bytes"):
        Header.parse(bytes(HEADER_1)[:length])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "frame size"),
        ({"height": MAX_SIDE + 1}, "frame size"),
        ({"frames": 0}, "frames = 0"),
        ({"rate": Fraction(0)}, "frame rate"),
        ({"rate": Fraction(MAX_RATE + 1)}, "frame rate"),
    ],
)
def test_header_out_of_range(change, message):
    with pytest.raises(BitstreamError, match=message):
        Header.parse(bytes(replace(HEADER_1, **change)))


def test_header_of_rate_zero_over_zero():
    data = HEADER.pack(320, 180, 132, 0, 0, 0)
    with pytest.raises(BitstreamError, match="frame rate"):
        Header.parse(data)


def test_unknown_flags():
    with pytest.raises(BitstreamError, match="unknown flags 0x2"):
        Header.parse(HEADER.pack(320, 180, 132, 25, 1, 2))


def test_long_settings_are_cut_between_characters():
    header = Header.parse(bytes(replace(HEADER_1, settings="é" * MAX_SETTINGS_BYTES)))
    assert header.settings == "é" * (MAX_SETTINGS_BYTES // 2)


def test_settings_that_are_not_text():
    with pytest.raises(BitstreamError, match="not UTF-8"):
        Header.parse(bytes(replace(HEADER_1, settings="")) + b"\xff")


@given(st.binary(max_size=64))
def test_garbage_header_never_crashes(data):
    with contextlib.suppress(BitstreamError):
        assert 0 < Header.parse(data).rate <= MAX_RATE


KEY, DELTA = bytes(12), bytes(10) + b"\1\0"
"""Payloads of segments, as far as their kind goes."""
FILE = file_bytes(
    [
        (HEAD, b"head"),
        (TOPOLOGY, b"graph"),
        (b"TEST", b"payload"),
        (SEGMENT, KEY),
        (b"MORE", bytes(40)),
    ]
)


def read(data: bytes, *, piece: int = 1 << 30) -> tuple[list[Chunk], ChunkReader]:
    reader = ChunkReader()
    found = [
        part
        for start in range(0, len(data), piece)
        for part in reader.feed(data[start : start + piece])
    ]
    return found, reader


@given(
    st.lists(st.tuples(st.binary(min_size=4, max_size=4), st.binary(max_size=50)), max_size=5),
    st.integers(1, 40),
)
def test_chunks_round_trip_in_pieces_of_any_size(parts, piece):
    found, reader = read(file_bytes(parts), piece=piece)
    assert [(part.kind, part.payload) for part in found] == parts
    assert all(part.intact for part in found)
    assert (reader.rest_bytes, reader.skipped_bytes) == (0, 0)


def test_offsets_are_those_in_the_file():
    for part in read(FILE)[0]:
        assert FILE[part.offset : part.offset + 4] == part.kind


def test_chunk_bytes_are_those_of_the_documentation():
    chunks = file_bytes([(HEAD, b"abc"), (TOPOLOGY, b"de")])[SIGNATURE.size :]
    head = b"HEAD\3\0\0\0" + crc(b"HEAD\3\0\0\0") + b"abc" + crc(b"abc")
    assert chunks == head + b"TOPO\2\0\0\0" + crc(b"TOPO\2\0\0\0") + b"de" + crc(b"abcde")


def crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def intact(data: bytes) -> list[bool]:
    return [part.intact for part in read(data)[0]]


def test_chunks_of_another_file_do_not_fit():
    parts = [(HEAD, b"one"), (TOPOLOGY, b"graph"), (SEGMENT, KEY)]
    other = file_bytes([(HEAD, b"two"), *parts[1:]])
    start = read(other)[0][2].offset
    assert intact(file_bytes(parts)) == [True, True, True]
    assert intact(file_bytes(parts) + other[start:]) == [True, True, True, False]


def test_delta_segments_fit_behind_the_one_they_were_made_for():
    keys = [KEY + b"first", KEY + b"other"]
    first, other = (
        file_bytes([(HEAD, b""), (TOPOLOGY, b""), (SEGMENT, key), (SEGMENT, DELTA)]) for key in keys
    )
    start = read(other)[0][3].offset
    assert intact(other) == [True] * 4
    assert intact(first[:start] + other[start:]) == [True, True, True, False]


@pytest.mark.parametrize("length", range(SIGNATURE.size))
def test_file_shorter_than_the_signature(length):
    found, reader = read(signature()[:length])
    assert (found, reader.rest_bytes) == ([], length)


def test_foreign_file():
    with pytest.raises(BitstreamError, match="not a nervcast clip: starts with b'RIFF'"):
        read(b"RIFF____")


def test_later_version():
    with pytest.raises(
        UnsupportedVersionError,
        match=f"version {VERSION + 1}, this decoder reads versions 1 to {VERSION}",
    ):
        read(SIGNATURE.pack(b"NERV", VERSION + 1))


def test_every_truncation_leaves_a_rest():
    ends = {len(FILE), *(part.offset for part in read(FILE)[0])}
    for length in range(SIGNATURE.size, len(FILE)):
        assert (read(FILE[:length])[1].rest_bytes > 0) == (length not in ends)


def test_every_bit_flip_is_noticed():
    for bit in range(8 * SIGNATURE.size, 8 * len(FILE)):
        damaged = bytearray(FILE)
        damaged[bit // 8] ^= 1 << bit % 8
        found, reader = read(bytes(damaged))
        whole = len(found) == 5 and all(part.intact for part in found)
        assert not whole or reader.skipped_bytes or reader.rest_bytes


def test_reading_goes_on_behind_a_damaged_chunk():
    _, _, first, second, _ = read(FILE)[0]
    damaged = bytearray(FILE)
    damaged[first.offset + 13] ^= 1  # payload
    assert intact(bytes(damaged)) == [True, True, False, True, True]
    damaged[first.offset + 5] ^= 1  # length
    found, reader = read(bytes(damaged))
    assert [part.kind for part in found] == [HEAD, TOPOLOGY, SEGMENT, b"MORE"]
    assert reader.skipped_bytes == second.offset - first.offset


def test_many_false_starts_are_passed_over_in_no_time():
    assert read(signature() + SEGMENT * 250_000)[0] == []
