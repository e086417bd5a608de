import time
from fractions import Fraction
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest

from encoder.codec.clip_reader import MAX_CHAIN_WEIGHTS
from encoder.codec.topology import MAX_WEIGHTS
from encoder.common.errors import SettingsError, SourceError
from encoder.media.video import Video
from encoder.models.base import VideoShape
from encoder.presets import HIGH_MOTION, PRESETS, build
from encoder.segmentation.plan import (
    DEFAULT,
    Plan,
    make_plan,
)

FAST, NIRVANA = PRESETS["fast"], PRESETS["nirvana"]


def scenes(*lengths, moving=()):
    """Return a video of scenes of noise, which stand still but for some."""
    random = np.random.default_rng(0)
    parts = []
    for number, length in enumerate(lengths):
        picture = random.integers(0, 256, (3, 36, 64), np.uint8)
        parts += [
            np.roll(picture, index if number in moving else 0, 2) // (8 if number in moving else 1)
            for index in range(length)
        ]
    return Video(np.stack(parts), Fraction(25))


def test_segments_begin_with_scenes():
    plan = make_plan(scenes(20, 13, 40), FAST, segment_frames=15, key_interval=8)
    assert plan.runs == (
        range(10),
        range(10, 20),
        range(20, 33),
        range(33, 46),
        range(46, 59),
        range(59, 73),
    )
    assert plan.keys == {0, 2, 3}  # each scene's first
    assert plan.groups == [range(2), range(2, 3), range(3, 6)]
    assert plan.longest == 14


@pytest.mark.parametrize(("interval", "keys"), [(1, range(7)), (3, (0, 3, 6)), (8, (0,))])
def test_keys_are_no_further_apart_than_wanted(interval, keys):
    plan = make_plan(scenes(70), FAST, segment_frames=10, key_interval=interval)
    assert plan.keys == set(keys)
    assert list(chain.from_iterable(plan.groups)) == list(range(7))


def test_presets_of_groups_have_their_own_lengths():
    plan = make_plan(scenes(3 * 17 + 2), NIRVANA, segment_frames=150, key_interval=1)
    assert {len(run) for run in plan.runs} <= {2, 3}
    assert plan.keys == {0, 16}
    assert plan.key_share == DEFAULT.group_key_share


def test_time_and_bytes_go_to_what_moves():
    plan = make_plan(scenes(20, 20, moving=[1]), FAST, segment_frames=10, key_interval=8)
    assert sum(plan.shares) == pytest.approx(1)
    assert plan.shares[0] == plan.shares[1]
    assert plan.shares[3] > 1.2 * plan.shares[1]
    assert np.average(plan.hardness, weights=[len(run) for run in plan.runs]) == pytest.approx(1)


def test_keys_have_their_multiple():
    plan = Plan(runs=(range(3), range(3, 6)), keys=frozenset([0]), hardness=(1.0, 1.0), key_share=4)
    assert plan.shares == pytest.approx([0.8, 0.2])


def test_what_any_segment_needs_is_no_more_than_the_longest_has():
    plan = Plan(runs=(range(3), range(3, 6)), keys=frozenset([0]), hardness=(0.5, 1.5))
    assert plan.shares == pytest.approx([4.5 / 12, 7.5 / 12])


def test_few_pixels_that_change_much_are_hard():
    """As squared errors see it: a quarter of the picture by 40 steps is as hard as all of it by 20."""
    frames = np.full((40, 3, 36, 64), 100, np.uint8)
    frames[1:20:2, :, :18, :32] += 40
    frames[20:] += 100  # another scene
    frames[21::2] += 20
    plan = make_plan(Video(frames, Fraction(25)), FAST, segment_frames=20, key_interval=8)
    assert plan.runs == (range(20), range(20, 40))
    assert plan.hardness == pytest.approx((1, 1), abs=1e-3)


def test_short_segments_have_what_any_needs():
    plan = make_plan(scenes(10, 150), FAST, segment_frames=150, key_interval=8)
    assert plan.shares[1] / plan.shares[0] == pytest.approx(
        (150 + DEFAULT.still_frames) / (10 + DEFAULT.still_frames)
    )


def huge(width, height):
    """Return what a plan looks at of 400 frames."""
    return SimpleNamespace(count=400, size=(width, height), thumbnails=lambda: scenes(400))


@pytest.mark.parametrize("size", ["S", "L"])
def test_segments_of_large_frames_are_as_short_as_a_clip_can_hold(size):
    plan = make_plan(huge(3840, 2160), FAST, size=size, segment_frames=150, key_interval=8)
    # The canvas of a camera that goes as far as it may is a quarter larger on both sides.
    network = FAST.network(
        VideoShape(height=2160, width=3840, frames=plan.longest, margin=(540, 960)), size
    )
    weights = sum(x.numel() for x in network.parameters())
    assert 0.7 * MAX_WEIGHTS < weights <= MAX_WEIGHTS
    assert 0.5 * MAX_CHAIN_WEIGHTS < weights * max(map(len, plan.groups)) <= MAX_CHAIN_WEIGHTS


def test_segment_too_long_for_memory():
    with pytest.raises(
        SourceError,
        match="400 frames of 8192x8192 do not fit in half of the memory: use --resize or fewer",
    ):
        make_plan(huge(8192, 8192), PRESETS["hnerv"], segment_frames=400, key_interval=8)


def test_network_too_large_for_any_segment():
    with pytest.raises(
        SettingsError, match="a network of size L has too many weights for frames of 8192x8192"
    ):
        make_plan(huge(8192, 8192), PRESETS["nerv"], size="L", segment_frames=150, key_interval=8)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_lengths_that_a_clip_can_hold_are_kept(preset):
    plan = make_plan(huge(320, 180), preset, segment_frames=150, key_interval=8)
    assert plan.longest == (preset.group_frames or 134)
    assert max(map(len, plan.groups)) == (DEFAULT.group_key_interval if preset.group_frames else 3)


def test_plan_of_a_film_takes_no_time():
    length = 57_600
    runs = tuple(range(3 * index, 3 * index + 3) for index in range(length))
    keys = frozenset(range(0, length, 16))
    plan = Plan(runs=runs, keys=keys, hardness=(1.0,) * length, key_share=2)
    began = time.process_time()
    for group in plan.groups:
        assert sum(plan.shares[index] for index in group) > 0
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("options", "message"),
    [((0, 1), "at least 1 frame, got 0"), ((1, 0), "every 1 segment at least")],
)
def test_lengths_under_one(options, message):
    with pytest.raises(SettingsError, match=message):
        make_plan(scenes(3), FAST, segment_frames=options[0], key_interval=options[1])


def test_videos_of_high_motion_have_latents_of_more_times():
    columns = np.arange(64)
    waves = [
        np.rint(128 + 100 * np.sin(2 * np.pi * (columns - 4 * index) / 64)) for index in range(30)
    ]
    fast = Video(np.array(waves, np.uint8)[:, None, None].repeat(36, 2).repeat(3, 1), Fraction(25))
    plans = [
        make_plan(video, FAST, segment_frames=30, key_interval=1) for video in (scenes(30), fast)
    ]
    assert [plan.shape((36, 64), None).high_motion for plan in plans] == [False, True]
    times = [
        [len(x) for x in build(FAST, plan.shape((36, 64), None), "XS").latent_parameters()[:2]]
        for plan in plans
    ]
    assert times[1] == [-(-29 // period) + 1 for period, *_ in HIGH_MOTION]
    assert times[0] < times[1]
