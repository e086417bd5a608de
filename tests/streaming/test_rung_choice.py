"""Which rung of a ladder a viewer watches, by the state of the line."""

import pytest

from player.server.rung_choice import Line, RungChoice


def line(loss=0.0, rtt=0.02, pictures_lost=0, packets_lost=0, dropped=0):
    return Line(
        loss=loss,
        rtt_seconds=rtt,
        pictures_lost=pictures_lost,
        packets_lost=packets_lost,
        dropped=dropped,
    )


def watch(choice, seconds, start, at):
    """Observe a line four times a second; return the rung after each second."""
    rungs = []
    for quarter in range(4 * seconds):
        now = start + (quarter + 1) / 4
        rungs.append(choice.observe(at(now), now))
    return rungs[3::4]


def test_a_good_line_leads_to_the_top():
    choice = RungChoice(3, 1, 0.0)
    assert watch(choice, 20, 0.0, lambda _: line())[-1] == 2


def test_without_reports_the_rung_rises_as_nothing_is_wrong():
    choice = RungChoice(2, 0, 0.0)
    nothing = line(loss=None, rtt=None)
    assert watch(choice, 10, 0.0, lambda _: nothing)[-1] == 1


@pytest.mark.parametrize(
    "bad",
    [
        line(loss=0.15),
        line(rtt=0.5),
        line(pictures_lost=3),
        line(packets_lost=20),
        line(dropped=16),
    ],
)
def test_trouble_leads_down_at_once(bad):
    choice = RungChoice(3, 2, 0.0)
    watch(choice, 4, 0.0, lambda _: line())
    assert choice.observe(bad, 5.0) == 1


def test_heavy_loss_leads_to_the_bottom():
    choice = RungChoice(4, 3, 0.0)
    watch(choice, 4, 0.0, lambda _: line())
    assert choice.observe(line(loss=0.5), 5.0) == 0


def test_many_lost_packets_lead_to_the_bottom_before_a_report():
    choice = RungChoice(4, 3, 0.0)
    watch(choice, 4, 0.0, lambda _: line())
    assert choice.observe(line(packets_lost=50), 4.25) == 0


def test_a_few_lost_packets_are_no_reason():
    choice = RungChoice(2, 1, 0.0)
    rungs = watch(choice, 20, 0.0, lambda now: line(packets_lost=int(10 * now)))
    assert set(rungs) == {1}


def test_reports_of_the_former_rung_do_not_count():
    choice = RungChoice(4, 3, 0.0)
    watch(choice, 4, 0.0, lambda _: line())
    assert choice.observe(line(loss=0.15), 5.0) == 2
    assert choice.observe(line(loss=0.15), 5.5) == 2
    assert choice.observe(line(loss=0.15), 6.6) == 1


def test_a_single_lost_picture_is_no_reason():
    choice = RungChoice(2, 1, 0.0)
    rungs = watch(choice, 20, 0.0, lambda now: line(pictures_lost=int(now / 3)))
    assert set(rungs) == {1}


def test_a_narrow_line_is_tried_again_and_left_at_once():
    """A line that carries rung 1 alone: rung 2 is seen at most 1 s in 7."""
    choice = RungChoice(3, 2, 0.0)
    rungs = watch(choice, 70, 0.0, lambda _: line(loss=0.2 if choice.rung == 2 else 0.0))
    assert min(rungs[3:]) >= 1
    assert rungs.count(2) <= 70 / 4


def test_a_line_that_widens_is_at_the_top_within_15_s():
    choice = RungChoice(3, 2, 0.0)
    watch(choice, 30, 0.0, lambda _: line(loss=0.4 if choice.rung > 0 else 0.0))
    rungs = watch(choice, 15, 30.0, lambda _: line())
    assert rungs[-1] == 2
