from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn

from sruplift.models import create_model
from sruplift.optim import (
    NEWTON_SCHULZ,
    AdamP,
    Muon,
    is_hidden_weight,
    orthogonalise,
    without_radial_part,
)


def minimise(
    function: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, steps: int
) -> list[float]:
    losses = []
    for _ in range(steps):
        loss = function()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize("shape", [(1, 40, 40), (3, 20, 180), (2, 180, 20)])
def test_orthogonalise_brings_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape) * 1e-3))
    assert values.max() < 1.3
    # A square random matrix has singular values near zero, which five steps cannot lift.
    assert values.median() > 0.6


@pytest.mark.parametrize("shape", [(3, 40, 40), (3, 20, 180), (2, 180, 20)])
def test_orthogonalise_is_five_steps_of_the_iteration(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    matrices[0] = torch.randn(shape[1], 2) @ torch.randn(2, shape[2])  # of rank 2
    a, b, c = NEWTON_SCHULZ
    x = matrices.double() / matrices.double().norm(dim=(-2, -1), keepdim=True)
    for _ in range(5):
        x = a * x + b * x @ x.mT @ x + c * x @ x.mT @ x @ x.mT @ x
    torch.testing.assert_close(orthogonalise(matrices).double(), x, rtol=0, atol=1e-4)


def test_a_step_without_gradients_changes_nothing() -> None:
    """As of the last layers of scales whose turn it is not."""
    weights = [nn.Parameter(torch.randn(4, 4, 3, 3)), nn.Parameter(torch.randn(4))]
    before = [weight.detach().clone() for weight in weights]
    Muon(weights, 1e-2, adam_learning_rate=1e-3).step()
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_every_parameter_is_updated_by_one_half() -> None:
    network = create_model("pan", 4)
    optimizer = Muon(network.parameters(), 1e-2, adam_learning_rate=1e-3)
    orthogonal, adam = (group["params"] for group in optimizer.param_groups)
    assert len(orthogonal) + len(adam) == len(list(network.parameters()))
    assert all(is_hidden_weight(p) for p in orthogonal)
    assert {tuple(p.shape) for p in adam if p.ndim == 4} == {(40, 3, 3, 3), (3, 24, 3, 3)}


def test_decay_shortens_what_is_orthogonalised_alone() -> None:
    torch.manual_seed(0)
    plain, decaying = (
        [nn.Parameter(torch.ones(4, 4, 3, 3)), nn.Parameter(torch.ones(4))] for _ in range(2)
    )
    gradients = [torch.randn(4, 4, 3, 3), torch.randn(4)]
    for weights, decay in ((plain, 0.0), (decaying, 0.2)):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        Muon(weights, 1e-2, adam_learning_rate=1e-3, weight_decay=decay).step()
    torch.testing.assert_close(plain[0] - decaying[0], torch.full((4, 4, 3, 3), 2e-3))
    assert torch.equal(plain[1], decaying[1])


def test_state_that_is_older_than_decay() -> None:
    layer = nn.Conv2d(4, 4, 3)
    optimizer = Muon(layer.parameters(), 1e-2, adam_learning_rate=1e-3)
    layer(torch.rand(1, 4, 8, 8)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        del group["weight_decay"]
    again = Muon(layer.parameters(), 1e-2, adam_learning_rate=1e-3)
    again.load_state_dict(state)
    again.step()


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


def test_matrices_of_linear_layers_are_orthogonalised_lengths_and_depthwise_kernels_are_not() -> (
    None
):
    names = dict(create_model("hpinet-s", 2).named_parameters())
    assert is_hidden_weight(names["blocks.0.attentions.0.query.weight"])
    assert not is_hidden_weight(names["blocks.0.attentions.0.norm.weight"])
    names = dict(create_model("maffsrn", 2).named_parameters())
    assert is_hidden_weight(names["tail5.weight_v"])
    assert not is_hidden_weight(names["tail5.weight_g"])
    assert not is_hidden_weight(names["groups.0.blocks.0.near_depthwise.weight"])


def test_muon_trains_a_linear_layer() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 6, bias=False)
    goal = torch.randn(6, 8)
    optimizer = Muon(layer.parameters(), 0.1, adam_learning_rate=1.0)
    losses = minimise(lambda: (layer.weight - goal).square().mean(), optimizer, 100)
    assert losses[-1] < losses[0] / 20


def test_adamp_is_adam_where_gradients_point_along_the_weights() -> None:
    torch.manual_seed(0)
    start = torch.randn(4, 3, 3, 3)
    weights = []
    for kind in (AdamP, torch.optim.Adam):
        weight = nn.Parameter(start.clone())
        minimise(lambda w=weight: w.pow(4).sum(), kind([weight], 1e-2, betas=(0.9, 0.99)), 20)
        weights.append(weight.detach())
    assert not torch.equal(weights[0], start)
    torch.testing.assert_close(*weights, rtol=0, atol=1e-6)


def test_adamp_does_not_lengthen_weights_behind_a_normalisation() -> None:
    torch.manual_seed(0)
    start, x, y = torch.randn(6, 10), torch.randn(64, 10), torch.randn(64, 6)

    def growth(kind: type[torch.optim.Optimizer]) -> tuple[float, list[float]]:
        weight = nn.Parameter(start.clone())
        loss = lambda: (x @ nn.functional.normalize(weight).T - y).square().mean()  # noqa: E731
        losses = minimise(loss, kind([weight], 0.1), 50)
        return (weight.norm() / start.norm()).item(), losses

    (ours, losses), (adams, _) = growth(AdamP), growth(torch.optim.Adam)
    assert 1 < ours < adams  # a step at right angles lengthens a little
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("by_channel", [True, False], ids=["channels", "layer"])
def test_the_part_along_a_scale_invariant_weight_is_taken_away(by_channel: bool) -> None:
    torch.manual_seed(0)
    weight, gradient, update = torch.randn(3, 5, 2, 3, 3)
    rows = 5 if by_channel else 1
    w, g = weight.reshape(rows, -1), gradient.reshape(rows, -1)
    g = g - w * (w * g).sum(1, keepdim=True) / w.square().sum(1, keepdim=True)
    result, invariant = without_radial_part(update, weight, g.view_as(weight), 0.1)
    assert invariant
    assert (result.view_as(w) * w).sum(1).abs().max() < 1e-5
    # Both are at right angles to the layer's weight; only one is to each channel's.
    along = (result.reshape(5, -1) * weight.reshape(5, -1)).sum(1).abs()
    assert (along.max() < 1e-5) == by_channel
    result, invariant = without_radial_part(update, weight, weight, 0.1)
    assert not invariant
    assert torch.equal(result, update)


def test_adamp_decays_scale_invariant_weights_less() -> None:
    weight = torch.tensor([[1.0, 0.0]])
    lengths = []
    for gradient in ([[0.0, 1.0]], [[1.0, 0.0]]):
        parameter = nn.Parameter(weight.clone())
        parameter.grad = torch.tensor(gradient)
        optimizer = AdamP([parameter], 1e-3, weight_decay=10.0, decay_ratio=0.1)
        optimizer.step()
        lengths.append(parameter[0, 0].item())
    assert lengths == pytest.approx([1 - 1e-3, 1 - 1e-2 - 1e-3])


@pytest.mark.parametrize("nesterov", [False, True])
def test_adamp_finds_the_minimum_of_a_quadratic(nesterov: bool) -> None:
    torch.manual_seed(0)
    weight, goal = nn.Parameter(torch.randn(4, 6)), torch.randn(4, 6)
    curvature = torch.logspace(-1, 1, 6)
    optimizer = AdamP([weight], 0.05, nesterov=nesterov)
    losses = minimise(lambda: (curvature * (weight - goal).square()).sum(), optimizer, 300)
    assert losses[-1] < losses[0] * 1e-4


def test_adamp_goes_on_from_its_saved_state() -> None:
    torch.manual_seed(0)
    target = torch.randn(6, 4)
    one = nn.Parameter(torch.randn(6, 4))
    optimizer = AdamP([one], 1e-2, weight_decay=0.1, nesterov=True)
    minimise(lambda: (one - target).square().sum(), optimizer, 3)
    other = nn.Parameter(one.detach().clone())
    restored = AdamP([other], 1e-2)
    restored.load_state_dict(deepcopy(optimizer.state_dict()))
    minimise(lambda: (one - target).square().sum(), optimizer, 3)
    minimise(lambda: (other - target).square().sum(), restored, 3)
    assert torch.equal(one, other)
