"""The pyramid of latents and its displacement field."""

import pytest
import torch
from torch.nn import functional as F

from encoder.jobs.trace import topology_of
from encoder.models.base import VideoShape
from encoder.models.camera import Camera, resized, spread
from encoder.models.pyramid import Pyramid, PyramidConfig, scaled_gelu
from encoder.presets import PRESETS, build
from encoder.training.step import TrainStep

CANVAS = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
ONE = torch.zeros(1)


def camera(size=(20, 30), sampling="bilinear", frames=None):
    return Camera(frames=frames, size=size, canvas=(32, 48), sampling=sampling)


@pytest.mark.parametrize("sampling", ["bilinear", "bicubic"])
def test_still_camera_shows_the_middle_of_the_canvas(sampling):
    frame = camera(sampling=sampling)(CANVAS, ONE)
    assert torch.allclose(frame, CANVAS[..., 6:26, 9:39], atol=1e-4)


@pytest.mark.parametrize("sampling", ["bilinear", "bicubic"])
def test_field_is_in_pixels_to_the_right_and_down(sampling):
    field = torch.empty(1, 2, 3, 5)
    field[:, 0], field[:, 1] = 2, -3
    frame = camera(sampling=sampling)(CANVAS, ONE, field)
    assert torch.allclose(frame, CANVAS[..., 3:23, 11:41], atol=1e-4)


def test_outermost_nodes_of_the_field_lie_on_the_corners():
    """A field that grows from 0 to 4 pixels over the frame's width."""
    ramp = torch.linspace(0, 4, 5).expand(1, 1, 3, 5)
    frame = camera()(CANVAS, ONE, torch.cat([ramp, torch.zeros_like(ramp)], dim=1))
    assert torch.allclose(frame[..., 0], CANVAS[..., 6:26, 9], atol=1e-4)
    assert torch.allclose(frame[..., -1], CANVAS[..., 6:26, 42], atol=1e-4)


def test_field_and_camera_add_up():
    moving = camera(frames=1)
    moving.aim(torch.full((1, 2, 2, 2), 1.0))
    field = torch.full((1, 2, 2, 2), 2.0)
    assert torch.allclose(moving(CANVAS, ONE, field), CANVAS[..., 9:29, 12:42], atol=1e-4)


@pytest.mark.parametrize("nodes", range(2, 12))
def test_every_size_of_a_field_covers_every_frame(nodes):
    field = torch.zeros(1, 2, nodes, nodes)
    for side in (*range(2, 40), 144, 180, 270, 720, 1079, 1080, 2160):
        canvas = torch.zeros(1, 1, side, 8)
        still = Camera(frames=None, size=(side, 8), canvas=(side, 8))
        assert still(canvas, ONE, field).shape == canvas.shape


def test_chroma_is_displaced_as_the_luma_is():
    config = PyramidConfig(
        height=17, width=33, frames=2, sampling="bilinear"
    )  # odd: 9 x 17 of chroma
    network = Pyramid(config)
    with torch.no_grad():
        for latent in network.latent_parameters():
            latent.normal_(generator=torch.Generator().manual_seed(1))
        network.chroma.weight.mul_(5)
        network.field.values.zero_()
        before = network(ONE)
        network.field.values[:, 0] = 4
        after = network(ONE)
    assert (before[:, 0] - before[:, 1]).std() > 0.05  # it has colours
    assert torch.allclose(after[..., :-4], before[..., 4:], atol=1e-5)


@pytest.mark.parametrize("margin", [None, (2, 7)])
@pytest.mark.parametrize(("height", "width"), [(18, 32), (19, 33), (50, 20), (1, 1)])
def test_frames_have_any_size_and_the_range_of_colours(height, width, margin):
    config = PyramidConfig(height=height, width=width, frames=5, margin=margin, sampling="bilinear")
    frames = Pyramid(config)(torch.tensor([0.0, 1.5, 4.0]))
    assert frames.shape == (3, 3, height, width)
    assert 0 <= frames.min() <= frames.max() <= 1


def test_network_has_few_weights():
    network = Pyramid(PyramidConfig(height=144, width=176, frames=120))
    latents = sum(x.numel() for x in network.latent_parameters())
    assert sum(x.numel() for x in network.parameters()) - latents < 10_000
    assert [tuple(x.shape) for x in network.latent_parameters()] == [
        (31, 6, 9, 11),
        (11, 6, 18, 22),
        (1, 8, 36, 44),
        (1, 4, 18, 22),
        (1, 2, 9, 11),
        (120, 2, 5, 7),
    ]


def test_mixing_apart_is_one_convolution():
    network = Pyramid(PyramidConfig(height=16, width=32, frames=3, cell=None, blocks=1))
    seen = []
    network.trunk.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        for grid in network.latents:
            grid.values.normal_()
        network(torch.tensor([0.0, 2.0]))
        features = [
            F.interpolate(grid(torch.tensor([0.0, 2.0])), size=(4, 8), mode="bilinear").expand(
                2, -1, -1, -1
            )
            for grid in network.latents
        ]
        mixed = network.mix(torch.cat(features, 1))
        assert torch.allclose(seen[0], network.activation(mixed), atol=1e-5)


def test_activation_is_near_gelu():
    x = torch.linspace(-5, 5, 101)
    assert torch.allclose(scaled_gelu(x), 1.702 * F.gelu(x), atol=0.04)


@pytest.mark.parametrize("size", [(36, 64), (135, 240), (23, 41)])
@pytest.mark.parametrize("nodes", [(2, 2), (3, 5), (23, 41)])
def test_places_in_a_fit_are_those_of_a_decoder(nodes, size):
    """By products of matrices, and by interpolation; the gradients as well."""
    x = torch.randn(2, 2, *nodes, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(1))
    found, expected = spread(x, size), resized(x, size)
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(spread(x, size), expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize(("high_motion", "rate"), [(False, 2.5), (True, 5.0)])
def test_latents_of_high_motion_learn_twice_as_fast(high_motion, rate):
    """Those of many times are in few batches."""
    shape = VideoShape(height=32, width=48, frames=20, high_motion=high_motion)
    preset = PRESETS["fast"]
    step = TrainStep(build(preset, shape, "S"), preset.recipe)
    latents = set(map(id, step.network.latent_parameters()))
    gains = {
        group["gain"]
        for optimizer in step._optimizers
        for group in optimizer.param_groups
        if latents & set(map(id, group["params"]))
    }
    assert gains == {rate}


def test_topology_is_as_short_as_the_dictionary_makes_it():
    """It holds this very graph, so that another order of the same nodes takes more bytes."""
    shape = VideoShape(height=180, width=320, frames=30, margin=None)
    assert len(topology_of(PRESETS["fast"].network, shape, "S").packed) <= 240
