from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from encoder.codec.errors import SourceError
from encoder.media.timeline import Joiner, make_timeline

MILLISECOND = Fraction(1, 1000)


def timeline(times, *, declared=(25,), unit=MILLISECOND, last=40):
    return make_timeline(list(times), unit, [Fraction(rate) for rate in declared], last_duration=last)


@pytest.mark.parametrize("count", [12, 48, 500])
@pytest.mark.parametrize(("rate", "screen"), [(24, 60), (25, 60), (24, 50), (50, 60), (25, 30), (30, 50), (48, 60), (60, 144)])
def test_every_picture_from_a_screen_is_a_frame(rate, screen, count):
    times = [round(1000 * -(-index * screen // rate) / screen) for index in range(count)]
    found = timeline(times, declared=(screen, 2 * screen), last=round(1000 / rate))
    assert (found.rate, found.count, found.left_out, found.repeated) == (rate, count, 0, 0)


@pytest.mark.parametrize(
    ("jitter", "declared"), [([0, 7] * 150, 120), (np.random.default_rng(0).normal(0, 8, 300), 30), ([0, 12, 3] * 100, 90)]
)
def test_every_picture_of_a_camera_that_is_late_is_a_frame(jitter, declared):
    times = sorted(round(1000 * index / 30 + late) for index, late in enumerate(jitter))
    found = timeline(times, declared=(declared,))
    assert (found.rate, found.left_out) == (30, 0)
    assert found.ticks.tolist() == list(range(300))


@pytest.mark.parametrize("rate", ["24000/1001", "30000/1001", "60000/1001", "24", "25", "60"])
def test_rates_that_lie_close_together_are_told_apart(rate):
    rate = Fraction(rate)
    found = timeline([round(1000 * index / rate) for index in range(2000)], declared=(1000,), last=round(1000 / rate))
    assert (found.rate, found.count) == (rate, 2000)


def test_gaps_repeat_pictures():
    found = timeline([0, 1, 2, 5, 6, 7], unit=Fraction(1, 25), last=1)
    assert (found.rate, found.count, found.repeated) == (25, 8, 2)
    assert found.ticks.tolist() == [0, 1, 2, 5, 6, 7]


def test_a_missing_picture_is_no_slower_rate():
    found = timeline([40 * index for index in range(25) if index != 12])
    assert (found.rate, found.count, found.repeated) == (25, 25, 1)


def test_a_pause_costs_no_pictures():
    found = timeline([0, 40, 80, 8000, 8040])
    assert (found.rate, found.ticks.tolist()) == (25, [0, 1, 2, 200, 201])


def test_animations_keep_their_delays():
    delays = np.random.default_rng(0).choice([10, 20, 30], 60)
    times = np.cumsum(delays) - delays[0]
    found = timeline(times, declared=(100,), unit=Fraction(1, 100), last=10)
    assert found.rate == 10
    assert found.ticks.tolist() == (times // 10).tolist()


def test_equal_times_lose_nothing():
    found = timeline([0] * 20)
    assert (found.rate, found.count, found.ticks.tolist()) == (25, 20, list(range(20)))
    pairs = timeline(sorted([40 * index for index in range(10)] * 2))
    assert (pairs.rate, pairs.left_out) == (50, 0)
    assert timeline([0, 40, 40, 80, 120, 160, 200]).ticks.tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("last", "unit", "declared", "rate"), [(10, "1/100", 100, 10), (0, "1/90000", 90000, 25), (1, "1/25", 25, 25)]
)
def test_one_picture_is_one_frame(last, unit, declared, rate):
    found = timeline([7], unit=Fraction(unit), declared=(declared,), last=last)
    assert (found.rate, found.count) == (rate, 1)


def test_frames_far_beyond_the_pictures_are_an_error():
    place = "3599.6 s lie between the pictures 9 and 10"
    with pytest.raises(SourceError, match=f"20 pictures make 90010 frames at 25 per second: {place}"):
        timeline([*range(0, 400, 40), *range(3_600_000, 3_600_400, 40)])


def test_what_is_left_out_is_counted():
    fast, slow = np.arange(300) * 10, 3000 + np.arange(3000) * 40
    found = timeline([*fast, *slow])
    assert found.rate == 25
    assert found.left_out == len(found.ticks) - len(set(found.ticks[found.ticks >= 0]))
    assert 200 < found.left_out < 230


def joined(times, *, may_jump):
    joiner = Joiner(MILLISECOND, may_jump=may_jump)
    packets = [SimpleNamespace(pts=time, dts=time, duration=0) for time in times]
    return [packet.pts + joiner.offset(packet) for packet in packets], joiner.jumps


@pytest.mark.parametrize("second", [0, 40, 3_600_000, -3_600_000])
def test_recordings_behind_each_other_are_joined(second):
    first = list(range(0, 400, 40))
    times, jumps = joined([*first, *(second + time for time in first)], may_jump=True)
    assert times == list(range(0, 800, 40))
    assert [(jump.packet, jump.at_seconds, jump.seconds) for jump in jumps] == [(10, 0.4, (second - 360) / 1000)]


def test_one_wrong_time_is_two_jumps():
    times, jumps = joined([0, 40, 3_600_000, 120, 160], may_jump=True)
    assert times == [0, 40, 80, 120, 160]
    assert len(jumps) == 2


def test_pauses_of_other_files_stay():
    times = [0, 40, 80, 60_000, 60_040]
    assert joined(times, may_jump=False) == (times, [])
    assert joined([0, 40, 80, 60_000, 40, 80], may_jump=False)[0] == [0, 40, 80, 60_000, 60_040, 60_080]
