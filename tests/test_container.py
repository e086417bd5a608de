import contextlib
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.codec.container import (
    HEADER,
    MAX_RATE,
    MAX_SETTINGS_BYTES,
    MAX_SIDE,
    SIGNATURE,
    VERSION,
    Header,
    chunk,
    chunks,
    signature,
)
from encoder.codec.errors import BitstreamError, UnsupportedVersionError

HEADER_1 = Header(width=320, height=180, frames=132, rate=Fraction(30000, 1001), continuous=True, settings="--seed 0 é")


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


@given(st.lists(st.tuples(st.binary(min_size=4, max_size=4), st.binary(max_size=50)), max_size=5))
def test_chunks_round_trip(parts):
    assert list(chunks(signature() + b"".join(chunk(*part) for part in parts))) == parts


@pytest.mark.parametrize("length", range(SIGNATURE.size))
def test_file_shorter_than_the_signature(length):
    with pytest.raises(BitstreamError, match=f"signature needs 8 bytes, got {length}"):
        list(chunks(signature()[:length]))


def test_foreign_file():
    with pytest.raises(BitstreamError, match="not a nervcast clip: starts with b'RIFF'"):
        list(chunks(b"RIFF____"))


def test_later_version():
    with pytest.raises(UnsupportedVersionError, match=f"version {VERSION + 1}"):
        list(chunks(SIGNATURE.pack(b"NERV", VERSION + 1)))


def test_every_truncation_of_a_chunk_is_noticed():
    data = signature() + chunk(b"TEST", b"payload")
    for length in range(SIGNATURE.size + 1, len(data)):
        with pytest.raises(BitstreamError, match="ends inside"):
            list(chunks(data[:length]))


def test_every_bit_flip_in_a_chunk_is_noticed():
    data = signature() + chunk(b"TEST", b"payload")
    for bit in range(8 * SIGNATURE.size, 8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            list(chunks(bytes(damaged)))
