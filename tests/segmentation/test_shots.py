from fractions import Fraction

import numpy as np
import pytest

from encoder.media.source import Source
from encoder.media.video import Video
from encoder.segmentation.shots import REACH, changes, cuts, split, unsteadiness


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


def drifting(speed, frames=30):
    """Return a wide wave of brightness that moves by some pixels with each frame."""
    columns = np.arange(64)
    pictures = [
        128 + 100 * np.sin(2 * np.pi * (columns - speed * index) / 64) for index in range(frames)
    ]
    rows = np.repeat(np.array(pictures)[:, None, None], 36, 2).repeat(3, 1)
    return np.rint(rows).astype(np.uint8)


def test_unsteadiness_is_the_error_of_interpolation_in_time():
    steady, slow, fast = (
        unsteadiness(changes(Video(drifting(speed), Fraction(25))), []) for speed in (0, 1, 4)
    )
    assert steady == 0
    assert slow < 0.1 * fast
    # Halfway between two waves that are off by 2 x 8 of 64 pixels, cos 45 degrees is left.
    wave = 100 / np.sqrt(2) * np.sinc(1 / 16)
    assert fast == pytest.approx(wave * (1 - np.cos(np.pi / 4)), rel=0.1)


def test_cuts_are_not_unsteady():
    frames = np.concatenate([drifting(0), 255 - drifting(0)])
    found = changes(Video(frames, Fraction(25)))
    assert cuts(found.mean) == [30]
    assert unsteadiness(found, []) > 1
    assert unsteadiness(found, [30]) == 0


@pytest.mark.parametrize("count", [1, 2 * REACH, 2 * REACH + 1])
def test_few_frames_are_steady_unless_they_differ(count):
    found = changes(Video(drifting(4, count), Fraction(25)))
    assert (unsteadiness(found, []) > 0) == (count > 2 * REACH)


def test_thumbnails_of_a_clip_in_memory_are_means():
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (2, 3, 100, 190), np.uint8)
    small = Video(frames, Fraction(25)).thumbnails()
    assert small.size == (48, 25)
    found = small.read(range(2))
    assert np.abs(found[:, :, 3, 5] - frames[:, :, 12:16, 20:24].mean((2, 3))).max() <= 0.5
    # At the edge, blocks are smaller.
    assert np.abs(found[:, :, 3, 47] - frames[:, :, 12:16, 188:].mean((2, 3))).max() <= 0.5
