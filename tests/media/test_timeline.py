from fractions import Fraction

import numpy as np
import pytest

from encoder.common.errors import SourceError
from encoder.media.timeline import PacketTimes, join, make_timeline

MILLISECOND = Fraction(1, 1000)


def timeline(times, *, declared=(25,), unit=MILLISECOND, last=40):
    return make_timeline(
        list(times), unit, [Fraction(rate) for rate in declared], last_duration=last
    )


@pytest.mark.parametrize("count", [12, 48, 500])
@pytest.mark.parametrize(
    ("rate", "screen"),
    [(24, 60), (25, 60), (24, 50), (50, 60), (25, 30), (30, 50), (48, 60), (60, 144)],
)
def test_every_picture_from_a_screen_is_a_frame(rate, screen, count):
    times = [round(1000 * -(-index * screen // rate) / screen) for index in range(count)]
    found = timeline(times, declared=(screen, 2 * screen), last=round(1000 / rate))
    assert (found.rate, found.count, found.left_out, found.repeated) == (rate, count, 0, 0)


@pytest.mark.parametrize(
    ("jitter", "declared"),
    [([0, 7] * 150, 120), (np.random.default_rng(0).normal(0, 8, 300), 30), ([0, 12, 3] * 100, 90)],
)
def test_every_picture_of_a_camera_that_is_late_is_a_frame(jitter, declared):
    times = sorted(round(1000 * index / 30 + late) for index, late in enumerate(jitter))
    found = timeline(times, declared=(declared,))
    assert (found.rate, found.left_out) == (30, 0)
    assert found.ticks.tolist() == list(range(300))


@pytest.mark.parametrize("rate", ["24000/1001", "30000/1001", "60000/1001", "24", "25", "60"])
def test_rates_that_lie_close_together_are_told_apart(rate):
    rate = Fraction(rate)
    found = timeline(
        [round(1000 * index / rate) for index in range(2000)],
        declared=(1000,),
        last=round(1000 / rate),
    )
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
    ("last", "unit", "declared", "rate"),
    [(10, "1/100", 100, 10), (0, "1/90000", 90000, 25), (1, "1/25", 25, 25)],
)
def test_one_picture_is_one_frame(last, unit, declared, rate):
    found = timeline([7], unit=Fraction(unit), declared=(declared,), last=last)
    assert (found.rate, found.count) == (rate, 1)


def test_frames_far_beyond_the_pictures_are_an_error():
    place = "3599.6 s lie between the pictures 9 and 10"
    with pytest.raises(
        SourceError, match=f"20 pictures make 90010 frames at 25 per second: {place}"
    ):
        timeline([*range(0, 400, 40), *range(3_600_000, 3_600_400, 40)])


def test_what_is_left_out_is_counted():
    fast, slow = np.arange(300) * 10, 3000 + np.arange(3000) * 40
    found = timeline([*fast, *slow])
    assert found.rate == 25
    assert found.left_out == len(found.ticks) - len(set(found.ticks[found.ticks >= 0]))
    assert 200 < found.left_out < 230


@pytest.mark.parametrize("count", [10, 300])
@pytest.mark.parametrize(
    "rate", ["25/2", "15000/1001", "120000/1001", "144", "240", "29", "31", "47/2", "125/2"]
)
def test_a_rate_that_is_told_holds(rate, count):
    rate = Fraction(rate)
    found = timeline(
        [round(1000 * index / rate) for index in range(count)],
        declared=(rate,),
        last=round(1000 / rate),
    )
    assert (found.rate, found.count) == (rate, count)


@pytest.mark.parametrize(("rate", "share"), [("25", 0.05), ("24000/1001", 0.02), ("25", 0.2)])
def test_missing_pictures_leave_the_rate(rate, share):
    rate, random = Fraction(rate), np.random.default_rng(1)
    kept = [index for index in range(300) if index in (0, 299) or random.random() > share]
    found = timeline(
        [round(1000 * index / rate) for index in kept], declared=(), last=round(1000 / rate)
    )
    assert (found.rate, found.count, found.left_out) == (rate, 300, 0)


def test_slow_pictures_keep_their_times():
    found = timeline([0, 30, 50, 80, 100], declared=(100, 4), unit=Fraction(1, 100), last=30)
    assert (found.rate, found.ticks.tolist(), found.count) == (10, [0, 3, 5, 8, 10], 13)


def joined(times, *, may_jump, pts=None):
    packets = [PacketTimes(shown, time, 0) for shown, time in zip(pts or times, times, strict=True)]
    return join(packets, MILLISECOND, may_jump=may_jump)


@pytest.mark.parametrize("may_jump", [False, True])
@pytest.mark.parametrize("second", [0, 40, -3_600_000])
def test_recordings_behind_each_other_are_joined(second, may_jump):
    first = list(range(0, 400, 40))
    times, jumps = joined([*first, *(second + time for time in first)], may_jump=may_jump)
    assert times == list(range(0, 800, 40))
    assert [(jump.at_seconds, jump.seconds) for jump in jumps] == [(0.4, (second - 360) / 1000)]


def test_broadcasts_jump_ahead():
    first = list(range(0, 400, 40))
    later = [3_600_000 + time for time in first]
    assert joined([*first, *later], may_jump=True)[0] == list(range(0, 800, 40))
    assert joined([*first, *later], may_jump=False) == ([*first, *later], [])


def test_one_wrong_time_is_two_jumps():
    times, jumps = joined([0, 40, 3_600_000, 120, 160, 200, 240], may_jump=True)
    assert times == [0, 40, 80, 120, 160, 200, 240]
    assert len(jumps) == 2


def test_a_single_step_back_is_no_jump():
    """As FFmpeg makes of program streams now and then."""
    times = [0, 40, 80, 120, 80, 160, 200, 240, 280]
    assert joined(times, may_jump=True) == (times, [])


def test_pictures_that_are_reordered_are_no_jump():
    pts = [0, 120, 40, 80, 240, 160, 200]
    packets = [PacketTimes(time, None, 40) for time in pts]
    assert join(packets, MILLISECOND, may_jump=False) == (pts, [])
    some = [
        PacketTimes(0, None, 40),
        PacketTimes(200, None, 40),
        *(PacketTimes(40 * n, 40 * n - 40, 40) for n in range(1, 4)),
    ]
    assert join(some, MILLISECOND, may_jump=False)[1] == []


def test_a_packet_at_a_joint_may_have_times_of_both_recordings():
    dts = [*range(0, 400, 40), *range(1_000_000, 1_000_400, 40)]
    pts = [*range(0, 360, 40), 999_960, *range(1_000_000, 1_000_400, 40)]
    times, jumps = joined(dts, may_jump=True, pts=pts)
    assert times == list(range(0, 800, 40))
    assert len(jumps) == 1


def test_a_wrap_around_is_not_told_as_a_jump():
    hour = 3600 * 90_000
    dts = [
        *(hour + 3600 * index for index in range(5)),
        *((1 << 33) + 3600 * index for index in range(5)),
    ]
    _, (jump,) = join(
        [PacketTimes(time, time, 0) for time in dts], Fraction(1, 90_000), may_jump=True
    )
    assert jump.seconds == pytest.approx(-3600.16)


def test_pauses_of_other_files_stay():
    times = [0, 40, 80, 60_000, 60_040]
    assert joined(times, may_jump=False) == (times, [])
    assert joined([0, 40, 80, 60_000, 40, 80, 120, 160], may_jump=False)[0][4:] == [
        60_040,
        60_080,
        60_120,
        60_160,
    ]
