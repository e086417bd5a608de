import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stranger import StrangersDecoder, strangers_frequencies

from encoder.codec import entropy
from encoder.codec.entropy import (
    LEVELS,
    MAX_BOUND,
    PRECISION,
    RangeDecoder,
    RangeEncoder,
    frequencies,
)
from encoder.common.errors import BitstreamError


def laplace(scale: float, size: int, seed: int = 0) -> entropy.Integers:
    return np.rint(np.random.default_rng(seed).laplace(0, scale, size)).astype(np.int32)


@given(
    st.lists(
        st.tuples(st.integers(-MAX_BOUND, MAX_BOUND), st.integers(0, LEVELS - 1)),
        min_size=1,
        max_size=80,
    )
)
@settings(deadline=None)
def test_round_trip(pairs):
    values, levels = (np.array(column, np.int32) for column in zip(*pairs, strict=True))
    bound = max(int(np.abs(values).max()), 1)
    coder = RangeEncoder()
    coder.encode(values, levels, bound)
    coder.encode(values, 30, bound)
    decoder = RangeDecoder(coder.bytes())
    assert np.array_equal(decoder.decode(values.shape, levels, bound), values)
    assert np.array_equal(decoder.decode(values.shape, 30, bound), values)


@pytest.mark.parametrize("bound", [1, 2, 7, 100, 4095])
@pytest.mark.parametrize("level", range(LEVELS))
def test_frequencies_fill_the_range_and_leave_nothing_out(level, bound):
    made = frequencies(level, bound)
    assert made.size == 2 * bound + 1
    assert made.min() >= 1
    assert made.sum() == 1 << PRECISION
    assert np.array_equal(made, made[::-1])


@pytest.mark.parametrize(("level", "bound"), [(0, 3), (17, 1), (20, 12), (33, 300), (63, 4095)])
def test_frequencies_are_those_of_the_format(level, bound):
    assert frequencies(level, bound).tolist() == strangers_frequencies(level, bound)


def test_decays_are_those_of_the_scales():
    scales = 2.0 ** ((np.arange(LEVELS) - entropy.UNIT_LEVEL) / entropy.LEVELS_PER_OCTAVE)
    assert np.allclose(
        np.array(entropy.DECAYS) / 2**32, np.exp(-0.5 / scales), rtol=0, atol=2.0**-32
    )


@pytest.mark.parametrize("scale", [0.3, 1.0, 7.0, 100.0])
def test_code_is_as_short_as_the_entropy_allows(scale):
    values = laplace(scale, 20_000)
    _, counts = np.unique(values, return_counts=True)
    entropy_bits = -(counts * np.log2(counts / values.size)).sum()
    level = round(entropy.UNIT_LEVEL + entropy.LEVELS_PER_OCTAVE * np.log2(scale))
    coder = RangeEncoder()
    coder.encode(values, level, int(np.abs(values).max()))
    assert 8 * len(coder.bytes()) <= 1.02 * entropy_bits + 64


def test_code_is_the_same_on_every_machine():
    coder = RangeEncoder()
    coder.encode(np.arange(-5, 6, dtype=np.int32), np.arange(20, 31, dtype=np.int32), 5)
    assert coder.bytes().hex() == "7e660400ca8ca12e"


def test_a_strangers_decoder_reads_the_code():
    values, levels = laplace(3.0, 500), np.arange(500, dtype=np.int32) % 7 + 20
    bound = int(np.abs(values).max())
    coder = RangeEncoder()
    coder.encode(values, levels, bound)
    stranger = StrangersDecoder(coder.bytes())
    for level in range(20, 27):
        expected = values[levels == level].tolist()
        assert [stranger.symbol(level, bound) for _ in expected] == expected


@pytest.mark.parametrize("size", [1, 3, 5])
def test_code_of_half_a_word(size):
    with pytest.raises(BitstreamError, match=f"4-byte words, got {size} bytes"):
        RangeDecoder(bytes(size))


def test_too_many_models(monkeypatch):
    monkeypatch.setattr(entropy, "MAX_SYMBOLS", 100)
    decoder = RangeDecoder(bytes(400))
    decoder.decode((4,), 30, 20)
    with pytest.raises(BitstreamError, match="over 100 symbols"):
        decoder.decode((4,), np.arange(30, 34, dtype=np.int32), 20)


@given(
    st.binary(max_size=40).map(lambda data: data[: len(data) // 4 * 4]),
    st.integers(0, 63),
    st.integers(1, 4095),
)
@settings(deadline=None)
def test_garbage_never_crashes(data, level, bound):
    with contextlib.suppress(BitstreamError):
        assert np.abs(RangeDecoder(data).decode((100,), level, bound)).max() <= bound
