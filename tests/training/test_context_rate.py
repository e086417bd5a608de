"""The bits of latents under the coder's contexts, as a fit estimates them."""

import numpy as np
import pytest
import torch

from encoder.codec.context import known_logarithms, odd_places
from encoder.codec.entropy import LEVELS_PER_OCTAVE
from encoder.codec.tensor_coder import best_mode
from encoder.codec.tensor_header import CONTEXT
from encoder.kernels import training
from encoder.kernels.compiled import library
from encoder.training.context_rate import START, WEIGHTS, context_scales
from encoder.training.qat import _laplace_bits

SHAPE = (40, 4, 10, 12)
WALK = 3 * np.sin(np.random.default_rng(0).normal(0, 0.2, SHAPE).cumsum(0))
INTEGERS = np.rint(np.random.default_rng(1).laplace(0, 2 * np.exp(WALK)))
"""A latent whose magnitudes change slowly over time."""


def bits(weights):
    y = torch.tensor(INTEGERS, dtype=torch.float32)
    return reference_bits(y, weights)


def reference_bits(y, weights):
    return _laplace_bits(y, context_scales(y, weights))


def compiled_bits(y, weights):
    return training.context_bits(y, weights, levels=LEVELS_PER_OCTAVE)


def fitted_weights():
    weights = torch.tensor(START, requires_grad=True)
    optimizer = torch.optim.Adam([weights], 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        bits(weights).backward()
        optimizer.step()
    return weights.detach()


def test_learned_weights_come_to_the_coders_bits():
    coding = best_mode(INTEGERS.astype(np.int32), step=1.0, modes=[CONTEXT])
    weights = fitted_weights()
    assert bits(weights).item() == pytest.approx(coding.bits, rel=0.01)
    assert bits(weights) < 0.98 * bits(torch.zeros(WEIGHTS))
    scale = 16  # units of the coder's weights
    assert np.abs(scale * weights.numpy()[:2] - coding.weights[:2]).max() < 6


def test_sums_are_those_of_the_coder():
    """A weight has the effect on the estimate that it has on the coder's levels."""
    y = torch.tensor(INTEGERS, dtype=torch.float32)
    elsewhere, around = known_logarithms(INTEGERS.astype(np.int32))
    odd = odd_places(*SHAPE[2:])
    for index in range(WEIGHTS):
        weights = torch.zeros(WEIGHTS)
        weights[index] = 4.0  # an octave for each octave of the sum
        log_scales = context_scales(y, weights).log2().numpy()
        places = odd if index >= 4 else ~odd
        sums = around if index == WEIGHTS - 1 else elsewhere[index % 4]
        for channel in range(SHAPE[1]):
            found = log_scales[:, channel][:, places] - sums[:, channel][:, places] / 8
            assert np.ptp(found) < 0.3, index  # the coder's logarithm is linear between powers of 2
            unmoved = log_scales[:, channel][:, ~places]
            assert np.ptp(unmoved) < 1e-4


def test_gradient_reaches_what_scales_follow_from():
    """A larger magnitude makes its neighbours' scales larger."""
    y = torch.tensor(INTEGERS, dtype=torch.float32, requires_grad=True)
    context_scales(y, torch.tensor(START))[5, 2, 4, 5].backward()
    sign = torch.tensor(np.sign(INTEGERS))
    for place in [(4, 2, 4, 5), (3, 2, 4, 5), (5, 1, 4, 5), (5, 0, 3, 5), (5, 2, 4, 4)]:
        if sign[place]:
            assert y.grad[place] * sign[place] > 0
    assert y.grad[5, 3].abs().sum() == 0  # a channel that is coded later


@pytest.mark.parametrize(
    "by",
    [
        reference_bits,
        pytest.param(
            compiled_bits,
            marks=pytest.mark.skipif(library() is None, reason="there was no compiler"),
        ),
    ],
)
@pytest.mark.parametrize("channel", range(SHAPE[1]))
def test_gradient_is_that_of_the_bits_if_a_channel_grows(channel, by):
    """Also where nearly all values are 0, whose scales' estimates are no optimum."""
    rare = np.random.default_rng(2).random(SHAPE) < 0.05
    y = torch.tensor(np.where(rare, INTEGERS, 0.02), dtype=torch.float32)
    y[:, 0] *= 30
    weights = torch.tensor(START)
    growth = torch.ones(SHAPE[1], requires_grad=True)
    by(y * growth[:, None, None], weights).backward()
    step = 1e-2
    change = torch.zeros(SHAPE[1])
    change[channel] = step
    with torch.no_grad():
        lengths = [by(y * (1 + sign * change)[:, None, None], weights).item() for sign in (1, -1)]
    slope = (lengths[0] - lengths[1]) / (2 * step)
    assert growth.grad[channel].item() == pytest.approx(slope, rel=0.05, abs=5)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 4, 4), (7, 1, 1, 5)])
def test_any_shape_has_scales(shape):
    scales = context_scales(torch.ones(shape), torch.tensor(START))
    assert scales.shape == shape
    assert torch.isfinite(scales).all()
    assert (scales > 0).all()
