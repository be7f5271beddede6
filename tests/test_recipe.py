"""Which steps the optimizers take of which parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import photo_like

from sruplift.config import TrainConfig, build_config
from sruplift.errors import ConfigError, SrupliftError
from sruplift.models import create_model
from sruplift.models.layers import FEATURE_UNIT, stage_factors
from sruplift.models.srram import IMAGE_UNIT, SRRAM
from sruplift.multiscale import by_scale
from sruplift.recipe import (
    PSNR_EPSILON,
    build_network,
    build_optimizer,
    imported_from,
    is_hopeless,
    loss_of,
)
from sruplift.weights import import_checkpoint, save_weights

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


def steps(network: torch.nn.Module, config: TrainConfig, count: int) -> None:
    for member in by_scale(network).values():
        member.prepare_training()
    optimizer = build_optimizer(config, network)
    hr = photo_like(32, 32)[None]
    lr = F.avg_pool2d(hr, 2)
    for _ in range(count):
        optimizer.zero_grad()
        (network(lr) - hr).abs().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("optimizer", "rate"), [("muon", ADAM_RATE), ("adam", RATE), ("adamp", RATE)]
)
@pytest.mark.parametrize("scales", [None, [2, 3, 4]])
def test_srram_takes_steps_that_suit_its_units(
    tmp_path: Path, optimizer: str, rate: float, scales: list[int] | None
) -> None:
    config = recipe(tmp_path, optimizer, **({"scales": scales, "scale": None} if scales else {}))
    network = build_network(config)
    groups = build_optimizer(config, network).param_groups
    every = [id(p) for group in groups for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in network.parameters())
    assert all(group["initial_lr"] == group["lr"] for group in groups)
    names = {id(p): name for name, p in network.named_parameters()}
    found = {names[id(p)]: group["lr"] / rate for group in groups for p in group["params"]}
    own = {name: size for name, size in found.items() if not 0.1 < size < 10}
    tails = 2 * len(scales or [2])
    assert len(own) == 1 + tails
    assert [size for name, size in own.items() if name.endswith("head.weight")] == [1 / IMAGE_UNIT]
    assert sum(".last." in f".{name}" and size == IMAGE_UNIT for name, size in own.items()) == tails


def test_a_network_without_such_parameters_has_the_usual_groups(tmp_path: Path) -> None:
    config = recipe(tmp_path, "muon", model="a2n")
    groups = build_optimizer(config, build_network(config)).param_groups
    assert [group["lr"] for group in groups] == [RATE, ADAM_RATE]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_srram_begins_with_the_image_enlarged_bilinearly(scale: int) -> None:
    torch.manual_seed(0)
    network = create_model("srram", scale)
    assert isinstance(network, SRRAM)
    assert network.holds_the_image
    lr = photo_like(24, 20)[None]
    with torch.no_grad():
        network.last.weight[:, 3:] = 0
        network.last.bias.zero_()
        border = slice(8 * scale, -8 * scale)
        sr = network(lr)[..., border, border]
    expected = lr
    for factor in stage_factors(scale):
        expected = F.interpolate(expected, scale_factor=factor, mode="bilinear")
    expected = expected[..., border, border]
    torch.testing.assert_close(sr, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_training_leaves_alone_what_carries_the_image(tmp_path: Path, optimizer: str) -> None:
    config = recipe(tmp_path, optimizer)
    torch.manual_seed(0)
    network = build_network(config)
    assert isinstance(network, SRRAM)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    steps(network, config, 5)
    assert network.holds_the_image
    after = dict(network.named_parameters())
    assert torch.equal(after["last.weight"][:, :3], before["last.weight"][:, :3])
    for name in ("head.weight", "trunk_end.weight", "upsample.0.weight", "last.weight"):
        assert not torch.equal(after[name], before[name])


def test_released_weights_in_float16_still_carry_it_and_others_do_not() -> None:
    network = create_model("srram", 3)
    assert isinstance(network, SRRAM)
    network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
    assert network.holds_the_image
    with torch.no_grad():
        network.trunk_end.bias[0] = 0.1
    assert not network.holds_the_image
    assert network.step_sizes == {}
    network.prepare_training()
    assert float(network.trunk_end.bias[0].detach()) == pytest.approx(0.1)


def test_channels_of_srram_are_neither_shut_nor_open_after_large_steps(tmp_path: Path) -> None:
    """With features as large as 255 levels all of them are: their sigmoids see thousands."""
    config = recipe(tmp_path, "muon")
    torch.manual_seed(0)
    network = build_network(config)
    assert isinstance(network, SRRAM)
    steps(network, config, 10)
    seen: list[torch.Tensor] = []
    for block in network.blocks:
        block.excite.register_forward_hook(lambda _, __, logits: seen.append(logits.detach()))
    network(photo_like(16, 16)[None])
    assert len(seen) == 10
    assert float((torch.stack(seen).abs() > 6).float().mean()) < 0.05


LARGE = {
    "pan": ("head.weight", "head.bias"),
    "maffsrn": ("head.weight_g", "head.bias"),
}
SMALL = {
    "pan": ("last.weight", "last.bias"),
    "maffsrn": ("tail3.weight_g", "tail3.bias", "tail5.weight_g", "tail5.bias"),
}


@pytest.mark.parametrize("model", LARGE)
@pytest.mark.parametrize("large", [True, False])
def test_large_steps_of_what_makes_large_features(tmp_path: Path, model: str, large: bool) -> None:
    config = recipe(tmp_path, "muon", model=model)
    network = build_network(config)
    if not large:
        with torch.no_grad():
            network.get_parameter(LARGE[model][0]).div_(FEATURE_UNIT)
    names = {id(p): name for name, p in network.named_parameters()}
    own = {
        names[id(p)]: group["lr"] / ADAM_RATE
        for group in build_optimizer(config, network).param_groups[2:]
        for p in group["params"]
    }
    expected = dict.fromkeys(LARGE[model], FEATURE_UNIT)
    expected |= dict.fromkeys(SMALL[model], 1 / FEATURE_UNIT)
    assert own == (expected if large else {})


@pytest.mark.parametrize("large", [True, False])
def test_a_new_tail_suits_the_features_that_it_reads(tmp_path: Path, large: bool) -> None:
    """MAFFSRN's first weights have small ones, and its tails of another scale another shape."""
    torch.manual_seed(0)
    start = create_model("maffsrn", 2)
    if not large:
        with torch.no_grad():
            for name in LARGE["maffsrn"]:
                start.get_parameter(name).div_(FEATURE_UNIT)
    path = tmp_path / "x2.safetensors"
    save_weights(path, start.state_dict(), model="maffsrn", scale=2, metadata={})
    network = build_network(recipe(tmp_path, "muon", model="maffsrn", scale=4, init=str(path)))
    head = start.get_parameter("head.bias").half().float()
    assert torch.equal(network.get_parameter("head.bias"), head)
    length = float(network.get_parameter("tail3.weight_g").detach().mean())
    assert length == pytest.approx(0.58 / (FEATURE_UNIT if large else 1), rel=0.1)
    assert float(network.get_parameter("tail5.bias").detach().abs().max()) == pytest.approx(
        (1 / 800**0.5) / (FEATURE_UNIT if large else 1), rel=0.1
    )


@pytest.mark.parametrize("model", ["pan", "maffsrn"])
def test_large_features_change_nothing_else_at_the_start(model: str) -> None:
    """Without the gates and biases, of which they change what they see, it is the same network."""
    torch.manual_seed(0)
    network = create_model(model, 2)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    image = photo_like(24, 24)[None]
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "sigmoid", lambda x: torch.full_like(x, 0.5))
        large = network(image)
        for name in (*LARGE[model], *SMALL[model]):
            parameter = network.get_parameter(name)
            parameter.mul_(1 / FEATURE_UNIT if name in LARGE[model] else FEATURE_UNIT)
        torch.testing.assert_close(large, network(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("model", "least"), [("pan", 0.1), ("maffsrn", 0.03), ("srram", 0.03)])
def test_gates_look_at_the_image_from_the_start(model: str, least: float) -> None:
    """How far one is from constant over a picture; without the units 0.012, 0.005 and 0.006."""
    torch.manual_seed(0)
    network = create_model(model, 2)
    seen: list[float] = []

    def note(gates: torch.Tensor) -> torch.Tensor:
        result = gates.sigmoid()
        seen.append(float((result.std((2, 3)) / result.mean((2, 3))).mean()))
        return result

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "sigmoid", note)
        network(photo_like(48, 48)[None])
    assert len(seen) >= 10
    assert sum(seen) / len(seen) > least


LOSSES = ["l1", "l2", "charbonnier", "psnr"]


def test_losses_are_those_of_their_names() -> None:
    hr = torch.stack([photo_like(12, 8, seed=seed) for seed in range(3)])
    sr = torch.stack([photo_like(12, 8, seed=seed) for seed in range(3, 6)])
    assert torch.allclose(loss_of("l1", sr, hr), F.l1_loss(sr, hr))
    assert torch.allclose(loss_of("l2", sr, hr), F.mse_loss(sr, hr))
    smooth = ((sr - hr).square() + 1e-6).sqrt().mean()
    assert torch.allclose(loss_of("charbonnier", sr, hr), smooth)
    each = [10 * (F.mse_loss(s, h) + PSNR_EPSILON).log10() for s, h in zip(sr, hr, strict=True)]
    assert torch.allclose(loss_of("psnr", sr, hr), torch.stack(each).mean())


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_hopeless(name: str) -> None:
    black, white = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
    assert not is_hopeless(name, float(loss_of(name, black + 0.1, white, 0.5)))
    assert is_hopeless(name, float(loss_of(name, black - 0.1, white, 0.5)))


@pytest.mark.parametrize("name", LOSSES)
def test_the_share_of_luma_in_a_loss(name: str) -> None:
    hr = 0.5 * photo_like(12, 8)[None]
    nothing = loss_of(name, hr, hr)
    grey = hr + 0.1  # Wrong by as much in luma as in RGB.
    assert torch.allclose(loss_of(name, grey, hr, 0.5), loss_of(name, grey, hr), atol=1e-6)
    tint = torch.tensor([128.553, -65.481, 0]).view(1, 3, 1, 1) / 1000  # Luma stays.
    assert torch.allclose(loss_of(name, hr + tint, hr, 1), nothing, atol=1e-6)
    losses = [float(loss_of(name, hr + tint, hr, share)) for share in (0, 0.5, 0.9)]
    assert losses[0] > losses[1] > losses[2] > float(nothing)
    if name in ("l1", "l2"):
        assert losses[1] == pytest.approx(losses[0] / 2, rel=1e-4)


def test_a_config_says_the_share_of_luma(tmp_path: Path) -> None:
    assert recipe(tmp_path, "adam").luma == 0
    assert recipe(tmp_path, "adam", luma=0.5).luma == 0.5
    with pytest.raises(ConfigError, match="luma"):
        recipe(tmp_path, "adam", luma=1.5)


def test_what_is_learnt_from_weights_of_others_is_told(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.pth"
    tensors = create_model("srram", 2).state_dict()
    save_weights(ours, tensors, model="srram", scale=2, metadata={})
    torch.save(tensors, theirs)
    imported = import_checkpoint(theirs, tmp_path / "imported.safetensors", "srram", 2).path
    assert imported_from(recipe(tmp_path, "muon")) == ""
    for start, teacher, origin in (
        (ours, "pan_x2", ""),
        (imported, "pan_x2", "theirs.pth"),
        (theirs, "pan_x2", "theirs.pth"),
        (ours, str(imported), "theirs.pth"),
        (ours, str(theirs), "theirs.pth"),
        (ours, ["pan_x2", str(theirs)], "theirs.pth"),
    ):
        config = recipe(tmp_path, "muon", init=str(start), teacher={"weights": teacher})
        assert imported_from(config) == origin


def test_the_scale_is_in_what_is_said_of_a_start(tmp_path: Path) -> None:
    (tmp_path / "x2.safetensors").write_bytes(b"nothing")
    config = recipe(tmp_path, "muon", init=str(tmp_path / "x{scale}.safetensors"))
    with pytest.raises(SrupliftError, match=r"x2\.safetensors is neither"):
        imported_from(config)
    for named in (imported_from, build_network):
        with pytest.raises(SrupliftError, match="is not hf://owner/repo/file"):
            named(recipe(tmp_path, "muon", init="hf://nobody"))


@pytest.mark.parametrize("name", ["l1", "l2", "charbonnier", "psnr"])
def test_nothing_is_learned_from_patches_that_blew_up(name: str) -> None:
    sr = torch.stack([torch.full((3, 4, 4), 0.6), torch.full((3, 4, 4), 1e6)]).requires_grad_()
    loss = loss_of(name, sr, torch.full((2, 3, 4, 4), 0.5), 0.75)
    loss.backward()
    assert sr.grad is not None
    assert sr.grad[0].abs().min() > 0
    assert not sr.grad[1].any()
    assert loss > 10  # But they are seen in it.
