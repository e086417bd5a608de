import pytest
import torch

from encoder.optimizer import Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (6, 50), (50, 6), (1, 9)])
def test_orthogonal_brings_the_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 100
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_a_step_has_the_size_of_adams():
    weight = torch.nn.Parameter(torch.zeros(32, 8, 3, 3))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=0.01).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.3)
    assert (weight * weight.grad).sum() < 0


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
