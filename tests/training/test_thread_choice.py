"""The number of threads of fits by time, on cores that are busy or not."""

from fractions import Fraction

import pytest
import torch
from helpers import make_encoder, panning

from encoder.config import Budget, Compression
from encoder.media.video import Video
from encoder.training import thread_choice
from encoder.training.thread_choice import PERIOD_SECONDS, ThreadChoice


class Machine:
    """A clock, and steps that take a time for each number of threads."""

    def __init__(self, monkeypatch, times):
        self.times = times
        self.now = 0.0
        self.threads = max(times)
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.threads)
        monkeypatch.setattr(torch, "set_num_threads", lambda count: setattr(self, "threads", count))

    def clock(self):
        return self.now

    def run(self, choice, seconds):
        """Run steps for a time; return the number of threads of most of them."""
        stop = self.now + seconds
        taken = []
        while self.now < stop:
            with choice.step():
                taken.append(self.threads)
                self.now += self.times[self.threads]
        return max(set(taken), key=taken.count)


FREE = {1: 0.030, 2: 0.018}
BUSY = {1: 0.034, 2: 0.080}


def test_threads_follow_the_load(monkeypatch):
    machine = Machine(monkeypatch, FREE)
    with ThreadChoice(clock=machine.clock) as choice:
        assert machine.run(choice, 4 * PERIOD_SECONDS) == 2
        machine.times = BUSY
        machine.run(choice, 15)
        assert machine.run(choice, 15) == 1
        machine.times = FREE
        machine.run(choice, 15)
        assert machine.run(choice, 15) == 2
        machine.times = BUSY
        machine.run(choice, 15)
    assert machine.threads == 2  # torch has its threads back


@pytest.mark.parametrize("seconds", [0.3, 2.0])
def test_slow_steps_have_few_trials(monkeypatch, seconds):
    machine = Machine(monkeypatch, {1: 1.7 * seconds, 2: seconds})
    steps = 0
    with ThreadChoice(clock=machine.clock) as choice:
        while machine.now < 200:
            with choice.step():
                machine.now += machine.times[machine.threads]
            steps += 1
    assert steps > 0.97 * 200 / seconds


def test_many_threads_become_fewer_step_by_step(monkeypatch):
    machine = Machine(monkeypatch, {1: 0.05, 2: 0.03, 4: 0.02, 8: 0.03, 16: 0.2})
    with ThreadChoice(clock=machine.clock) as choice:
        machine.run(choice, 60)
        assert machine.run(choice, 30) == 4


def test_trials_cost_little(monkeypatch):
    machine = Machine(monkeypatch, FREE)
    steps = 0
    with ThreadChoice(clock=machine.clock) as choice:
        while machine.now < 60:
            with choice.step():
                machine.now += FREE[machine.threads]
            steps += 1
    assert steps > 0.98 * 60 / FREE[2]


@pytest.mark.parametrize(("times", "options"), [({1: 0.03}, {}), (BUSY, {"is_free": False})])
def test_there_may_be_no_choice(monkeypatch, times, options):
    machine = Machine(monkeypatch, times)
    with ThreadChoice(clock=machine.clock, **options) as choice:
        assert machine.run(choice, 10) == max(times)


@pytest.mark.parametrize(("budget", "counts"), [({"seconds": 2.0}, {1, 2}), ({"epochs": 30}, {2})])
def test_fits_by_epochs_keep_their_threads(monkeypatch, budget, counts):
    monkeypatch.setattr(thread_choice, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(thread_choice, "SLOW_SECONDS", 60.0)  # other tests may run beside it
    most = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = set()
    video = Video(panning(8, 32, 48), Fraction(25))
    encoder = make_encoder(video, "fast", Compression(), size="XS")
    network = encoder.network

    def watched(index):
        made = network(index)
        made.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
        return made

    monkeypatch.setattr(encoder, "network", watched)
    try:
        list(encoder.run(Budget(**budget)))
        assert seen == counts
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(most)
