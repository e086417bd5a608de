"""The compiled operators, against torch's."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from hatchling.builders.wheel import WheelBuilder
from torch.func import functional_call
from torch.nn import functional as F

from encoder.codec.entropy import LEVELS_PER_OCTAVE
from encoder.compare.step_profile import OURS
from encoder.kernels import compiled as kernels
from encoder.kernels import grids, library, operators, training
from encoder.models.base import VideoShape
from encoder.models.layers import StillGrid, TemporalGrid
from encoder.models.pyramid import Block, Pyramid, PyramidConfig, at_times, enlarged, scaled_gelu
from encoder.presets import PRESETS, build
from encoder.training import losses, qat
from encoder.training.context_rate import START, context_scales
from encoder.training.losses import error_of, l1_ssim, mean_square, squared
from encoder.training.optimizers import Muon
from encoder.training.qat import QatQuantizer, _laplace_bits

compiled = pytest.mark.skipif(kernels.library() is None, reason="there was no compiler")
SIZES = [(180, 320), (17, 33), (2, 2), (1, 5), (16, 16)]


@contextmanager
def threads_of(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def of_both(run):
    """Return what `run` makes by compiled operators, and by torch's."""
    ours = run()
    with kernels.off():
        return ours, run()


@pytest.fixture(params=["own", "AVX2"])
def capability(request, monkeypatch):
    """Let the library of this CPU's instructions do the work, then that of older CPUs."""
    if request.param == "own":
        return
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("this CPU has no newer instructions")
    older = library.load("AVX2")
    assert older is not None
    monkeypatch.setattr(kernels, "library", lambda: older)


def frames_and_gradients(network, t, weights):
    frames = network(t)
    given = [x for x in network.parameters() if x.requires_grad]
    return [frames.detach(), *torch.autograd.grad((frames * weights).sum(), given)]


def assert_close(ours, reference, tolerance=2e-4):
    for mine, theirs in zip(ours, reference, strict=True):
        assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1e-3)


def test_ci_compiles_them():
    """Where CI runs there is a compiler, so that the tests below are not skipped there."""
    assert kernels.library() is not None or not os.environ.get("CI")


@compiled
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("margin", [None, (20, 45)])
@pytest.mark.usefixtures("capability")
def test_frames_and_gradients_are_those_of_torch(size, margin, threads):
    torch.manual_seed(0)
    network = Pyramid(PyramidConfig(height=size[0], width=size[1], frames=9, margin=margin))
    for grid in network.latent_parameters():
        torch.nn.init.normal_(grid, std=0.3)
    torch.nn.init.normal_(network.field.values, std=4.0)
    if margin is not None:
        network.camera.aim(torch.randn(9, 2, 2, 2) * 8)
    weights = torch.randn(3, 3, *size)
    with threads_of(threads):
        ours, reference = of_both(
            lambda: frames_and_gradients(network, torch.tensor([0.0, 3.0, 8.0]), weights)
        )
    assert_close(ours, reference)


def values_and_gradients(run, inputs):
    """Return what a function makes of inputs, and the gradients of a sum of all values, each weighed."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    values = run(*inputs)
    weights = torch.linspace(-1, 1, values.numel()).view(values.shape)
    return [values.detach(), *torch.autograd.grad((values * weights).sum(), inputs)]


@compiled
@pytest.mark.usefixtures("capability")
@pytest.mark.parametrize("channels", operators.BLOCK_CHANNELS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (3, 9, 14), (1, 17, 2), (2, 8, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_block_and_its_gradients_are_those_of_torch(channels, shape, layout):
    torch.manual_seed(0)
    block = Block(channels, scaled_gelu)
    frames, height, width = shape
    x = torch.randn(frames, channels, height, width).contiguous(memory_format=layout)
    names = list(dict(block.named_parameters()))

    def run(x, *weights):
        return functional_call(block, dict(zip(names, weights, strict=True)), (x,))

    assert_close(*of_both(lambda: values_and_gradients(run, [x, *block.parameters()])), 1e-5)


@compiled
@pytest.mark.usefixtures("capability")
@pytest.mark.parametrize("channels", operators.BLOCK_CHANNELS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (3, 12, 9, 14), (2, 33, 17, 13)])
def test_the_first_layer_and_its_gradients_are_those_of_torch(channels, shape):
    torch.manual_seed(0)
    _, inputs, height, width = shape
    moving = torch.randn(shape)
    weight, bias = torch.randn(channels, inputs, 1, 1), torch.randn(channels)
    still = torch.randn(1, channels, height, width)

    def reference(moving, weight, bias, still):
        return scaled_gelu(F.conv2d(moving, weight, bias) + still)

    given = [moving, weight, bias, still]
    ours = values_and_gradients(operators.mixed, given)
    with kernels.off():
        assert_close(ours, values_and_gradients(reference, given), 1e-5)


def of_grids(*given):
    """Return enlarged grids by the compiled operator, or by torch's where they are off."""
    return at_times(*given) if kernels.are_for(given[1]) else torch.cat(enlarged(*given), dim=1)


@compiled
@pytest.mark.parametrize("frames", [1, 2, 9, 30])
@pytest.mark.parametrize("threads", [1, 3])
def test_grids_and_their_gradients_are_those_of_torch(frames, threads):
    """At times between, before and after those of the grids; a still one has a single time."""
    torch.manual_seed(0)
    shapes = ((4, (6, 3, 5)), (12, (5, 6, 10)), (1, (2, 12, 20)))
    known = [TemporalGrid(frames=frames, period=period, shape=shape) for period, shape in shapes]
    values = [torch.randn(grid.values.shape) for grid in known]
    times = torch.tensor([0.0, frames - 1, 0.37 * (frames - 1), frames + 3, -1])

    def run(*values):
        for grid, each in zip(known, values, strict=True):
            del grid.values
            grid.values = each
        return of_grids(known, times, (4, 2, 1))

    for grid in known:
        del grid._parameters["values"]
        grid.values = None
    with threads_of(threads):
        assert_close(*of_both(lambda: values_and_gradients(run, values)), 1e-5)


@compiled
def test_still_grids_are_those_of_torch():
    known = [StillGrid(shape=shape) for shape in ((8, 8, 12), (4, 4, 6), (2, 2, 3))]
    times = torch.tensor([5.0])
    ours, reference = of_both(lambda: of_grids(known, times, (1, 2, 4)).detach())
    assert ours.shape == (1, 14, 8, 12)
    torch.testing.assert_close(ours, reference)


@compiled
@pytest.mark.usefixtures("capability")
def test_steps_of_muon_are_those_of_torch():
    """Of matrices of all sizes up to the largest, of one beyond it, and of one without a slope."""
    shapes = [
        (32, 26, 1, 1),
        (16, 32, 1, 1),
        (48, 48, 1, 1),
        (3, 7, 3, 3),
        (64, 20, 1, 1),
        (80, 9, 1, 1),
    ]

    def run():
        torch.manual_seed(1)
        matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        muon = Muon(matrices, lr=0.03)
        for _ in range(4):
            for matrix in matrices:
                matrix.grad = torch.randn(matrix.shape)
            matrices[0].grad.zero_()
            muon.step()
        return [*(x.detach() for x in matrices), *(muon.state[x]["momentum"] for x in matrices)]

    assert_close(*of_both(run), 1e-5)


@compiled
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (180, 320)])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_squared_error_is_that_of_torch(size, threads):
    torch.manual_seed(0)
    output, target = torch.rand(2, 2, 3, *size)
    with threads_of(threads):
        ours = values_and_gradients(lambda x: mean_square(x, target), [output])
    with kernels.off():
        assert_close(ours, values_and_gradients(lambda x: F.mse_loss(x, target), [output]), 1e-5)


@compiled
def test_the_trunk_does_not_depend_on_the_number_of_threads():
    torch.manual_seed(0)
    network = Pyramid(PyramidConfig(height=34, width=50, frames=9))
    times = torch.tensor([0.0, 3.3, 8])
    found = []
    for threads in (1, 2, 3):
        with threads_of(threads):
            moving = at_times(list(network.latents)[:2], times, [4, 2])
            still = torch.zeros(1, 32, *moving.shape[2:])
            out = network.trunk(
                operators.mixed(moving, network.mix.weight[:, :12], network.mix.bias, still)
            )
            given = [*network.trunk.parameters(), network.mix.weight, network.latents[0].values]
            found.append([out, *torch.autograd.grad(out.square().sum(), given)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


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
    with threads_of(threads):
        frames = operators.render(heads, nodes, (16, 18))
        frames.sum().backward()
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
    with threads_of(threads):
        bits = training.context_bits(*inputs, levels=LEVELS_PER_OCTAVE)
    torch.testing.assert_close(bits, expected, rtol=1e-5, atol=1e-4)
    ours, reference = (torch.autograd.grad(3 * x, inputs) for x in (bits, expected))
    torch.testing.assert_close(ours, reference, rtol=2e-4, atol=2e-4)


@compiled
def test_bits_do_not_depend_on_the_number_of_threads():
    """Also with a channel of zeros, whose scales have no factor."""
    y = 5 * torch.randn(9, 3, 7, 11, generator=torch.Generator().manual_seed(1))
    y[:, 1] = 0
    inputs = [y.requires_grad_(), torch.tensor(START, requires_grad=True)]
    found = []
    for threads in (1, 2, 3):
        with threads_of(threads):
            bits = training.context_bits(*inputs, levels=LEVELS_PER_OCTAVE)
        found.append([bits, *torch.autograd.grad(bits, inputs)])
    assert all(x.isfinite().all() for x in found[0])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@compiled
def test_bits_of_no_number_are_none():
    y = torch.zeros(3, 2, 4, 4)
    y[1, 0, 2, 2] = torch.nan
    assert training.context_bits(y, torch.tensor(START), levels=LEVELS_PER_OCTAVE).isnan()


@compiled
@pytest.mark.parametrize("size", ["XS", "S"])
def test_a_network_in_bf16_is_torchs(size):
    """Tensors in between have 16 bits each, which the operators would take for 32."""
    shape = VideoShape(height=36, width=50, frames=9, margin=None)
    torch.manual_seed(0)
    network = build(PRESETS["fast"], shape, size)
    t = torch.tensor([0.0, 4.0])
    with torch.autocast("cpu", torch.bfloat16):
        assert not kernels.are_for(t)
        frames = network(t)
    with kernels.off(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(frames, network(t))


def test_kernels_are_not_for_other_numbers():
    assert not kernels.are_for(torch.zeros(1, dtype=torch.bfloat16))
    assert not kernels.are_for(torch.zeros(1, device="meta"))


@compiled
@pytest.mark.parametrize("threads", [1, 7])
def test_rounding_between_far_nodes_stays_within_memory(threads):
    """The last row's places follow from nodes at -1e9 and -0.9, and round to the canvas's middle."""
    heads = torch.zeros(1, 24, 40, 40, requires_grad=True)
    nodes = torch.zeros(1, 2, 3, 3)
    nodes[:, 1], nodes[:, 1, 2] = -1e9, -0.9
    nodes.requires_grad_()
    with threads_of(threads):
        operators.render(heads, nodes, (160, 160)).sum().backward()
    assert nodes.grad.isfinite().all()


@compiled
def test_other_shapes_are_refused():
    heads, nodes = torch.zeros(2, 24, 4, 4), torch.zeros(2, 2, 3, 3)
    for wrong in (
        (heads[:, 1:], nodes),
        (heads, nodes[:1]),
        (heads, nodes[:, :1]),
        (heads[:0], nodes[:0]),
        (heads[0], nodes),
    ):
        with pytest.raises(ValueError, match="no frames"):
            operators.render(*wrong, (16, 16))
    block, x = Block(32, scaled_gelu), torch.zeros(1, 32, 2, 2)
    weights = list(block.parameters())
    for wrong in ((x[:, :24], *weights), (x[0], *weights), (x[:0], *weights), (x, *weights[1:])):
        with pytest.raises(ValueError, match="no block"):
            operators.separable_block(*wrong)
    moving, weight, bias = torch.zeros(2, 3, 4, 5), torch.zeros(32, 3, 1, 1), torch.zeros(32)
    still = torch.zeros(1, 32, 4, 5)
    for wrong in (
        (moving[:, 1:], weight, bias, still),
        (moving, weight[1:], bias, still),
        (moving, weight, bias[1:], still),
        (moving, weight, bias, still[..., 1:]),
        (moving[:0], weight, bias, still),
    ):
        with pytest.raises(ValueError, match="no mix"):
            operators.mixed(*wrong)
    for sizes, factors in ((((2, 1, 2, 2), (2, 1, 4, 4)), (1, 1)), (((0, 1, 2, 2),), (1,))):
        with pytest.raises(ValueError, match="no grids"):
            grids.enlarged_grids(
                torch.zeros(1), [torch.zeros(x) for x in sizes], periods=(1, 1), factors=factors
            )
    large = torch.zeros(3, 65)
    with pytest.raises(ValueError, match="no step"):
        training.muon([(large,) * 3], [1.0], decay=0.9, polynomial=(5, (1.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match="no target"):
        training.square_error(torch.zeros(2), torch.zeros(3))
    for values, weights in (((2, 3, 4), 9), ((0, 1, 2, 2), 9), ((1, 1, 2, 2), 8)):
        with pytest.raises(ValueError, match="no contexts"):
            training.context_bits(torch.zeros(values), torch.zeros(weights), levels=3)


@compiled
@pytest.mark.parametrize("layout", ["plain", "channels last", "strided", "empty"])
def test_activation_takes_any_layout(layout):
    x = torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(0))
    x = {
        "plain": x,
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "strided": x[:, ::2, 1:],
        "empty": x[:0],
    }[layout].requires_grad_()
    ours, reference = operators.scaled_gelu(x), F.silu(1.702 * x)
    torch.testing.assert_close(ours, reference)
    given = torch.ones(()).expand_as(x)  # without memory of its own
    torch.testing.assert_close(
        torch.autograd.grad(ours, x, given), torch.autograd.grad(reference, x, given)
    )


@compiled
def test_second_derivatives_are_refused():
    x = torch.randn(3, requires_grad=True)
    (slope,) = torch.autograd.grad(operators.scaled_gelu(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="grad"):
        slope.sum().backward()


def test_compilers_of_torch_see_torchs_operators():
    """A traced graph is whole, and so are exported ones."""
    compiled_gelu = torch.compile(scaled_gelu, backend="eager", fullgraph=True)
    x = torch.randn(5)
    torch.testing.assert_close(compiled_gelu(x), scaled_gelu(x))


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """Return a folder with the sources alone, in which the library is looked for."""
    for path in library.FOLDER.glob("*.[ch]"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", '"', "/"])
def test_without_a_compiler_there_is_no_library(copied, compiler, monkeypatch):
    monkeypatch.setenv("CC", compiler)
    made, error = library.compile_all()
    assert made == []
    assert error
    assert library.load("AVX2") is None
    assert {path.suffix for path in copied.iterdir()} == {".c", ".h"}


@compiled
def test_library_of_other_sources_is_not_loaded(copied, monkeypatch):
    monkeypatch.setenv("CC", "")  # as if it were not set
    (old := copied / "kernels-0-x.so").touch()
    with ThreadPoolExecutor() as pool:  # two installations at once
        made, again = (each.result() for each in [pool.submit(library.compile_all)] * 2)
    capability = torch.backends.cpu.get_cpu_capability()
    assert made == again
    assert made[1] == ""
    assert library.path_of(capability) in made[0]
    assert library.load(capability) is not None
    assert not old.exists()
    (copied / "render.c").write_text("")
    assert library.load(capability) is None


@compiled
@pytest.mark.parametrize(("compiler", "tag"), [("cc", "linux"), ("no-such-compiler", "any")])
def test_wheels_hold_what_could_be_compiled(compiler, tag, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", compiler)
    builder = WheelBuilder(str(library.FOLDER.parents[1]))
    (name,) = builder.build(directory=str(tmp_path), versions=["standard"])
    assert Path(name).stem.split("-")[-1].startswith(tag)
    held = {name for name in ZipFile(name).namelist() if name.startswith("encoder/kernels/")}
    assert {"encoder/kernels/render.c", "encoder/kernels/library.py"} <= held
    own = {f"encoder/kernels/{library.path_of(kind).name}" for kind in library._kinds()}
    assert {each for each in held if each.endswith(".so")} == (own if tag == "linux" else set())


def test_mean_square_is_torchs():
    a, b = torch.rand(2, 3, 40, 50), torch.rand(2, 3, 40, 50)
    torch.testing.assert_close(mean_square(a, b), F.mse_loss(a, b))


def test_error_is_the_mse_whatever_the_loss():
    a, b = torch.rand(2, 3, 40, 50), torch.rand(2, 3, 40, 50)
    for loss in (squared, l1_ssim):
        torch.testing.assert_close(error_of(loss, loss(a, b), a, b), F.mse_loss(a, b))


def test_bits_of_small_tensors_are_computed_together(monkeypatch):
    tensors = {f"x{n}": torch.nn.Parameter(torch.randn(n, 3)) for n in (1, 5, 40)}
    quantizer = QatQuantizer(tensors)
    together = quantizer.bits(tensors)
    slopes = torch.autograd.grad(together, list(tensors.values()))
    monkeypatch.setattr(qat, "FEW_VALUES", 0)
    alone = quantizer.bits(tensors)
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(slopes, torch.autograd.grad(alone, list(tensors.values())))


@compiled
@pytest.mark.parametrize("name", OURS)
def test_profile_names_operators_that_exist(name):
    assert any(hasattr(module, name) for module in (operators, grids, losses))
