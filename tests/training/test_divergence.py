import math

import pytest

from encoder.training.divergence import (
    CHANGE_DB,
    COLLAPSE_DB,
    EASE_DB,
    LOWER,
    MAX_COLLAPSES,
    DivergenceMonitor,
)


def fell(guard, qualities):
    """Return whether each of some epochs of a step is a collapse."""
    return [guard.collapsed(quality, step) for step, quality in enumerate(qualities)]


def test_better_and_slightly_worse_epochs_are_fine():
    guard = DivergenceMonitor()
    assert not any(fell(guard, (10.0, 20.0, 30.0, 30.0 - COLLAPSE_DB + 0.1, 31.0)))
    assert guard.gain == 1


@pytest.mark.parametrize("quality", [24 - COLLAPSE_DB - EASE_DB, math.nan, -math.inf])
def test_far_worse_epochs_are_collapses(quality):
    guard = DivergenceMonitor()
    assert fell(guard, (24.0, quality)) == [False, True]
    assert (guard.collapses, guard.gain) == (1, LOWER)


def test_quality_may_fall_slowly():
    guard = DivergenceMonitor()
    qualities = [32 - EASE_DB * index for index in range(30)]
    assert not any(fell(guard, qualities))


def test_quality_that_falls_and_falls_is_noticed():
    guard = DivergenceMonitor()
    assert any(fell(guard, [30.0 - 5 * index for index in range(4)]))


def test_black_frames_may_jump():
    guard = DivergenceMonitor()
    assert not any(fell(guard, (90.0, 45.0, 70.0, 41.0, 35.0)))


def test_collapses_are_forgotten_once_the_quality_is_back():
    guard = DivergenceMonitor()
    assert fell(guard, [20.0] + MAX_COLLAPSES * [5.0]) == [False] + MAX_COLLAPSES * [True]
    assert not guard.is_hopeless
    guard.collapsed(25.0, 10)
    assert guard.collapses == 0
    fell(guard, (MAX_COLLAPSES + 1) * [5.0])
    assert guard.is_hopeless


def test_less_is_expected_where_the_fit_goes_back_to():
    guard = DivergenceMonitor()
    guard.collapsed(12.0, 10)
    early = guard.reference_db
    guard.collapsed(25.0, 20)
    assert guard.collapsed(3.0, 30)
    guard.expect(early)
    assert not guard.collapsed(12.0, 20)
    assert not guard.collapsed(25.0, 30)
    assert guard.collapses == 1  # it may yet collapse where it did
    assert not guard.collapsed(25.0, 31)
    assert guard.collapses == 0


def test_quality_may_fall_once_weights_are_quantised_or_pruned():
    guard = DivergenceMonitor()
    guard.collapsed(35.0, 1)
    assert not guard.collapsed(35.0 - CHANGE_DB, 2, is_changed=True)
    assert guard.collapsed(35.0 - CHANGE_DB - COLLAPSE_DB - 0.1, 3)
    assert guard.collapsed(0.0, 3, is_changed=True)


def test_guard_goes_on_from_its_state():
    guard, other = DivergenceMonitor(), DivergenceMonitor()
    fell(guard, (20.0, 5.0, 21.0))
    other.load_state_dict(guard.state_dict())
    assert vars(other) == vars(guard)
