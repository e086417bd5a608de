"""Levels of latents that follow from integers around them."""

from dataclasses import replace
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stranger import StrangersSymbols, strangers_latent

from encoder.codec.context import (
    LOGARITHMS,
    MAX_SUM,
    OCTAVE,
    WEIGHTS,
    code_latent,
    diagonals,
    latent_levels,
)
from encoder.codec.context_fit import fit_contexts
from encoder.codec.entropy import LEVELS, MAX_BOUND, RangeDecoder, RangeEncoder
from encoder.codec.tensor_coder import best_mode
from encoder.codec.tensor_header import CONTEXT, PREDICTED, CodedTensor

SHAPE = (40, 4, 10, 12)
WALK = 3 * np.sin(np.random.default_rng(0).normal(0, 0.2, SHAPE).cumsum(0))
"""Logarithms of the scales of a latent whose magnitudes change slowly over time."""


def latent(walk=WALK, shape=SHAPE):
    scale = 2 * np.exp(walk)
    return np.rint(np.random.default_rng(1).laplace(0, scale, shape)).astype(np.int32)


@given(
    hnp.array_shapes(min_dims=4, max_dims=4, max_side=5).flatmap(
        lambda shape: hnp.arrays(np.int32, shape, elements=st.integers(-MAX_BOUND, MAX_BOUND))
    ),
    hnp.arrays(np.int32, WEIGHTS, elements=st.integers(-63, 63)),
)
@settings(deadline=None)
def test_round_trip(integers, weights):
    bases = np.arange(integers.shape[1], dtype=np.int32) * 20 - 30
    encoder = RangeEncoder()
    seen = []

    def encode(values, levels):
        seen.append((values, levels))
        encoder.encode(values, levels, MAX_BOUND)
        return values

    assert np.array_equal(code_latent(integers, bases, weights, encode), integers)
    decoder = RangeDecoder(encoder.bytes())
    decoded = code_latent(
        np.zeros_like(integers),
        bases,
        weights,
        lambda values, levels: decoder.decode(values.shape, levels, MAX_BOUND),
    )
    assert np.array_equal(decoded, integers)
    # The levels that become known in order are those that all integers together tell.
    levels = iter(np.concatenate([each for _, each in seen]))
    found = code_latent(
        integers, bases, weights, lambda values, _: np.array([next(levels) for _ in values])
    )
    assert np.array_equal(found, latent_levels(integers, bases, weights))


@given(
    hnp.array_shapes(min_dims=4, max_dims=4, max_side=3).flatmap(
        lambda shape: hnp.arrays(np.int32, shape, elements=st.integers(-MAX_BOUND, MAX_BOUND))
    ),
    hnp.arrays(np.int32, WEIGHTS, elements=st.integers(-63, 63)),
)
@settings(deadline=None, max_examples=30)
def test_a_stranger_decodes_the_same(integers, weights):
    """Many channels of large integers have sums over the limit."""
    integers = np.concatenate(
        [integers, np.full((len(integers), 20, *integers.shape[2:]), 4095)], 1
    )
    offsets = np.arange(integers.shape[1], dtype=np.int32) - 11
    encoder = RangeEncoder()
    encoder.encode(offsets, 30, 63)
    encoder.encode(weights, 34, 63)

    def encode(values, levels):
        encoder.encode(values, levels, MAX_BOUND)
        return values

    code_latent(integers.astype(np.int32), 40 + offsets, weights, encode)
    symbols = StrangersSymbols(2, encoder.bytes())
    found = strangers_latent(symbols, integers.shape, MAX_BOUND, 40, 30)
    assert found == integers.ravel().tolist()


@pytest.mark.parametrize(("times", "channels"), [(1, 1), (1, 5), (5, 1), (3, 7), (7, 3)])
def test_each_plane_is_coded_once_after_those_it_depends_on(times, channels):
    known = set()
    for group in diagonals(times, channels):
        planes = list(zip(*map(list, group), strict=True))
        for time, channel in planes:
            needed = {(time - 1, channel), (time - 2, channel)}
            needed |= {(time, before) for before in range(channel)}
            assert {plane for plane in needed if min(plane) >= 0} <= known
        assert not known & set(planes)
        known |= set(planes)
    assert len(known) == times * channels


def test_logarithm_is_near_the_true_one():
    true = np.array([OCTAVE * log2(number + 1) for number in range(MAX_SUM + 1)])
    assert np.abs(LOGARITHMS - true).max() < 1.7
    assert np.all(np.diff(LOGARITHMS) >= 0)
    assert [LOGARITHMS[2**k - 1] for k in range(17)] == [OCTAVE * k for k in range(17)]


def test_contexts_are_taken_where_magnitudes_stay_alike():
    alone = best_mode(latent(), step=1.0, planes=0)
    coding = best_mode(latent(), step=1.0)
    assert coding.tensor.flags == CONTEXT
    assert coding.bits < 0.99 * alone.bits
    encoder = RangeEncoder()
    coding.encode(encoder)
    assert 8 * len(encoder.bytes()) == pytest.approx(coding.bits, rel=0.01)
    decoder = RangeDecoder(encoder.bytes())
    again = CodedTensor.parse(bytes(coding.tensor), 0).decode(decoder, SHAPE)
    assert np.array_equal(again, latent())


def test_contexts_are_left_out_where_they_do_not_help():
    assert not best_mode(latent(np.zeros(1)), step=1.0).tensor.flags & CONTEXT


def test_contexts_go_with_prediction():
    integers = latent().cumsum(0, dtype=np.int32)
    coding = best_mode(integers, step=1.0)
    assert coding.tensor.flags == CONTEXT | PREDICTED
    encoder = RangeEncoder()
    coding.encode(encoder)
    tensor = CodedTensor.parse(bytes(coding.tensor), 0)
    assert np.array_equal(tensor.decode(RangeDecoder(encoder.bytes()), SHAPE), integers)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
def test_fit_stays_in_range(scale):
    integers = np.rint(scale * latent(2 * WALK)).clip(-MAX_BOUND, MAX_BOUND).astype(np.int32)
    bases, weights = fit_contexts(integers, np.full(SHAPE[1], 20.0))
    assert np.abs(weights).max() <= 63
    assert np.abs(bases).max() < 1000
    levels = latent_levels(integers, bases, weights)
    assert 0 <= levels.min() <= levels.max() < LEVELS


def test_fit_is_at_a_minimum():
    """Other weights and levels need more bits."""
    coding = best_mode(latent(), step=1.0)
    for index in range(WEIGHTS):
        for change in (-6, 6):
            weights = coding.weights.copy()
            weights[index] += change
            assert replace(coding, weights=weights).bits > coding.bits - 8
    for change in (-1, 1):
        assert replace(coding, rows=coding.rows + change).bits > coding.bits
