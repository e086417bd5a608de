from fractions import Fraction
from math import log10

import helpers
import numpy as np
import pytest
import torch
from helpers import moving_square, panning

from encoder.codec.clip import Clip, SegmentModels
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.common.errors import BitstreamError, FitError, SettingsError
from encoder.config import Budget, Compression
from encoder.media.metrics import psnr_db
from encoder.media.video import Video
from encoder.models.base import VideoShape
from encoder.presets import PRESETS
from encoder.segmentation.shots import split
from encoder.training.qat import INITIAL_STEP, QatQuantizer
from encoder.training.rate_control import RateControl
from encoder.training.step import TrainStep
from encoder.training.trainer import Trainer

FRAMES = torch.from_numpy(moving_square(4, 16, 24))
SHAPE = VideoShape(height=16, width=24, frames=4)
PIXELS = 4 * 16 * 24


def make_fit(limit, preset="fast", seed=0, *, is_encoded=False, **options):
    torch.manual_seed(seed)
    # The papers' networks are narrow where frames are as small as these.
    network = (
        PRESETS[preset]
        .network(SHAPE, "XS" if preset == "fast" else "L")
        .to(memory_format=torch.channels_last)
    )
    frame_encoder = network.frame_encoder() if is_encoded else None
    schedule = {name: options.pop(name) for name in ("start", "clock") if name in options}
    training = TrainStep(network, PRESETS[preset].recipe, frame_encoder=frame_encoder, **options)
    return Trainer(training, limit, **schedule)


def is_latent(name):
    return name.startswith(("latents.", "field."))


def make_encoder(preset="fast", frames=FRAMES, rate=25, **options):
    video = Video(np.asarray(frames), Fraction(rate))
    return helpers.make_encoder(video, preset, **{"segment_frames": 9, "size": "XS"} | options)


@pytest.mark.parametrize("preset", PRESETS)
def test_fit_learns_the_frames(preset):
    fit = make_fit(Budget(epochs=150), preset, is_encoded=True)
    epochs = list(fit.epochs(FRAMES))
    assert [epoch.index for epoch in epochs] == list(range(150))
    assert epochs[-1].psnr_db > epochs[0].psnr_db + 3
    shown = fit.training.network(torch.arange(4.0))[..., :16, :24].detach()
    error = (shown - FRAMES / 255).square().mean().item()
    assert -10 * log10(error) > epochs[-1].psnr_db - 1  # without the encoder of frames too


@pytest.mark.parametrize("preset", PRESETS)
def test_masked_pixels_are_not_looked_at(preset):
    mask = torch.zeros(4, 16, 24, dtype=torch.bool)
    mask[:, 4:8, 4:12] = True
    spoiled = torch.where(mask[:, None], 255 - FRAMES, FRAMES)
    fits = [make_fit(Budget(epochs=5), preset) for _ in range(2)]
    for fit, frames in zip(fits, (FRAMES, spoiled), strict=True):
        torch.manual_seed(1)
        list(fit.epochs(frames, mask))
    pairs = zip(
        fits[0].training.network.parameters(), fits[1].training.network.parameters(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_segment_is_fitted_as_a_difference():
    first = make_fit(Budget(epochs=60), "nirvana")
    list(first.epochs(FRAMES[:3]))
    before = {name: x.detach().clone() for name, x in first.training.network.named_parameters()}
    rate = RateControl(lambda_=0.05, pixels=PIXELS)
    training = TrainStep(
        first.training.network, PRESETS["nirvana"].recipe, before=before, rate=rate
    )
    fit = Trainer(training, Budget(epochs=20))
    list(fit.epochs(FRAMES[:3]))
    alone = QatQuantizer(dict(fit.training.network.named_parameters()))
    alone.load_state_dict(fit.training.quantizer.state_dict())
    alone.differences = frozenset()
    tensors = dict(fit.training.network.named_parameters())
    assert fit.training.quantizer.bits(tensors) < 0.5 * alone.bits(tensors)


def test_the_same_seed_gives_the_same_network():
    fits = [make_fit(Budget(epochs=6)) for _ in range(2)]
    for fit in fits:
        torch.manual_seed(1)
        assert len(list(fit.epochs(FRAMES))) == 6
    pairs = zip(
        fits[0].training.network.parameters(), fits[1].training.network.parameters(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_budget_ends_the_fit():
    seconds = iter(range(10_000))
    fit = make_fit(Budget(seconds=50), clock=lambda: next(seconds))
    epochs = list(fit.epochs(FRAMES))
    assert next(seconds) < 60
    assert epochs[-1].progress >= 0.9


def test_budget_shorter_than_an_epoch():
    seconds = iter(range(10_000))
    assert len(list(make_fit(Budget(seconds=3), clock=lambda: next(seconds)).epochs(FRAMES))) == 1


def test_share_of_the_time_is_kept_where_a_fit_goes_on_with_another_budget():
    seconds = iter(range(1000))
    first = make_fit(Budget(seconds=200), clock=lambda: next(seconds))
    progress = next(first.epochs(FRAMES)).progress
    other = make_fit(Budget(seconds=400), clock=lambda: next(seconds))
    other.load_state_dict(first.state_dict())
    following = next(other.epochs(FRAMES)).progress
    assert 0 < progress < following < 2 * progress


def test_steps_go_far_in_a_short_fit():
    fit = make_fit(Budget(epochs=30), rate=RateControl(lambda_=0.05, pixels=PIXELS))
    list(fit.epochs(FRAMES))
    assert (
        fit.training.quantizer.offsets.abs().max()
        > 30 * PRESETS["fast"].recipe.quantization.step_learning_rates[0]
    )  # as they could go at the least rate


def test_network_is_fitted_through_the_quantizer():
    fit = make_fit(Budget(epochs=20), rate=RateControl(lambda_=0.05, pixels=PIXELS))
    modes, grads = zip(
        *(
            (
                fit.training.quantizer is not None,
                fit.training.quantizer and fit.training.quantizer.offsets.grad is not None,
            )
            for _ in fit.epochs(FRAMES)
        ),
        strict=True,
    )
    assert modes == (False,) * 2 + (True,) * 18
    assert grads[-4]  # later on the steps are frozen


def test_the_latents_are_fitted_to_what_will_be_written():
    fit = make_fit(Budget(epochs=100), rate=RateControl(lambda_=0.05, pixels=PIXELS))
    epochs = fit.epochs(FRAMES)
    while next(epochs).progress < PRESETS["fast"].recipe.schedule.freeze_from + 0.02:
        pass
    before = {name: x.detach().clone() for name, x in fit.training.network.named_parameters()}
    written = fit.training.quantizer.rounded(before)
    list(epochs)
    for name, x in fit.training.network.named_parameters():
        assert torch.equal(x, before[name]) != is_latent(name)
        assert torch.allclose(before[name], written[name], atol=1e-6) != is_latent(name)


def test_a_fit_too_short_to_learn_steps_has_the_first_ones():
    fit = make_fit(Budget(epochs=1), rate=RateControl(lambda_=0.05, pixels=PIXELS))
    list(fit.epochs(FRAMES))
    tensors = dict(fit.training.network.named_parameters())
    step, offsets = fit.training.quantizer.learned("mix.weight")
    assert step == pytest.approx(
        INITIAL_STEP * tensors["mix.weight"].std(correction=0).item(), rel=2**-9
    )
    assert not offsets.any()


def test_a_network_without_latents_is_never_frozen():
    fit = make_fit(Budget(epochs=20), "nerv++", rate=RateControl(lambda_=0.05, pixels=PIXELS))
    list(fit.epochs(FRAMES))
    assert all(x.requires_grad for x in fit.training.network.parameters())


@pytest.mark.parametrize(
    "preset", [pytest.param("hnerv", marks=pytest.mark.soak), "nirvana", "nerv"]
)
def test_a_higher_rate_makes_a_smaller_file_of_every_recipe(preset):
    video = Video(moving_square(6, 32, 48), Fraction(25))
    sizes = []
    for weight in (0.005, 0.5):
        encoder = helpers.make_encoder(video, preset, Compression(lambda_=weight), size="XS")
        list(encoder.run(Budget(epochs=150)))
        sizes.append(len(bytes(encoder.clip())))
    assert sizes[1] < 0.9 * sizes[0]


def test_a_higher_rate_makes_fewer_bits():
    bits = []
    for lambda_ in (0.01, 10.0):
        fit = make_fit(Budget(epochs=60), rate=RateControl(lambda_=lambda_, pixels=PIXELS))
        list(fit.epochs(FRAMES))
        bits.append(
            fit.training.quantizer.bits(dict(fit.training.network.named_parameters())).item()
        )
    assert bits[1] < 0.9 * bits[0]


def test_pruned_weights_stay_zero():
    fit = make_fit(Budget(epochs=20), prune=0.4)
    list(fit.epochs(FRAMES))
    tensors = {name: x for name, x in fit.training.network.named_parameters() if x.ndim > 1}
    weights = torch.cat([x.flatten() for name, x in tensors.items() if not is_latent(name)])
    assert (weights == 0).float().mean().item() == pytest.approx(0.4, abs=0.01)
    assert not any((x == 0).any() for name, x in tensors.items() if is_latent(name))


def test_fit_goes_on_from_a_part_of_the_schedule():
    fit = make_fit(Budget(epochs=5), start=0.5)
    assert [epoch.progress for epoch in fit.epochs(FRAMES)] == pytest.approx(
        [0.6, 0.7, 0.8, 0.9, 1.0]
    )


def test_loss_that_is_no_number():
    fit = make_fit(Budget(epochs=2))
    with torch.no_grad():
        next(fit.training.network.parameters()).fill_(float("nan"))
    with pytest.raises(FitError, match="collapses at once"):
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
        Budget(**arguments)


@pytest.mark.parametrize(
    ("frames", "length", "lengths"), [(132, 150, [132]), (10, 4, [3, 3, 4]), (4, 1, [1, 1, 1, 1])]
)
def test_split_is_even(frames, length, lengths):
    runs = split(frames, length)
    assert [len(run) for run in runs] == lengths
    assert [frame for run in runs for frame in run] == list(range(frames))


def test_video_that_the_format_cannot_hold_is_refused_before_the_fit():
    with pytest.raises(BitstreamError, match="frame rate must be over 0 and at most 1000"):
        make_encoder(rate=2000)


@pytest.mark.parametrize(
    ("preset", "frames", "is_moving"),
    [
        ("fast", FRAMES, False),
        ("fast", panning(4, 48, 64), True),
        *((name, FRAMES, False) for name in PRESETS if name not in ("fast", "nirvana")),
    ],
)
def test_file_decodes_to_what_was_fitted(preset, frames, is_moving):
    """The reference decoder matches the torch network with the dequantised weights within one 8-bit step."""
    encoder = make_encoder(preset, frames)
    list(encoder.run(Budget(epochs=3)))
    clip = encoder.clip()
    network = encoder.network(0).eval()
    assert (network.displacements() is not None) == is_moving
    weights = clip.segments[0].weights(clip.topology.tensors)
    height, width = frames.shape[2:]
    with torch.no_grad():
        for parameter, values in zip(network.parameters(), weights.values(), strict=True):
            parameter.copy_(torch.from_numpy(values))
        for time in (0.0, 1.0, 2.4, 3.0):
            expected = (
                network(torch.tensor([time]))[0, :, :height, :width]
                .clip(0, 1)
                .mul(255)
                .round()
                .numpy()
            )
            decoded = ReferenceDecoder(clip).frame(time).astype(int)
            assert np.abs(decoded - expected).max() <= 1


def test_groups_are_differences_from_the_one_before():
    frames = moving_square(3 * 17 + 2, 16, 24)
    encoder = make_encoder("nirvana", frames, compression=Compression(lambda_=1e-4))
    list(encoder.run(Budget(epochs=20)))
    segments = encoder.clip().segments
    assert [segment.frames for segment in segments] == [len(run) for run in encoder.plan.runs]
    assert [index for index, segment in enumerate(segments) if segment.is_key] == [0, 16]
    clip = Clip.parse(bytes(encoder.clip()))
    assert not clip.header.continuous
    network = encoder.network(18)
    with torch.no_grad():
        for parameter, values in zip(
            network.parameters(), SegmentModels(clip).weights(17).values(), strict=True
        ):
            parameter.copy_(torch.from_numpy(values))
        expected = network(torch.tensor([1.0]))[0, :, :16, :24].clip(0, 1).mul(255).round().numpy()
    assert (
        np.abs(ReferenceDecoder(clip).frame(segments[17].start + 1).astype(int) - expected).max()
        <= 1
    )
    shown = [
        psnr_db(frame, original)
        for frame, original in zip(ReferenceDecoder(clip).frames(), frames, strict=True)
    ]
    assert np.mean(shown[42:45]) > np.mean(shown[:3]) + 3  # each goes on where the one before ended


@pytest.mark.parametrize(
    "coding",
    [
        {"bits": 6, "prune": 0.2},
        *(
            pytest.param(each, marks=pytest.mark.soak)
            for each in ({"bits": 6}, {"file_bytes": 40_000})
        ),
    ],
)
def test_differences_are_coded_in_every_way(coding):
    video = Video(moving_square(12, 32, 48), Fraction(25))
    encoder = helpers.make_encoder(video, "nirvana", Compression(**coding), size="XS")
    list(encoder.run(Budget(epochs=500 if "file_bytes" in coding else 200)))
    clip = bytes(encoder.clip())
    assert [segment.is_key for segment in Clip.parse(clip).segments] == [True, False, False, False]
    if "file_bytes" in coding:
        assert len(clip) == pytest.approx(40_000, rel=0.03)
    shown = zip(ReferenceDecoder(Clip.parse(clip)).frames(), video.frames, strict=True)
    assert min(psnr_db(frame, original) for frame, original in shown) > 15


@pytest.mark.soak
def test_a_size_is_reached_with_an_encoder_of_frames():
    video = Video(panning(8, 32, 48), Fraction(25))
    encoder = helpers.make_encoder(video, "hnerv", Compression(file_bytes=3000), size="L")
    list(encoder.run(Budget(epochs=200)))
    assert len(bytes(encoder.clip())) == pytest.approx(3000, rel=0.05)


def test_segments_show_their_own_frames():
    frames = np.repeat(np.array([20, 20, 230, 230], np.uint8), 3 * 16 * 24).reshape(4, 3, 16, 24)
    encoder = make_encoder(frames=frames, segment_frames=2)
    progress = list(encoder.run(Budget(epochs=90)))
    assert [step.segment for step in progress if step.finished is None] == [0] * 90 + [1] * 90
    assert progress[-1].done == 1
    decoded = [frame.mean() for frame in ReferenceDecoder(encoder.clip()).frames()]
    assert decoded == pytest.approx([20, 20, 230, 230], abs=25)


@pytest.mark.parametrize(
    ("preset", "options"), [("fast", {}), ("hnerv", {"is_encoded": True}), ("nerv", {"prune": 0.3})]
)
@pytest.mark.parametrize("stop", [3, 12, 28, 37, 39])
def test_fit_goes_on_from_its_state_as_if_nothing_had_happened(tmp_path, preset, options, stop):
    def make():
        rate = RateControl(lambda_=0.05, pixels=PIXELS, target_bits=9000)
        bits = {"coded_bits": lambda quantizer: 9500.0} if preset != "nerv" else {}
        return make_fit(Budget(epochs=40), preset, rate=rate if bits else None, **bits, **options)

    whole, first, second = make(), make(), make()
    for fit, count in ((whole, 40), (first, stop)):
        torch.manual_seed(1)
        for epoch in fit.epochs(FRAMES):
            if epoch.index + 1 == count:
                torch.save(fit.state_dict(), tmp_path / "state.pt")
                if fit is first:
                    break
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.manual_seed(5)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    indices = [epoch.index for epoch in second.epochs(FRAMES)]
    assert indices == list(range(stop, 40))
    for a, b in zip(
        whole.training.network.parameters(), second.training.network.parameters(), strict=True
    ):
        assert torch.equal(a, b)
    if whole.training.quantizer is not None:
        assert torch.equal(whole.training.quantizer.log_steps, second.training.quantizer.log_steps)


@pytest.mark.parametrize("stop", range(1, 16))
def test_fit_goes_on_within_an_epoch(stop):
    """An epoch has four steps, before each of which so much time passes that it is interrupted."""

    def make():
        seconds = iter(range(0, 1_000_000, 10))
        rate = RateControl(lambda_=0.05, pixels=PIXELS)
        return make_fit(Budget(epochs=4), "nerv", rate=rate, clock=lambda: next(seconds))

    whole, first, second = make(), make(), make()
    torch.manual_seed(1)
    shown = list(whole.epochs(FRAMES))
    assert [step.is_whole for step in shown] == 4 * [False, False, False, False, True]
    assert [step.progress for step in shown[:6]] == pytest.approx(
        [0, 1 / 16, 2 / 16, 3 / 16, 4 / 16, 4 / 16]
    )
    torch.manual_seed(1)
    assert [step.progress for _, step in zip(range(stop), first.epochs(FRAMES), strict=False)][
        -1
    ] < 1
    state = first.state_dict()
    torch.manual_seed(5)
    second.load_state_dict(state)
    assert [step.progress for step in second.epochs(FRAMES)][-1] == 1
    for a, b in zip(
        whole.training.network.parameters(), second.training.network.parameters(), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize(  # some before a state is kept
    "at", [12, 90, 142, *(pytest.param(at, marks=pytest.mark.soak) for at in (31, 63, 130))]
)
@pytest.mark.parametrize("kind", ["nan", "large"])
def test_fit_comes_back_from_a_collapse(caplog, at, kind):
    """Whatever the fit has begun meanwhile: to count bits, to quantise, to round, to freeze."""
    rate = RateControl(lambda_=0.001, pixels=PIXELS)
    fit = make_fit(Budget(epochs=150), rate=rate)
    reached = 0.0
    for epoch in fit.epochs(FRAMES):
        if epoch.index == at:
            reached = epoch.psnr_db
            with torch.no_grad():
                for x in fit.training.network.parameters():
                    x.fill_(float("nan") if kind == "nan" else -50)
    assert caplog.text.count("back to where it was") == 1
    with torch.no_grad():
        shown = fit.training.network(torch.arange(len(FRAMES)).float()).clamp(0, 1)
    assert -10 * ((shown - FRAMES / 255) ** 2).mean().log10() > reached - 3
    assert fit.training.quantizer is not None


def test_one_bad_step_among_good_ones_is_no_collapse(caplog, monkeypatch):
    """An epoch of four frames is one step, and its quality is that of a single batch."""
    fit = make_fit(Budget(epochs=100))
    step, count = fit.training.step, 0

    def noisy(*args, **options):
        nonlocal count
        count += 1
        return step(*args, **options) * (100 if count % 7 == 0 else 1)

    monkeypatch.setattr(fit.training, "step", noisy)
    assert len(list(fit.epochs(FRAMES))) == 100
    assert "back to where it was" not in caplog.text


def test_fit_that_collapses_again_and_again():
    fit = make_fit(Budget(epochs=100))
    epochs = fit.epochs(FRAMES)
    next(epochs)
    fit.training.network.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    with pytest.raises(FitError, match="collapses again and again"):
        list(epochs)


def test_a_short_fit_has_few_bytes():
    """Steps are searched for where a fit is too short to learn them."""

    def bits_of(training):
        fit = Trainer(training, Budget(epochs=24))
        torch.manual_seed(0)
        list(fit.epochs(FRAMES))
        tensors = dict(fit.training.network.named_parameters())
        return fit.training.quantizer.bits(tensors).item()

    class Unsearched(TrainStep):
        def _search_steps(self, *_):
            pass

    def make(kind):
        torch.manual_seed(0)
        fit = make_fit(Budget(epochs=24))
        rate = RateControl(lambda_=0.05, pixels=PIXELS)
        return kind(fit.training.network, PRESETS["fast"].recipe, rate=rate)

    assert bits_of(make(TrainStep)) < 0.7 * bits_of(make(Unsearched))
