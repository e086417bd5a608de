import math

import pytest

from encoder.guard import COLLAPSE_DB, EASE_DB, LOWER, MAX_COLLAPSES, Guard


def test_better_and_slightly_worse_epochs_are_fine():
    guard = Guard()
    assert not any(guard.collapsed(quality) for quality in (10.0, 20.0, 30.0, 30.0 - COLLAPSE_DB + 0.1, 31.0))
    assert guard.gain == 1


@pytest.mark.parametrize("quality", [24 - COLLAPSE_DB - EASE_DB, math.nan, -math.inf])
def test_far_worse_epochs_are_collapses(quality):
    guard = Guard()
    guard.collapsed(24.0)
    assert guard.collapsed(quality)
    assert (guard.collapses, guard.gain) == (1, LOWER)


def test_quality_may_fall_slowly():
    guard = Guard()
    qualities = [32 - EASE_DB * index for index in range(30)]
    assert not any(map(guard.collapsed, qualities))


def test_quality_that_falls_and_falls_is_noticed():
    guard = Guard()
    assert any(guard.collapsed(30.0 - 5 * index) for index in range(4))


def test_black_frames_may_jump():
    guard = Guard()
    assert not any(map(guard.collapsed, (90.0, 45.0, 70.0, 41.0, 35.0)))


def test_collapses_are_forgotten_once_the_quality_is_back():
    guard = Guard()
    guard.collapsed(20.0)
    for _ in range(MAX_COLLAPSES):
        assert guard.collapsed(5.0)
    assert not guard.is_hopeless
    guard.collapsed(25.0)
    assert guard.collapses == 0
    for _ in range(MAX_COLLAPSES + 1):
        guard.collapsed(5.0)
    assert guard.is_hopeless


def test_guard_goes_on_from_its_state():
    guard, other = Guard(), Guard()
    for quality in (20.0, 5.0, 21.0):
        guard.collapsed(quality)
    other.restore(guard.state())
    assert vars(other) == vars(guard)
