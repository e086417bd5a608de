import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.codec import entropy
from encoder.codec.errors import BitstreamError


def laplace(scale: float, size: int, seed: int = 0) -> entropy.Codes:
    return np.rint(np.random.default_rng(seed).laplace(0, scale, size)).astype(np.int32)


@given(st.lists(st.lists(st.integers(-4095, 4095), min_size=1, max_size=40), min_size=1, max_size=4))
@settings(deadline=None)
def test_round_trip(tensors):
    codes = [np.array(values, np.int32) for values in tensors]
    jobs = [(c, entropy.best_decay(c), max(int(np.abs(c).max()), 1)) for c in codes]
    data = entropy.encode(jobs)
    decoded = entropy.decode(data, [(c.size, decay, bound) for c, decay, bound in jobs])
    assert all(np.array_equal(a, b) for a, b in zip(codes, decoded, strict=True))


@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0, 100.0])
def test_code_is_as_short_as_the_entropy_allows(scale):
    codes = laplace(scale, 20_000)
    _, counts = np.unique(codes, return_counts=True)
    entropy_bits = -(counts * np.log2(counts / codes.size)).sum()
    data = entropy.encode([(codes, entropy.best_decay(codes), int(np.abs(codes).max()))])
    assert 8 * len(data) <= 1.02 * entropy_bits + 64


def test_best_decay_is_the_best():
    codes = laplace(3.0, 5000)
    bound = int(np.abs(codes).max())
    best = entropy.best_decay(codes)
    lengths = {decay: len(entropy.encode([(codes, decay, bound)])) for decay in (best // 2, best, (best + 65536) // 2)}
    assert min(lengths, key=lengths.__getitem__) == best


def test_probabilities_are_the_same_on_every_machine():
    # 1 / 4 and its powers and roots are exact, so these are the format's numbers to the last bit.
    assert entropy.laplace_probabilities(1 << 14, 3).tolist() == [3 / 256, 3 / 64, 3 / 16, 1 / 2, 3 / 16, 3 / 64, 3 / 256]


def test_code_is_the_same_on_every_machine():
    codes = np.arange(-5, 6, dtype=np.int32)
    assert entropy.encode([(codes, 50_000, 5)]).hex() == "1aff9b00655b29f6"


@given(st.binary(max_size=40).map(lambda data: data[: len(data) // 4 * 4]), st.integers(1, 65535), st.integers(1, 4095))
@settings(deadline=None)
def test_garbage_never_crashes(data, decay, bound):
    with contextlib.suppress(BitstreamError):
        (codes,) = entropy.decode(data, [(100, decay, bound)])
        assert np.abs(codes).max() <= bound
