from dataclasses import replace
from fractions import Fraction
from itertools import takewhile
from math import log

import pytest
import torch
from helpers import make_encoder, panning

from encoder.cli.options import SAMPLE
from encoder.codec.clip import Clip
from encoder.compare.evaluation import mean_quality, qualities
from encoder.config import Budget, Compression
from encoder.jobs.gop import Gop
from encoder.media.source import read_video
from encoder.media.video import Video
from encoder.presets import PRESETS
from encoder.training.rate_control import LAST_RISE_DB, RateControl


def test_weight_is_per_pixel():
    rate = RateControl(lambda_=0.05, pixels=1000)
    assert rate.weight(torch.tensor(500.0), 0.9).item() == pytest.approx(0.05 / 1000)


@pytest.mark.parametrize(
    ("steps", "factor"), [(0, 1), (4000, 1), (2000, 1), (1000, 2**0.6), (500, 4**0.6), (10, 4)]
)
def test_bits_weigh_more_in_a_fit_of_few_steps(steps, factor):
    rate = RateControl(lambda_=0.05, pixels=1000)
    rate.expect(2000, round(0.3 * steps), 0.3)
    assert rate.bit_weight == pytest.approx(factor * 0.05 / 1000)


@pytest.mark.parametrize("target", [{"target_bits": 2000.0}, {"target_db": 30.0}])
def test_few_steps_do_not_disturb_steering(target):
    rate = RateControl(lambda_=0.05, pixels=1000, **target)
    rate.expect(2000, 10, 0.3)
    assert rate.bit_weight == pytest.approx(0.05 / 1000)


def test_a_short_fit_makes_a_smaller_file_than_its_lambda_would(monkeypatch):
    video = Video(panning(8, 32, 48), Fraction(25))
    sizes = []
    fast = PRESETS["fast"]
    for full_steps in (0, fast.recipe.full_steps):
        preset = replace(fast, recipe=replace(fast.recipe, full_steps=full_steps))
        monkeypatch.setitem(PRESETS, "fast", preset)
        encoder = make_encoder(video, compression=Compression(lambda_=0.02), size="XS")
        list(encoder.run(Budget(epochs=80)))
        sizes.append(len(bytes(encoder.clip())))
    assert sizes[1] < 0.9 * sizes[0]


@pytest.mark.parametrize(("target", "lag"), [(2000.0, 0.02), (20_000.0, 0.05), (100_000.0, 0.02)])
def test_size_is_steered_to_the_target(target, lag):
    """The bits of a fit follow the weight with some lag, a third as fast in logarithms."""
    rate = RateControl(lambda_=0.05, pixels=1000, target_bits=target)
    bits = settled = log(15_000.0)
    first = log(0.05 / 1000)
    for index in range(800):
        progress = index / 800
        weight = rate.weight(torch.tensor(bits).exp(), progress)
        settled = log(15_000.0) - 0.35 * (weight.log().item() - first)
        bits += (settled - bits) / (800 * lag)
    assert bits == pytest.approx(log(target), abs=0.02)


@pytest.mark.parametrize(("target", "lag"), [(30.0, 0.01), (31.5, 0.03), (33.0, 0.01)])
def test_quality_is_steered_to_the_target(target, lag):
    """The quality of a fit rises by itself, and follows the weight with some lag."""
    rate = RateControl(lambda_=0.05, pixels=1000, target_db=target)
    frames = torch.Generator().manual_seed(0)
    first = log(0.05 / 1000)
    lost = 0.0
    for index in range(2000):
        progress = index / 2000
        noise = float(torch.randn((), generator=frames))
        quality = 30.0 + 2 * progress - lost
        rate.observe(torch.tensor(10 ** (-(quality + noise) / 10)))
        weight = rate.weight(torch.tensor(500.0), progress)
        settled = 0.8 * (weight.log().item() - first)
        lost += (settled - lost) / (2000 * lag)
        if progress < 0.5:
            assert weight.log().item() == pytest.approx(first)
    assert quality == pytest.approx(target - LAST_RISE_DB, abs=0.15)


def test_weight_waits_for_the_first_error():
    """A fit that rolls back to its start has no error, however late it is."""
    rate = RateControl(lambda_=0.05, pixels=1000, target_db=30.0)
    assert rate.weight(torch.tensor(500.0), 0.9).item() == pytest.approx(0.05 / 1000)


def test_network_without_a_lambda_is_steered_to_a_quality():
    video = Video(panning(4, 32, 48), Fraction(25))
    encoder = make_encoder(video, "nerv", Compression(psnr=30.0), size="XS")
    start = encoder.start(0, None)
    options = {"start": 0, "before": None, "frame_encoder": None}
    rate = encoder.fit(0, start, Budget(epochs=1), **options).training.rate
    assert rate.target_db == 30.0
    assert rate.bit_weight == pytest.approx(0.05 / (4 * 32 * 48))


def test_weight_of_a_quality_out_of_reach_has_a_bound():
    rate = RateControl(lambda_=0.05, pixels=1000, target_db=60.0)
    for index in range(1000):
        rate.observe(torch.tensor(0.1))
        weight = rate.weight(torch.tensor(500.0), index / 1000)
    assert weight.item() == pytest.approx(0.05 / 1000 / 1000, rel=1e-3)


def small_sample():
    video = read_video(SAMPLE, size=(64, 36))
    return replace(video, frames=video.frames[:32])


def test_fit_to_a_quality_goes_on_as_if_nothing_had_happened():
    """It is interrupted after it went ahead, while it is steered."""
    encoder = make_encoder(small_sample(), "fast", Compression(psnr=28.0), size="XS")
    budget = Budget(epochs=300)
    gop = Gop(encoder, 0, budget)
    steps = gop.run()
    taken = 1 + sum(1 for _ in takewhile(lambda step: step.done < 0.7, steps))
    assert taken < 150  # of 300 epochs
    state = gop.state()
    whole = list(steps)[-1].finished
    again = list(Gop(encoder, 0, budget, state=state).run())[-1].finished
    assert bytes(again.segment) == bytes(whole.segment)


@pytest.mark.parametrize(("target", "most_epochs"), [(28.0, 200), (30.0, 301)])
def test_fit_has_the_quality_that_was_asked_for(target, most_epochs):
    """A quality that is easy to reach ends the fit early; the network alone would have 29.7 dB."""
    video = small_sample()
    encoder = make_encoder(video, "fast", Compression(psnr=target), size="XS")
    epochs = sum(step.is_whole for step in encoder.run(Budget(epochs=300)))
    clip = Clip.parse(bytes(encoder.clip()))
    assert mean_quality(list(qualities(clip, video))).psnr_db == pytest.approx(target, abs=0.4)
    assert epochs <= most_epochs


def test_steps_are_searched_while_a_weight_decides():
    def fixed(**target):
        rate = RateControl(lambda_=0.05, pixels=1000, **target)
        return [rate.fixes_steps(is_last=is_last) for is_last in (False, True)]

    assert fixed() == [False, False]
    assert fixed(target_db=30.0) == [False, True]
    assert fixed(target_bits=1e4) == [True, True]


def test_fit_has_the_size_that_was_asked_for():
    size = 6000
    video = Video(panning(8, 32, 48), Fraction(25))
    encoder = make_encoder(video, "fast", Compression(file_bytes=size), size="XS")
    list(encoder.run(Budget(epochs=200)))
    assert len(bytes(encoder.clip())) == pytest.approx(size, rel=0.03)


def test_segments_have_their_shares_of_the_bytes():
    video = Video(panning(12, 48, 64), Fraction(25))
    encoder = make_encoder(video, "fast", Compression(file_bytes=9000), segment_frames=8)
    encoder.plan = replace(encoder.plan, hardness=(0.5, 1.5))
    wanted = []
    for index in range(2):
        fit = encoder.fit(
            index,
            encoder.start(index, None),
            Budget(epochs=1),
            start=0,
            before=None,
            frame_encoder=None,
        )
        wanted.append(fit.training.rate.target_bits)
    assert wanted[1] / wanted[0] == pytest.approx(
        15 / 9
    )  # each needs as much as six frames for its network
    assert 7000 < sum(wanted) / 8 < 9000


def test_weight_rises_little_on_the_way():
    rate = RateControl(lambda_=0.05, pixels=1000, target_bits=1.0)
    weights = [rate.weight(torch.tensor(1e9), progress / 100).item() for progress in range(100)]
    assert weights[49] == pytest.approx(4 * weights[0])
    assert weights[-1] > 100 * weights[49]


def test_weight_changes_little_at_once():
    rate = RateControl(lambda_=0.05, pixels=1000, target_bits=1.0)
    rate.weight(torch.tensor(1e9), 0.5)
    before = rate.weight(torch.tensor(1e9), 0.6)
    assert rate.weight(torch.tensor(1e9), 0.9) == pytest.approx(
        before.item() * 2.71828**0.5, rel=1e-3
    )
