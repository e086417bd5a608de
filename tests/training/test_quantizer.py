import numpy as np
import pytest
import torch

from encoder.codec.entropy import RangeEncoder
from encoder.codec.tensor_coder import best_mode
from encoder.codec.tensor_header import ZERO, channel_steps
from encoder.training.ptq import quantize
from encoder.training.qat import HALF_OCTAVE, QatQuantizer


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(40, 50, generator=generator, requires_grad=True),
        "bias": torch.full((7,), 0.5, requires_grad=True),
        "zero": torch.zeros(3, requires_grad=True),
    }


def test_rounded_tensors_lie_on_the_grid():
    values = tensors()
    quantizer = QatQuantizer(values, latents=["latents.0", "latents.1"])
    steps = quantizer.steps()
    for name, rounded in quantizer.rounded(values).items():
        codes = rounded / steps[name]
        torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)
        assert ((rounded - values[name]).abs() <= steps[name] / 2 * 1.001).all()


def test_gradients_pass_the_rounding():
    values = tensors()
    QatQuantizer(values).rounded(values)["weight"].sum().backward()
    torch.testing.assert_close(values["weight"].grad, torch.ones(40, 50))


def test_noise_is_as_wide_as_a_step():
    values = tensors()
    quantizer = QatQuantizer(values, latents=["latents.0", "latents.1"])
    noise = (quantizer.noisy(values)["weight"] - values["weight"]) / quantizer.steps()["weight"]
    assert noise.abs().max() <= 0.5001
    assert noise.std().item() == pytest.approx(12**-0.5, rel=0.05)


def coded_bits(integers):
    coder = RangeEncoder()
    best_mode(integers, step=1.0).encode(coder)
    return 8 * len(coder.bytes())


def test_bits_are_those_of_the_entropy_coder():
    random = np.random.default_rng(0)
    latent = random.laplace(0, np.geomspace(0.1, 2, 24).reshape(4, 6, 1, 1), (4, 6, 30, 30))
    drawn = {
        "weight": random.laplace(0, 1, (200, 100)),
        "latents.0": latent,
        "latents.1": latent.cumsum(0),
    }
    values = {
        name: torch.from_numpy(x.astype(np.float32)).requires_grad_() for name, x in drawn.items()
    }
    quantizer = QatQuantizer(values, latents=["latents.0", "latents.1"])
    steps = quantizer.steps()
    rounded = quantizer.rounded(values)
    coded = sum(
        coded_bits((x / steps[name]).round().int().detach().numpy()) for name, x in rounded.items()
    )
    assert quantizer.bits(rounded).item() == pytest.approx(coded, rel=0.02)


def test_tensors_that_are_given_are_left_alone():
    values = tensors() | {"given": torch.tensor([0.25, 1.0])}
    quantizer = QatQuantizer(values, latents=["latents.0", "latents.1"])
    assert "given" not in quantizer.steps()
    assert quantizer.noisy(values)["given"] is values["given"]
    assert quantizer.rounded(values)["given"] is values["given"]


def test_wider_steps_take_fewer_bits():
    values = tensors()
    quantizer = QatQuantizer(values, latents=["latents.0", "latents.1"])
    before = quantizer.bits(values)
    before.backward()
    assert quantizer.log_steps.grad is not None
    assert quantizer.log_steps.grad[0] < 0
    with torch.no_grad():
        quantizer.log_steps += 1
    assert quantizer.bits(values) < before


def test_bits_stay_finite_far_outside_the_model():
    values = {"weight": torch.cat([torch.zeros(10_000), torch.tensor([1e6])]).requires_grad_()}
    assert torch.isfinite(QatQuantizer(values).bits(values))


@pytest.mark.parametrize("bits", [2, 5, 8, 12])
def test_quantize_without_a_quantizer_uses_a_number_of_bits(bits):
    weights = dict(torch.nn.Linear(30, 20).named_parameters())
    for name, coded in quantize(weights, None, bits).items():
        assert np.abs(coded.integers).max() == 2 ** (bits - 1) - 1
        assert (
            np.abs(coded.integers * np.float32(coded.step) - weights[name].detach().numpy()).max()
            <= coded.step / 2 * 1.001
        )


@pytest.mark.parametrize(
    ("largest", "bits", "huffman", "step"),
    [
        (2.0, 5, False, 1 / 16),
        (2.0, 12, False, 1 / 16),
        (20.0, 8, False, 1 / 16),
        (2.0, 8, True, 1 / 16),
        (20.0, 8, True, 20 / 127),
    ],
)
def test_quantize_keeps_the_step_of_what_is_given(largest, bits, huffman, step):
    (coded,) = quantize(
        {"given": torch.tensor([largest, 0.5])}, None, bits, given=["given"], huffman=huffman
    ).values()
    assert coded.step == pytest.approx(step)


def test_quantize_takes_the_learned_steps():
    values = tensors()
    quantizer = QatQuantizer(values, latents=["latents.0", "latents.1"])
    with torch.no_grad():
        quantizer.offsets.copy_(torch.linspace(-2, 3, len(quantizer.offsets)))
    steps = quantizer.steps()
    for name, coded in quantize(values, quantizer, 8).items():
        relative = channel_steps(
            coded.step, coded.channels if coded.channels.size else ZERO, 0, values[name].ndim
        )
        assert np.allclose(
            np.broadcast_to(relative, steps[name].shape), steps[name].detach(), rtol=1e-5
        )
        assert np.array_equal(coded.integers, (values[name] / steps[name]).round().int().numpy())


def test_learned_steps_have_few_bits():
    """What is coded at the end has the steps that the fit rounded to."""
    values = tensors()
    quantizer = QatQuantizer(values)
    steps = {name: step.detach().numpy() for name, step in quantizer.steps().items()}
    for name, coded in quantize(values, quantizer, 8).items():
        assert np.float32(coded.step).view(np.uint32) & 0xFFFF == 0
        assert coded.step == pytest.approx(steps[name].ravel()[0], rel=1e-6)


@pytest.mark.parametrize("offset", [-5, -2, 0, 3, 8])
def test_offset_of_all_channels_goes_into_the_step(offset):
    values = tensors()
    quantizer = QatQuantizer(values)
    with torch.no_grad():
        quantizer.offsets.fill_(offset * HALF_OCTAVE)
    for name, coded in quantize(values, quantizer, 8).items():
        steps = channel_steps(
            coded.step, coded.channels if coded.channels.size else ZERO, 0, values[name].ndim
        )
        assert np.allclose(steps, quantizer.steps()[name].detach(), rtol=1e-6)
        assert coded.channels.size in (0, len(values[name]) if values[name].ndim > 1 else 0)
