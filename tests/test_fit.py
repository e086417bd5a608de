from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import moving_square

from encoder.codec.decoder import ReferenceDecoder
from encoder.codec.errors import BitstreamError, SettingsError
from encoder.encode import Encoder, split
from encoder.fit import Fit, Limit
from encoder.presets import PRESETS, find_preset
from encoder.video import Video

FRAMES = torch.from_numpy(moving_square(4, 16, 24))


def make_fit(limit, preset="fast", seed=0, **options):
    torch.manual_seed(seed)
    return Fit(PRESETS[preset].network(16, 24, 4), PRESETS[preset].recipe, limit, **options)


@pytest.mark.parametrize("preset", PRESETS)
def test_fit_learns_the_frames(preset):
    epochs = list(make_fit(Limit(epochs=60), preset).epochs(FRAMES))
    assert [epoch.index for epoch in epochs] == list(range(60))
    assert epochs[-1].psnr_db > epochs[0].psnr_db + 3


def test_the_same_seed_gives_the_same_network():
    fits = [make_fit(Limit(epochs=6)) for _ in range(2)]
    for fit in fits:
        torch.manual_seed(1)
        assert len(list(fit.epochs(FRAMES))) == 6
    pairs = zip(fits[0].network.parameters(), fits[1].network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_budget_ends_the_fit():
    seconds = iter(range(10_000))
    fit = make_fit(Limit(seconds=50), clock=lambda: next(seconds))
    epochs = list(fit.epochs(FRAMES))
    assert next(seconds) < 60
    assert epochs[-1].progress >= 0.9


def test_budget_shorter_than_an_epoch():
    seconds = iter(range(10_000))
    assert len(list(make_fit(Limit(seconds=3), clock=lambda: next(seconds)).epochs(FRAMES))) == 1


def test_network_is_fitted_through_the_quantizer():
    fit = make_fit(Limit(epochs=20))
    modes = [fit.quantizer is not None for _ in fit.epochs(FRAMES)]
    assert modes == [False] * 10 + [True] * 10


def test_loss_that_is_no_number():
    fit = make_fit(Limit(epochs=2))
    with torch.no_grad():
        next(fit.network.parameters()).fill_(float("nan"))
    with pytest.raises(SettingsError, match="no longer finite"):
        list(fit.epochs(FRAMES))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either a budget or a number of epochs"),
        ({"seconds": 1, "epochs": 1}, "either a budget or a number of epochs"),
        ({"seconds": 0}, "over 0 seconds, got 0"),
        ({"seconds": float("nan")}, "over 0 seconds, got nan"),
        ({"epochs": 0}, "at least 1, got 0"),
    ],
)
def test_limits_out_of_range(arguments, message):
    with pytest.raises(SettingsError, match=message):
        Limit(**arguments)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(SettingsError, match=r"unknown preset 'x', known are: fast, nerv\+\+"):
        find_preset("x")


@pytest.mark.parametrize(("frames", "length", "lengths"), [(132, 150, [132]), (10, 4, [3, 3, 4]), (4, 1, [1, 1, 1, 1])])
def test_split_is_even(frames, length, lengths):
    runs = split(frames, length)
    assert [len(run) for run in runs] == lengths
    assert [frame for run in runs for frame in run] == list(range(frames))


def test_video_that_the_format_cannot_hold_is_refused_before_the_fit():
    with pytest.raises(BitstreamError, match="frame rate must be over 0 and at most 1000"):
        Encoder(Video(FRAMES.numpy(), Fraction(2000)), PRESETS["fast"], segment_frames=9, device=torch.device("cpu"))


@pytest.mark.parametrize("preset", PRESETS)
def test_file_decodes_to_what_was_fitted(preset):
    """The reference decoder matches the torch network with the dequantised weights within one 8-bit step."""
    torch.manual_seed(0)
    video = Video(FRAMES.numpy(), Fraction(25))
    encoder = Encoder(video, PRESETS[preset], segment_frames=9, device=torch.device("cpu"))
    list(encoder.run(Limit(epochs=3)))
    clip = encoder.clip("")
    network = PRESETS[preset].network(16, 24, 4).eval()
    weights = clip.segments[0].weights(clip.topology.tensors)
    with torch.no_grad():
        for parameter, values in zip(network.parameters(), weights.values(), strict=True):
            parameter.copy_(torch.from_numpy(values))
        for time in (0.0, 1.0, 2.4, 3.0):
            expected = network(torch.tensor([time]))[0, :, :16, :24].mul(255).round().numpy()
            decoded = ReferenceDecoder(clip).frame(time).astype(int)
            assert np.abs(decoded - expected).max() <= 1


def test_segments_show_their_own_frames():
    torch.manual_seed(0)
    frames = np.repeat(np.array([20, 20, 230, 230], np.uint8), 3 * 16 * 24).reshape(4, 3, 16, 24)
    encoder = Encoder(Video(frames, Fraction(25)), PRESETS["fast"], segment_frames=2, device=torch.device("cpu"))
    progress = list(encoder.run(Limit(epochs=60)))
    assert [step.segment for step in progress] == [0] * 60 + [1] * 60
    assert progress[-1].done == 1
    decoded = [frame.mean() for frame in ReferenceDecoder(encoder.clip("")).frames()]
    assert decoded == pytest.approx([20, 20, 230, 230], abs=25)
