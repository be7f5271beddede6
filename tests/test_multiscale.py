from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_data import write_images

from sruplift.config import TrainConfig, build_config
from sruplift.errors import ConfigError
from sruplift.models import count_parameters, create_model
from sruplift.multiscale import TAIL, MultiScale, by_scale, share_trunk
from sruplift.runlog import LogRow
from sruplift.train import train
from sruplift.weights import identify

NETWORKS = ["pan", "a2n", "maffsrn", "srram", "hpinet-s"]
SCALES = (2, 3, 4)


def make(name: str) -> MultiScale:
    torch.manual_seed(0)
    return MultiScale([create_model(name, scale) for scale in SCALES])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_trunk_is_shared_and_the_tails_are_not(name: str) -> None:
    two, three, four = (dict(n.named_parameters()) for n in by_scale(make(name)).values())
    tails = {parameter for parameter in two if parameter.split(".")[0] in TAIL}
    assert 0 < len(tails) < len(two)
    for parameter, tensor in two.items():
        for other in (three, four):
            shared = parameter in other and other[parameter] is tensor
            assert shared == (parameter not in tails), parameter


@pytest.mark.parametrize("name", NETWORKS)
def test_each_scale_is_an_ordinary_network(name: str) -> None:
    together = make(name).eval()
    lr = torch.rand(1, 3, 26, 25)
    for scale, member in by_scale(together).items():
        alone = create_model(name, scale).eval()
        alone.load_state_dict(member.state_dict())
        with torch.no_grad():
            assert torch.equal(together(lr, scale), alone(lr))
    assert list(by_scale(alone)) == [4]


def test_shared_parameters_count_once() -> None:
    """SRRAM's trunk with three tails, counted by hand: 939K of x2, and two tails more."""
    assert count_parameters(make("srram")) == 1_570_161


def test_other_trunks_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in 'groups'"):
        share_trunk(create_model("maffsrn", 2), create_model("maffsrn-l", 3))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "train", [(48, 48), (50, 57), (48, 41)])
    write_images(folder / "val", [(25, 31)])
    return folder


def config(images: Path, **changes: object) -> TrainConfig:
    values = {
        "model": "pan",
        "scales": [2, 3, 4],
        "iterations": 8,
        "precision": "fp32",
        "validate_every": 4,
        "log_every": 2,
        "checkpoint_every": 3,
        "data": {
            "train": [images / "train"],
            "validation": images / "val",
            "patch_size": 8,
            "batch_size": 2,
        },
        "optimizer": {"name": "muon", "warmup": 2},
    }
    return build_config(values | changes)


def tensors(folder: Path, name: str) -> list[dict[str, torch.Tensor]]:
    return [load_file(folder / f"{name}_x{scale}.safetensors") for scale in SCALES]


def test_a_run_leaves_weights_of_each_scale(images: Path, tmp_path: Path) -> None:
    result = train(config(images), tmp_path)
    assert (result.reason, result.weights) == ("finished", tmp_path)
    with (tmp_path / "log.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    each = [float(last[f"val_psnr_x{scale}"]) for scale in SCALES]
    assert float(last["val_psnr"]) == pytest.approx(sum(each) / 3, abs=1e-3)
    assert len(set(each)) == 3
    for name in ("best", "last"):
        for scale in SCALES:
            found = identify(tmp_path / f"{name}_x{scale}.safetensors")
            assert (found.model, found.scale) == ("pan", scale)
    values = [
        float(identify(tmp_path / f"best_x{s}.safetensors").metadata["val_psnr"]) for s in SCALES
    ]
    assert sum(values) / 3 == pytest.approx(result.best_psnr, abs=1e-3)
    two, three, _ = tensors(tmp_path, "last")
    assert torch.equal(two["blocks.3.fuse.weight"], three["blocks.3.fuse.weight"])
    assert not torch.equal(two["last.weight"], three["last.weight"])


def test_every_scale_is_trained(images: Path, tmp_path: Path) -> None:
    train(config(images, iterations=12, ema_decay=0.0), tmp_path)
    torch.manual_seed(0)
    before = [create_model("pan", scale).state_dict() for scale in SCALES]
    for start, end in zip(before, tensors(tmp_path, "last"), strict=True):
        assert not torch.equal(start["last.weight"], end["last.weight"])


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_a_killed_run_resumes_to_identical_weights(
    images: Path, tmp_path: Path, cache: str
) -> None:
    places = {"train": [images / "train"], "validation": images / "val"}
    data = {**places, "patch_size": 8, "batch_size": 2, "cache": cache, "workers": 0}
    settings = config(images, data=data)
    train(settings, tmp_path / "whole")

    class KilledError(Exception):
        pass

    def kill(row: LogRow) -> None:
        if row.iteration == 6:
            raise KilledError

    with pytest.raises(KilledError):
        train(settings, tmp_path / "killed", on_row=kill)
    torch.manual_seed(99)
    train(settings, tmp_path / "killed", resume=True)
    for name in ("last", "best"):
        pairs = zip(
            tensors(tmp_path / "whole", name), tensors(tmp_path / "killed", name), strict=True
        )
        assert all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)


def test_each_scale_starts_from_its_own_weights(images: Path, tmp_path: Path) -> None:
    train(config(images), tmp_path / "first")
    start = str(tmp_path / "first" / "last_x{scale}.safetensors")
    slow = {"iterations": 1, "ema_decay": 0.0, "optimizer": {"learning_rate": 1e-12}}
    train(config(images, init=start, **slow), tmp_path / "second")
    pairs = zip(
        tensors(tmp_path / "first", "last"), tensors(tmp_path / "second", "last"), strict=True
    )
    for a, b in pairs:
        assert all(torch.allclose(a[key], b[key], atol=1e-6) for key in a)


def test_scale_or_scales() -> None:
    for wrong in ({}, {"scale": 2, "scales": [2, 3]}):
        with pytest.raises(ConfigError, match="either one scale or several"):
            build_config({"model": "pan", "iterations": 1, **wrong})
    with pytest.raises(ConfigError, match="must differ"):
        build_config({"model": "pan", "iterations": 1, "scales": [2, 2]})
