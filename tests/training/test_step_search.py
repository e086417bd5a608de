"""The search for quantization steps: what it finds, and what it spares."""

import pytest
import torch

from encoder.training.step_search import LAST_CHANGE, minimize


def test_each_group_gets_the_steps_that_cost_the_least():
    log_steps = torch.tensor([0.0, 1.0, 0.0])
    goal = torch.tensor([2.0, 3.0, -1.5])
    groups = [torch.tensor([True, True, False]), torch.tensor([False, False, True])]
    minimize(log_steps, groups, lambda: (log_steps - goal).abs().sum().item(), LAST_CHANGE)
    # To half of a half octave.
    assert (log_steps - goal).abs().max() <= 0.18
    assert log_steps[1] - log_steps[0] == pytest.approx(1)


def test_steps_stay_where_nothing_is_better():
    log_steps = torch.tensor([0.3, -0.2])
    everything = torch.ones(2, dtype=torch.bool)
    minimize(log_steps, [everything], lambda: log_steps.square().sum().item(), LAST_CHANGE)
    assert log_steps.tolist() == pytest.approx([0.3, -0.2], abs=1e-6)


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), 0.0])
def test_a_cost_that_tells_nothing_changes_nothing(cost):
    log_steps = torch.zeros(2)
    minimize(log_steps, [torch.ones(2, dtype=torch.bool)], lambda: cost, LAST_CHANGE)
    assert log_steps.tolist() == [0, 0]


def test_steps_change_by_so_much_at_most():
    log_steps = torch.zeros(1)
    minimize(log_steps, [torch.ones(1, dtype=torch.bool)], lambda: -log_steps.sum().item(), 1.0)
    # Half octaves go into it twice.
    assert log_steps.item() == pytest.approx(0.693, abs=1e-3)
