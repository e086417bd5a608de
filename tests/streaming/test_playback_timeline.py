"""The state of a timeline where its two threads meet."""

from fractions import Fraction

import pytest
from stand_ins import make_source

from player.playback.timeline import Change, Timeline


@pytest.fixture
def timeline():
    """Return the timeline of two clips, whose start has been followed."""
    timeline = Timeline([make_source(name="one"), make_source(name="two")])
    timeline.take_change()
    timeline.take_growth()
    return timeline


def test_begins_at_the_first_frame():
    timeline = Timeline([make_source()])
    timeline.reopen()
    assert timeline.take_change() == Change(source=True, target=0.0)
    assert not timeline.take_growth()


def test_changes_are_taken_once(timeline):
    timeline.set_speed(Fraction(2))
    timeline.seek(4)
    assert timeline.take_change() == Change(target=4.0, speed=True)
    timeline.select(1)
    assert timeline.take_change() == Change(source=True, target=0.0)
    assert timeline.take_change() == Change()


@pytest.mark.parametrize(
    "change", [lambda timeline: timeline.seek(4), lambda timeline: timeline.select(1)]
)
def test_picture_from_before_a_change_is_not_shown(timeline, change):
    assert timeline.show(1.0)
    change(timeline)
    frame = timeline.frame
    assert not timeline.show(2.0)
    assert timeline.frame == frame
    timeline.take_change()
    assert timeline.show(frame)


def test_reopened_clip_goes_on_where_it_was(timeline):
    assert timeline.show(3.0)
    timeline.reopen()
    assert timeline.take_change() == Change(source=True, target=3.0)


def test_seek_before_a_clip_is_reopened_counts(timeline):
    timeline.seek(5)
    timeline.reopen()
    assert timeline.take_change() == Change(source=True, target=5.0)


def test_end_of_a_clip_leads_to_the_next_one(timeline):
    timeline.end_clip()
    assert timeline.index == 0
    assert timeline.start_next()
    assert (timeline.index, timeline.frame) == (1, 0)
    assert not timeline.start_next()


def test_seek_that_meets_the_end_of_a_clip_stays_in_it(timeline):
    timeline.seek(1)
    timeline.end_clip()
    assert not timeline.start_next()
    timeline.take_change()
    timeline.end_clip()
    timeline.seek(1)
    assert not timeline.start_next()


def test_without_loop_the_last_clip_ends(timeline):
    timeline.loop = False
    assert timeline.next_index == 1
    timeline.select(1)
    timeline.take_change()
    assert timeline.next_index is None
    timeline.end_clip()
    assert not timeline.playing
    assert not timeline.start_next()


def test_skipped_clip_gives_way_to_the_next_one_also_without_loop(timeline):
    timeline.loop = False
    timeline.skip()
    assert timeline.index == 1
    timeline.skip()
    assert timeline.index == 0


def test_time_that_is_left_follows_the_speed(timeline):
    assert timeline.seconds_left(1.0) == pytest.approx(5 / 25)
    timeline.set_speed(Fraction(2))
    assert timeline.seconds_left(1.0) == pytest.approx(2.5 / 25)
