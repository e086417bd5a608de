import numpy as np
import pytest
import torch

from encoder.codec import entropy
from encoder.encode import POST_TRAINING_BOUND, quantize
from encoder.quantizer import Quantizer


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(40, 50, generator=generator, requires_grad=True),
        "bias": torch.full((7,), 0.5, requires_grad=True),
        "zero": torch.zeros(3, requires_grad=True),
    }


def test_rounded_tensors_lie_on_the_grid():
    values = tensors()
    quantizer = Quantizer(values)
    steps = quantizer.steps(values)
    for name, rounded in quantizer.rounded(values).items():
        codes = rounded / steps[name]
        torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)
        assert (rounded - values[name]).abs().max() <= steps[name] / 2 * 1.001


def test_gradients_pass_the_rounding():
    values = tensors()
    Quantizer(values).rounded(values)["weight"].sum().backward()
    torch.testing.assert_close(values["weight"].grad, torch.ones(40, 50))


def test_noise_is_as_wide_as_a_step():
    values = tensors()
    quantizer = Quantizer(values)
    noise = (quantizer.noisy(values)["weight"] - values["weight"]) / quantizer.steps(values)["weight"]
    assert noise.abs().max() <= 0.5001
    assert noise.std().item() == pytest.approx(12**-0.5, rel=0.05)


def test_bits_are_those_of_the_entropy_coder():
    values = {"weight": torch.from_numpy(np.random.default_rng(0).laplace(0, 1, 20_000).astype(np.float32))}
    quantizer = Quantizer(values)
    rounded = quantizer.rounded(values)
    codes = (rounded["weight"] / quantizer.steps(values)["weight"]).round().int().detach().numpy()
    coded = entropy.encode([(codes, entropy.best_decay(codes), int(np.abs(codes).max()))])
    assert quantizer.bits(rounded).item() == pytest.approx(8 * len(coded), rel=0.01)


def test_wider_steps_take_fewer_bits():
    values = tensors()
    quantizer = Quantizer(values)
    before = quantizer.bits(values)
    before.backward()
    assert quantizer.log_steps.grad is not None
    assert quantizer.log_steps.grad[0] < 0
    with torch.no_grad():
        quantizer.log_steps += 1
    assert quantizer.bits(values) < before


def test_bits_stay_finite_far_outside_the_model():
    values = {"weight": torch.cat([torch.zeros(10_000), torch.tensor([1e6])])}
    assert torch.isfinite(Quantizer(values).bits(values))


def test_quantize_without_a_quantizer_uses_eight_bits():
    network = torch.nn.Linear(30, 20)
    for name, (codes, step) in quantize(network, None).items():
        assert np.abs(codes).max() == POST_TRAINING_BOUND
        weights = dict(network.named_parameters())[name].detach().numpy()
        assert np.abs(codes * np.float32(step) - weights).max() <= step / 2 * 1.001
