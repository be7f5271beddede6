from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from sruplift.models import create_model
from sruplift.optim import Muon, is_hidden_kernel, orthogonalise


@pytest.mark.parametrize("shape", [(1, 40, 40), (3, 20, 180), (2, 180, 20)])
def test_orthogonalise_brings_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape) * 1e-3))
    assert values.max() < 1.3
    # A square random matrix has singular values near zero, which five steps cannot lift.
    assert values.median() > 0.6


def test_every_parameter_is_updated_by_one_half() -> None:
    network = create_model("pan", 4)
    optimizer = Muon(network.parameters(), 1e-2, adam_learning_rate=1e-3)
    orthogonal, adam = (group["params"] for group in optimizer.param_groups)
    assert len(orthogonal) + len(adam) == len(list(network.parameters()))
    assert all(is_hidden_kernel(p) for p in orthogonal)
    assert {tuple(p.shape) for p in adam if p.ndim == 4} == {(40, 3, 3, 3), (3, 24, 3, 3)}


def test_adam_half_equals_pytorchs_adam() -> None:
    torch.manual_seed(0)
    a = nn.Conv2d(3, 5, 3)
    b = nn.Conv2d(3, 5, 3)
    b.load_state_dict(a.state_dict())
    ours = Muon(a.parameters(), 1.0, adam_learning_rate=1e-2)
    theirs = torch.optim.Adam(b.parameters(), 1e-2, betas=(0.9, 0.99))
    for _ in range(5):
        x = torch.rand(2, 3, 8, 8)
        for network, optimizer in ((a, ours), (b, theirs)):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
    assert torch.allclose(a.weight, b.weight, atol=1e-6)
    assert torch.allclose(a.bias, b.bias, atol=1e-6)


def test_update_has_the_stated_size_and_lowers_the_loss() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(20, 20, 3, padding=1)
    optimizer = Muon(layer.parameters(), 1e-2, adam_learning_rate=1e-2)
    x, y = torch.rand(2, 20, 8, 8), torch.rand(2, 20, 8, 8)
    before = layer.weight.detach().clone()
    losses = []
    for _ in range(20):
        loss = (layer(x) - y).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if len(losses) == 1:
            size = (layer.weight - before).square().mean().sqrt().item()
    assert 0.5e-2 * 0.2 < size < 1.5e-2 * 0.2
    assert losses[-1] < losses[0] / 2


def test_state_survives_saving() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    optimizer = Muon(network.parameters(), 1e-2, adam_learning_rate=1e-2)
    x = torch.rand(1, 3, 9, 9)

    def step(net: nn.Module, opt: Muon) -> None:
        opt.zero_grad()
        net(x).square().mean().backward()
        opt.step()

    step(network, optimizer)
    copy = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    copy.load_state_dict(network.state_dict())
    restored = Muon(copy.parameters(), 1e-2, adam_learning_rate=1e-2)
    restored.load_state_dict(deepcopy(optimizer.state_dict()))
    step(network, optimizer)
    step(copy, restored)
    assert torch.equal(network[1].weight, copy[1].weight)
    assert torch.equal(network[0].bias, copy[0].bias)
