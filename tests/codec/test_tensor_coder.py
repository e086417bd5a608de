import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from encoder.codec.entropy import LEVELS, MAX_BOUND, RangeDecoder, RangeEncoder
from encoder.codec.tensor_coder import best_mode
from encoder.codec.tensor_header import COLUMNS, DELTA, PAIRS, PREDICTED, ROWS, CodedTensor


def encoded(integers, step=1.0):
    coding, coder = best_mode(integers, step=step), RangeEncoder()
    coding.encode(coder)
    return coding, coder.bytes()


def decoded(coding, code, shape):
    return CodedTensor.parse(bytes(coding.tensor), 0).decode(RangeDecoder(code), shape)


def round_trip(integers, step=1.0):
    coding, code = encoded(integers, step)
    assert np.array_equal(decoded(coding, code, integers.shape), integers * np.float32(step))
    return coding, 8 * len(code)


@given(
    hnp.array_shapes(min_dims=1, max_dims=4, max_side=6).flatmap(
        lambda shape: hnp.arrays(
            np.int32, shape, elements=st.integers(-MAX_BOUND // 2, MAX_BOUND // 2)
        )
    )
)
@settings(deadline=None)
def test_round_trip(integers):
    coding, code = encoded(integers)
    assert CodedTensor.parse(bytes(coding.tensor), 0) == coding.tensor
    assert np.array_equal(decoded(coding, code, integers.shape), integers)


def noise(scale, shape):
    return np.rint(np.random.default_rng(0).laplace(0, scale, shape)).astype(np.int32)


@pytest.mark.parametrize(
    ("integers", "flags"),
    [
        (noise(3.0, (40, 50)), 0),
        (noise(3.0, 700), 0),
        (noise(np.geomspace(0.3, 60, 40)[:, None], (40, 500)), ROWS),
        (noise(np.geomspace(0.3, 60, 50), (400, 50)), COLUMNS),
        (
            noise(np.geomspace(1, 60, 50) * np.geomspace(0.3, 10, 40)[:, None], (40, 50)),
            ROWS | COLUMNS,
        ),
        (noise(np.geomspace(0.3, 60, 40).reshape(4, 10, 1, 1), (4, 10, 12, 20)), PAIRS | ROWS),
        (noise(1.0, (60, 30)).cumsum(0, dtype=np.int32), PREDICTED),
    ],
)
def test_the_model_is_chosen_that_suits(integers, flags):
    coding, bits = round_trip(integers)
    assert coding.tensor.flags == flags
    assert coding.bits == pytest.approx(bits, rel=0.01, abs=70)


def test_flags_that_are_given_stay():
    assert best_mode(noise(1.0, (3, 4)), step=0.5, flags=DELTA).tensor.flags & DELTA


def test_zeros_cost_next_to_nothing():
    assert round_trip(np.zeros((100, 100), np.int32))[1] <= 64


def test_too_large_for_the_format():
    with pytest.raises(ValueError, match=f"must be in -{MAX_BOUND}..{MAX_BOUND}, got 5000"):
        best_mode(np.array([5000, 0], np.int32), step=1.0)


@pytest.mark.parametrize("mode", [0, ROWS, PREDICTED | COLUMNS])
def test_only_the_modes_that_are_asked_for_are_tried(mode):
    integers = np.arange(60, dtype=np.int32).reshape(6, 10)
    assert best_mode(integers, step=1.0, modes=[mode]).tensor.flags == mode


def test_levels_cover_all_scales():
    for scale in np.geomspace(0.02, 300, 30):
        assert 0 <= best_mode(noise(scale, 2000), step=1.0).tensor.level < LEVELS
