"""Which steps the optimizers take of which parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import photo_like

from sruplift.config import TrainConfig, build_config
from sruplift.models import create_model
from sruplift.models.srram import SRRAM, VARIANCE_UNIT
from sruplift.recipe import build_network, build_optimizer

RATE, ADAM_RATE = 1e-2, 4e-3


def recipe(tmp_path: Path, optimizer: str, **changes: object) -> TrainConfig:
    muon = {"adam_learning_rate": ADAM_RATE} if optimizer == "muon" else {}
    values = {
        "model": "srram",
        "scale": 2,
        "iterations": 10,
        "data": {"train": [tmp_path], "patch_size": 16, "batch_size": 2},
        "optimizer": {"name": optimizer, "learning_rate": RATE, "warmup": 0, **muon},
        **changes,
    }
    return build_config(values)


@pytest.mark.parametrize(
    ("optimizer", "rate"), [("muon", ADAM_RATE), ("adam", RATE), ("adamp", RATE)]
)
@pytest.mark.parametrize("scales", [None, [2, 3, 4]])
def test_what_reads_variances_takes_steps_of_its_own_size(
    tmp_path: Path, optimizer: str, rate: float, scales: list[int] | None
) -> None:
    changes = {"scales": scales, "scale": None} if scales else {}
    config = recipe(tmp_path, optimizer, **changes)
    network = build_network(config)
    groups = build_optimizer(config, network).param_groups
    every = [id(p) for group in groups for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in network.parameters())
    (small,) = (group for group in groups if group["lr"] == pytest.approx(rate * VARIANCE_UNIT))
    assert small["initial_lr"] == small["lr"]
    names = {id(p): name for name, p in network.named_parameters()}
    assert len(small["params"]) == 10
    assert all(names[id(p)].endswith("squeeze.weight") for p in small["params"])


def test_a_network_without_such_parameters_has_the_usual_groups(tmp_path: Path) -> None:
    config = recipe(tmp_path, "muon", model="pan")
    groups = build_optimizer(config, build_network(config)).param_groups
    assert [group["lr"] for group in groups] == [RATE, ADAM_RATE]


def test_channels_of_srram_are_neither_shut_nor_open_after_large_steps(tmp_path: Path) -> None:
    """With usual weights and steps all of them are: their sigmoids see thousands."""
    torch.manual_seed(0)
    config = recipe(tmp_path, "muon")
    network = create_model("srram", 2)
    assert isinstance(network, SRRAM)
    optimizer = build_optimizer(config, network)
    hr = photo_like(32, 32)[None]
    lr = torch.nn.functional.avg_pool2d(hr, 2)
    for _ in range(10):
        optimizer.zero_grad()
        (network(lr) - hr).abs().mean().backward()
        optimizer.step()
    seen: list[torch.Tensor] = []
    for block in network.blocks:
        block.excite.register_forward_hook(lambda _, __, logits: seen.append(logits.detach()))
    network(lr)
    assert len(seen) == 10
    assert float((torch.stack(seen).abs() > 6).float().mean()) < 0.05
