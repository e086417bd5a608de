import pytest
import torch

from encoder.training.optimizers import Adan, Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (6, 50), (50, 6), (1, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonal_brings_the_singular_values_near_one(shape, dtype):
    matrices = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0)) * 100
    values = torch.linalg.svdvals(orthogonal(matrices, dtype))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_a_step_has_the_size_of_adams():
    weight = torch.nn.Parameter(torch.zeros(32, 8, 3, 3))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=0.01).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.3)
    assert (weight * weight.grad).sum() < 0


def test_steps_of_parameters_do_not_depend_on_each_other():
    """Those of one shape are taken together."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 8), (4, 8), (8, 4), (3, 2, 3, 3), (4, 8)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [1000**number * torch.randn_like(x) for number, x in enumerate(start)]

    def stepped(chosen):
        parameters = [torch.nn.Parameter(start[index].clone()) for index in chosen]
        for parameter, index in zip(parameters, chosen, strict=True):
            parameter.grad = gradients[index] if index != 2 else None
        Muon(parameters, lr=0.1).step()
        return [parameter.detach() for parameter in parameters]

    for index, together in enumerate(stepped(range(5))):
        torch.testing.assert_close(together, *stepped([index]))


def test_a_parameter_without_a_gradient_stays():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight, torch.ones(4, 4))


def test_a_linear_map_is_learned():
    generator = torch.Generator().manual_seed(0)
    goal, inputs = torch.randn(6, 10, generator=generator), torch.randn(10, 40, generator=generator)
    weight = torch.nn.Parameter(torch.zeros(6, 10))
    muon = Muon([weight], lr=0.1)
    for step in range(200):
        muon.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        muon.zero_grad()
        ((weight @ inputs - goal @ inputs) ** 2).mean().backward()
        muon.step()
    assert (weight - goal).abs().max() < 0.1


def test_adans_first_step_is_the_sign_of_the_gradient():
    weight = torch.nn.Parameter(torch.zeros(5))
    weight.grad = torch.tensor([3.0, -0.1, 7.0, -2.0, 0.5])
    Adan([weight], lr=0.01).step()
    torch.testing.assert_close(weight.detach(), -0.01 * weight.grad.sign())


def test_adan_follows_the_change_of_the_gradient():
    """Its second step, by hand."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    adan = Adan([weight], lr=0.01)
    for gradient in (1.0, 3.0):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        adan.step()
    slope = (0.98 * 0.02 * 1 + 0.02 * 3) / (1 - 0.98**2)
    bend = 0.08 * 2 / (1 - 0.92**2)
    size = (0.99 * 0.01 * 1 + 0.01 * (3 + 0.92 * 2) ** 2) / (1 - 0.99**2)
    assert weight.item() == pytest.approx(
        -0.01 - 0.01 * (slope + 0.92 * bend) / size**0.5, rel=1e-6
    )


def test_adan_finds_a_minimum():
    goal = torch.linspace(-2, 2, 9)
    weight = torch.nn.Parameter(torch.zeros(9))
    adan = Adan([weight], lr=0.05)
    for step in range(1000):
        adan.param_groups[0]["lr"] = 0.05 * (1 - step / 1000)
        adan.zero_grad()
        ((weight - goal) ** 2 * torch.arange(1.0, 10)).sum().backward()
        adan.step()
    assert (weight - goal).abs().max() < 0.02
