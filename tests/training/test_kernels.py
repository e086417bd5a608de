"""The compiled operators, against torch's."""

import os

import pytest
import torch
from torch.nn import functional as F

from encoder.codec.entropy import LEVELS_PER_OCTAVE
from encoder.kernels import library, operators
from encoder.models.pyramid import Pyramid, PyramidConfig
from encoder.training.context_rate import START, context_scales
from encoder.training.losses import mean_square
from encoder.training.qat import _laplace_bits

compiled = pytest.mark.skipif(operators.library() is None, reason="there was no compiler")
SIZES = [(180, 320), (17, 33), (2, 2), (1, 5), (16, 16)]


def of_both(run, monkeypatch):
    """Return what `run` makes by compiled operators, and by torch's."""
    ours = run()
    with monkeypatch.context() as patch:
        patch.setattr(operators, "are_for", lambda *_: False)
        return ours, run()


def frames_and_gradients(network, t, weights):
    frames = network(t)
    given = [x for x in network.parameters() if x.requires_grad]
    return [frames.detach(), *torch.autograd.grad((frames * weights).sum(), given)]


def assert_close(ours, reference, tolerance=2e-4):
    for mine, theirs in zip(ours, reference, strict=True):
        assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1e-3)


def test_ci_compiles_them():
    """Where CI runs there is a compiler, so that the tests below are not skipped there."""
    assert operators.library() is not None or not os.environ.get("CI")


@compiled
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("margin", [None, (20, 45)])
def test_frames_and_gradients_are_those_of_torch(size, margin, threads, monkeypatch):
    torch.manual_seed(0)
    network = Pyramid(PyramidConfig(height=size[0], width=size[1], frames=9, margin=margin))
    for grid in network.latent_parameters():
        torch.nn.init.normal_(grid, std=0.3)
    torch.nn.init.normal_(network.field.values, std=4.0)
    if margin is not None:
        network.camera.aim(torch.randn(9, 2, 2, 2) * 8)
    weights = torch.randn(3, 3, *size)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours, reference = of_both(
            lambda: frames_and_gradients(network, torch.tensor([0.0, 3.0, 8.0]), weights),
            monkeypatch,
        )
    finally:
        torch.set_num_threads(before)
    assert_close(ours, reference)


@compiled
@pytest.mark.parametrize("places", [1e3, 1e30, torch.inf, torch.nan])
@pytest.mark.parametrize("threads", [1, 7])
def test_places_far_away_stay_within_the_canvas(places, threads):
    """Each is the border, or not a number; memory outside is neither read nor written."""
    heads = torch.zeros(2, 24, 4, 5, requires_grad=True)
    nodes = torch.zeros(2, 2, 3, 4)
    nodes[0, 1, 1, 2] = places
    nodes[1, 0] = -places
    nodes.requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        frames = operators.render(heads, nodes, (16, 18))
        frames.sum().backward()
    finally:
        torch.set_num_threads(before)
    assert ((frames - 0.5).abs() < 1e-5).logical_or(frames.isnan()).all()
    assert heads.grad.isfinite().all() or not torch.tensor(places).isfinite()


@compiled
def test_activation_is_that_of_torch():
    x = torch.cat([torch.linspace(-200, 200, 9999), torch.tensor([torch.nan])]).requires_grad_()
    ours = operators.scaled_gelu(x)
    reference = F.silu(1.702 * x)
    torch.testing.assert_close(ours, reference, equal_nan=True, rtol=2e-6, atol=1e-6)
    weights = torch.linspace(-1, 1, 10000)
    torch.testing.assert_close(
        *(torch.autograd.grad((y * weights).sum(), x)[0] for y in (ours, reference)),
        equal_nan=True,
        rtol=2e-5,
        atol=2e-6,
    )


@compiled
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "shape",
    [(9, 6, 12, 21), (1, 8, 24, 42), (33, 2, 7, 11), (1, 1, 1, 1), (2, 3, 1, 5), (3, 2, 4, 1)],
)
def test_bits_of_latents_are_those_of_torch(shape, threads):
    """Values near zero, where the bins' middle lies, and far from it; some are zero."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(shape, generator=generator) * torch.randint(1, 30, shape, generator=generator)
    y[y.abs() < 0.3] = 0
    weights = torch.tensor(START) * torch.rand(len(START), generator=generator)
    inputs = [y.requires_grad_(), weights.requires_grad_()]
    expected = _laplace_bits(y, context_scales(*inputs))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        bits = operators.context_bits(*inputs, levels=LEVELS_PER_OCTAVE)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(bits, expected, rtol=1e-5, atol=1e-4)
    ours, reference = (torch.autograd.grad(3 * x, inputs) for x in (bits, expected))
    torch.testing.assert_close(ours, reference, rtol=2e-4, atol=2e-4)


@compiled
def test_bits_of_no_number_are_none():
    y = torch.zeros(3, 2, 4, 4)
    y[1, 0, 2, 2] = torch.nan
    assert operators.context_bits(y, torch.tensor(START), levels=LEVELS_PER_OCTAVE).isnan()


def test_kernels_are_not_for_other_numbers():
    assert not operators.are_for(torch.zeros(1, dtype=torch.bfloat16))
    assert not operators.are_for(torch.zeros(1, device="meta"))


def test_without_a_compiler_there_is_no_library(tmp_path, monkeypatch):
    for path in library.FOLDER.glob("*.[ch]"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    (old := tmp_path / "kernels-0-x.so").touch()
    monkeypatch.setenv("CC", "no-such-compiler")
    assert library.compile_all() == []
    assert library.load("AVX2") is None
    assert not old.exists()


@compiled
def test_library_of_other_sources_is_not_loaded(tmp_path, monkeypatch):
    for path in library.FOLDER.glob("*.[ch]"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    made = library.compile_all()
    capability = torch.backends.cpu.get_cpu_capability()
    assert library.path_of(capability) in made
    assert library.load(capability) is not None
    (tmp_path / "render.c").write_text("")
    assert library.load(capability) is None


def test_mean_square_is_torchs():
    a, b = torch.rand(2, 3, 40, 50), torch.rand(2, 3, 40, 50)
    torch.testing.assert_close(mean_square(a, b), F.mse_loss(a, b))
