from fractions import Fraction

import numpy as np
import pytest

from encoder.media.source import Source
from encoder.media.video import Video
from encoder.segmentation.shots import changes, cuts, split


def test_cuts_are_where_the_picture_changes_at_once(write_video):
    random = np.random.default_rng(0)
    scenes = [
        np.repeat(random.integers(0, 256, (1, 3, 36, 64), np.uint8), count, 0)
        for count in (20, 12, 30)
    ]
    frames = np.concatenate(scenes)
    frames[40, 0] ^= 8  # some noise
    source = Source(write_video(frames))
    assert cuts(changes(source.thumbnails()).mean) == [20, 32]
    assert cuts(changes(Video(frames, source.rate).thumbnails()).mean) == [20, 32]


def test_changes_are_told_as_they_are_and_as_squared_errors_see_them():
    frames = np.zeros((2, 3, 36, 64), np.uint8)
    frames[1, :, :18, :32] = 40
    found = changes(Video(frames, Fraction(25)))
    assert found.mean.tolist() == [0, 10]
    assert found.root_mean_square.tolist() == [0, 20]


@pytest.mark.parametrize("differences", [[0.0] * 40, [20.0] * 40, [0.0, *range(40)], []])
def test_motion_is_no_cut(differences):
    assert cuts(differences) == []


def test_flashes_are_no_cuts():
    differences = [0.0] * 40
    differences[20] = differences[22] = 50
    assert cuts(differences) == []


@pytest.mark.parametrize("at", [1, 7, 33, 39])
def test_scenes_are_not_shorter_than_a_few_frames(at):
    differences = [0.0] * 40
    differences[at] = 50
    assert cuts(differences) == []


def test_segments_begin_with_scenes_and_are_even_between():
    assert split(10, 4) == [range(3), range(3, 6), range(6, 10)]
    assert split(20, 10, [3]) == [range(3), range(3, 11), range(11, 20)]


def test_thumbnails_keep_the_shape(write_video):
    frames = np.zeros((2, 3, 108, 192), np.uint8)
    assert Source(write_video(frames)).thumbnails().size == (48, 27)
    assert Video(frames, Fraction(25)).thumbnails().size == (48, 27)
