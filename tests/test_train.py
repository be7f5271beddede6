from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from test_data import write_images
from torch import Tensor

from sruplift import engine
from sruplift.checkpoint import load_checkpoint, save_checkpoint
from sruplift.config import TrainConfig, build_config, config_names, read_config
from sruplift.datasets import read_hr
from sruplift.errors import (
    CompilerError,
    ConfigError,
    DatasetError,
    NumericalError,
    SrupliftError,
    SrupliftWarning,
    WeightsError,
)
from sruplift.kernels import gradient
from sruplift.loader import Validation, split_files
from sruplift.metrics import psnr
from sruplift.models import create_model
from sruplift.recipe import build_network, learning_rate
from sruplift.resize import bicubic
from sruplift.runlog import LogRow
from sruplift.train import train
from sruplift.weights import identify, import_checkpoint, save_weights


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "train", [(48, 48), (40, 56), (48, 40)])
    write_images(folder / "val", [(32, 40)])
    return folder


def config(images: Path, **changes: Any) -> TrainConfig:
    values = {
        "model": "pan",
        "scale": 2,
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
        "optimizer": {"warmup": 2},
    }
    for key, value in changes.items():
        table, _, name = key.partition("__")
        if name:
            values[table] = {**values[table], name: value}  # type: ignore[dict-item]
        else:
            values[key] = value
    return build_config(values)


def log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same_weights(one: Path, other: Path) -> bool:
    a, b = load_file(one / "last.safetensors"), load_file(other / "last.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_leaves_weights_log_and_checkpoint(images: Path, tmp_path: Path) -> None:
    rows: list[LogRow] = []
    result = train(config(images), tmp_path, on_row=rows.append)
    assert (result.reason, result.iteration) == ("finished", 8)
    assert [row.iteration for row in rows] == [2, 4, 6, 8]
    lines = log(tmp_path)
    assert [line["iteration"] for line in lines] == ["2", "4", "6", "8"]
    assert [bool(line["val_psnr"]) for line in lines] == [False, True, False, True]
    assert all(float(line["loss"]) > 0 for line in lines)
    assert result.weights == tmp_path / "best.safetensors"
    with safe_open(result.weights, "pt") as file:
        metadata = file.metadata()
    assert (metadata["model"], metadata["scale"]) == ("pan", "2")
    assert float(metadata["val_psnr"]) == pytest.approx(result.best_psnr, abs=1e-4)
    assert len(metadata["data_fingerprint"]) == 64


def test_the_share_of_luma_reaches_the_loss(images: Path, tmp_path: Path) -> None:
    losses = []
    for luma in (0, 0.5, 1):
        train(config(images, iterations=2, luma=luma), tmp_path / str(luma))
        losses.append(float(log(tmp_path / str(luma))[0]["loss"]))
    assert losses[1] == pytest.approx((losses[0] + losses[2]) / 2, rel=0.05)
    assert abs(losses[0] - losses[2]) > 0.01 * losses[0]


def test_training_learns_more_than_bicubic(images: Path, tmp_path: Path) -> None:
    learning = config(
        images,
        iterations=120,
        optimizer={"name": "muon", "learning_rate": 3e-3, "warmup": 2},
        data__patch_size=12,
        data__batch_size=4,
    )
    train(learning, tmp_path)
    values = [float(line["val_psnr"]) for line in log(tmp_path) if line["val_psnr"]]
    hr = read_hr(images / "val" / "0.png")
    enlarged = bicubic(bicubic(hr, 1 / 2), size=(hr.shape[1], hr.shape[2]))
    baseline = float(psnr(enlarged[None] / 255, hr[None] / 255, 2))
    assert values[-1] > baseline + 0.1
    assert values[-1] > values[0] + 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer__name": "muon", "precision": "bf16"},
        {"optimizer__name": "adamp", "data__noisy": 0.5},
        {
            "data__cache": "none",
            "data__workers": 0,
            "stages": [{"until": 0.5, "patch_size": 6, "batch_size": 4}],
        },
    ],
    ids=["adam", "muon-bf16", "adamp-noisy", "files-stages"],
)
def test_a_killed_run_resumes_to_identical_weights(
    images: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = config(images, **changes)
    train(settings, tmp_path / "whole")

    class KilledError(Exception):
        pass

    killed_at = random.Random(repr(changes)).choice([4, 6])

    def kill(row: LogRow) -> None:
        if row.iteration == killed_at:
            raise KilledError

    with pytest.raises(KilledError):
        train(settings, tmp_path / "killed", on_row=kill)
    torch.manual_seed(99)
    result = train(settings, tmp_path / "killed", resume=True)
    assert result.iteration == 8
    assert same_weights(tmp_path / "whole", tmp_path / "killed")
    columns = ("iteration", "loss", "learning_rate", "val_psnr")
    wanted, found = log(tmp_path / "whole"), log(tmp_path / "killed")
    # The line of the iterations that were done again starts at the checkpoint, not before it.
    for column in columns:
        pairs = zip(wanted, found, strict=True)
        assert all(a[column] == b[column] for a, b in pairs if column != "loss"), column


@pytest.mark.parametrize("noisy", [0, 0.5])
def test_files_and_cache_train_the_same(images: Path, tmp_path: Path, noisy: float) -> None:
    for cache in ("memory", "none"):
        settings = config(images, data__cache=cache, data__workers=0, data__noisy=noisy)
        train(settings, tmp_path / cache)
    assert same_weights(tmp_path / "memory", tmp_path / "none")


def test_loader_processes_change_nothing(images: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        settings = config(images, iterations=3, data__cache="none", data__workers=workers)
        train(settings, tmp_path / str(workers))
    assert same_weights(tmp_path / "0", tmp_path / "2")


@pytest.mark.usefixtures("kernels")
def test_our_own_convolutions_train_the_same(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    convolve = gradient.weight_gradient

    def counted(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return convolve(*arguments)

    monkeypatch.setattr(gradient, "weight_gradient", counted)
    for choice in ("off", "on", "auto"):
        train(config(images, kernels=choice), tmp_path / choice)
        # In PAN x2 all 3x3 convolutions but the first and the last one, in each of 8 iterations.
        assert len(calls) == (0 if choice == "off" else 8 * (16 * 3 + 3))
        calls.clear()
    assert same_weights(tmp_path / "on", tmp_path / "auto")
    plain, ours = (load_file(tmp_path / name / "last.safetensors") for name in ("off", "on"))
    torch.manual_seed(0)
    start = build_network(config(images)).state_dict()
    for name, value in plain.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=5e-4)
    # What they learned is far more than what rounding makes of it.
    assert max(float((value - start[name]).abs().max()) for name, value in plain.items()) > 5e-3


def test_a_run_may_go_on_with_other_convolutions(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(images), tmp_path / "run", max_minutes=1e-9)
    off = config(images, kernels="off")
    assert train(off, tmp_path / "run", resume=True).reason == "finished"
    monkeypatch.setattr(engine, "_load_kernels", lambda: CompilerError("no C compiler"))
    with pytest.raises(CompilerError, match="no C compiler"):
        train(config(images, kernels="on"), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert train(config(images, kernels="auto"), tmp_path / "other").reason == "finished"


def test_the_clock_stops_a_run_and_it_goes_on(images: Path, tmp_path: Path) -> None:
    result = train(config(images), tmp_path, max_minutes=1e-9)
    assert result.reason == "time"
    assert result.iteration < 8
    assert train(config(images), tmp_path, resume=True).reason == "finished"


def test_a_finished_run_is_not_overwritten(images: Path, tmp_path: Path) -> None:
    train(config(images, iterations=1), tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="--resume"):
        train(config(images, iterations=1), tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_no_time_is_no_iteration(images: Path, tmp_path: Path) -> None:
    assert train(config(images), tmp_path, max_minutes=0).iteration == 0


@pytest.mark.parametrize("name", ["log.csv", "best.safetensors", "last.safetensors"])
def test_what_lies_in_the_folder_is_not_replaced(images: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine,\nand mine\n")
    with pytest.raises(ConfigError, match=f"holds {name}, which this run would replace"):
        train(config(images), tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {name, ".lock"}
    assert (tmp_path / name).read_text() == "mine,\nand mine\n"


def test_a_picture_too_small_to_validate_on_is_told_at_once(images: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "val", [(5, 40)])
    with pytest.raises(DatasetError, match="too small to validate on: 40x5 pixels, not 6x6"):
        train(config(images, data__validation=tmp_path / "val"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["short", "one bit", "text", "another's"])
def test_a_damaged_checkpoint_is_a_sentence(images: Path, tmp_path: Path, damage: str) -> None:
    train(config(images, iterations=1), tmp_path)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    middle = len(whole) // 2
    if damage == "another's":
        torch.save(torch.zeros(3), path)
    else:
        contents = {
            "short": whole[:middle],
            "one bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "text": b"nothing of the kind",
        }
        path.write_bytes(contents[damage])
    with pytest.raises(WeightsError, match=r"checkpoint .*checkpoint\.pt is damaged"):
        train(config(images, iterations=2), tmp_path, resume=True)


def test_a_checkpoint_is_read_as_the_averaged_weights_of_its_network(
    images: Path, tmp_path: Path
) -> None:
    train(config(images, ema_decay=0.5), tmp_path)
    found = identify(tmp_path / "checkpoint.pt")
    assert (found.model, found.scale) == ("pan", 2)
    averaged = load_file(tmp_path / "last.safetensors")
    assert all(torch.equal(found.tensors[name], averaged[name]) for name in averaged)
    with pytest.raises(WeightsError, match="holds weights of pan x2, not pan x3"):
        identify(tmp_path / "checkpoint.pt", "pan", 3)


def test_resume_refuses_another_run(images: Path, tmp_path: Path) -> None:
    train(config(images, iterations=1), tmp_path)
    with pytest.raises(ConfigError, match="'seed'"):
        train(config(images, iterations=1, seed=3), tmp_path, resume=True)
    with pytest.raises(ConfigError, match="'data'"):
        train(config(images, iterations=1, data__places=2), tmp_path, resume=True)
    with pytest.raises(ConfigError, match=r"'iterations': 1; .* begin another run with"):
        train(config(images, iterations=2), tmp_path, resume=True)
    with pytest.raises(WeightsError, match="no checkpoint"):
        train(config(images), tmp_path / "absent", resume=True)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged"):
        train(config(images, iterations=1), tmp_path, resume=True)


def test_resume_refuses_other_images(images: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    shutil.copytree(images, more)
    train(config(more, iterations=1), tmp_path / "run")
    next((more / "train").iterdir()).unlink()
    with pytest.raises(ConfigError, match="has seen other training images"):
        train(config(more, iterations=1), tmp_path / "run", resume=True)
    path = tmp_path / "run" / "checkpoint.pt"
    older = dataclasses.replace(load_checkpoint(path), fingerprint="", order="")
    save_checkpoint(path, older)
    assert train(config(more, iterations=1), tmp_path / "run", resume=True).reason == "finished"


def test_resume_refuses_images_in_another_order(images: Path, tmp_path: Path) -> None:
    """Samples are told by the number of their image."""
    folders = tmp_path / "a", tmp_path / "b"
    files = sorted((images / "train").iterdir())
    for number, folder in enumerate(folders):
        folder.mkdir()
        for file in files[number::2]:
            shutil.copy(file, folder)
    there, back = (
        config(images, iterations=1, data__train=order) for order in (folders, folders[::-1])
    )
    train(there, tmp_path / "run")
    with pytest.raises(ConfigError, match="the same training images in another order"):
        train(back, tmp_path / "run", resume=True)
    assert train(there, tmp_path / "run", resume=True).reason == "finished"


def test_resume_refuses_to_validate_on_other_images(images: Path, tmp_path: Path) -> None:
    other = tmp_path / "validation"
    write_images(other, [(36, 40)])
    train(config(images, iterations=1), tmp_path / "run")
    with pytest.raises(ConfigError, match="was validated on other images"):
        train(config(images, iterations=1, data__validation=other), tmp_path / "run", resume=True)


def test_an_older_run_counts_its_best_afresh(images: Path, tmp_path: Path) -> None:
    """Which of the images it was validated on is not known."""
    some = config(images, iterations=8, data__validation_images=1)
    train(some, tmp_path / "run", max_minutes=0)
    path = tmp_path / "run" / "checkpoint.pt"
    save_checkpoint(path, dataclasses.replace(load_checkpoint(path), validation="", best_psnr=99))
    with pytest.warns(SrupliftWarning, match="its best PSNR is counted afresh"):
        assert train(some, tmp_path / "run", resume=True).best_psnr < 60


def test_a_run_goes_on_without_what_it_began_with(images: Path, tmp_path: Path) -> None:
    train(config(images, iterations=1), tmp_path / "first")
    start = tmp_path / "start.safetensors"
    shutil.copy(tmp_path / "first" / "last.safetensors", start)
    again = config(images, iterations=2, init=str(start))
    train(again, tmp_path / "run", max_minutes=0)
    start.unlink()
    assert train(again, tmp_path / "run", resume=True).reason == "finished"


@pytest.mark.parametrize("parts", [1, 2])
def test_a_teacher_reaches_the_loss(images: Path, tmp_path: Path, parts: int) -> None:
    """Of a network that learns from itself, and from nothing else, there is nothing to learn."""
    changes = {"init": "pan_x2", "loss": "l1", "iterations": 1, "data__accumulate": parts}
    for share, folder in ((1.0, "alone"), (0.5, "half")):
        teacher = {"weights": "pan_x2", "share": share}
        train(config(images, teacher=teacher, **changes), tmp_path / folder)
    train(config(images, **changes), tmp_path / "none")
    alone, half, none = (
        float(log(tmp_path / name)[0]["loss"]) for name in ("alone", "half", "none")
    )
    assert alone < 0.01 * none  # What is beyond black and white the teacher does not ask for.
    assert half == pytest.approx(none / 2, rel=0.01)
    with safe_open(tmp_path / "half" / "best.safetensors", "pt") as file:
        assert file.metadata()["teacher"] == "pan_x2"


def test_resume_refuses_a_teacher_with_other_weights(images: Path, tmp_path: Path) -> None:
    train(config(images, iterations=1), tmp_path / "first")
    path = tmp_path / "teacher.safetensors"
    shutil.copy(tmp_path / "first" / "last.safetensors", path)
    taught = config(images, teacher={"weights": str(path)})
    train(taught, tmp_path / "run", max_minutes=0)
    elsewhere = tmp_path / "elsewhere.safetensors"
    path.rename(elsewhere)
    moved = config(images, teacher={"weights": str(elsewhere)})
    assert train(moved, tmp_path / "run", resume=True, max_minutes=0).reason == "time"
    save_weights(path, create_model("pan", 2).state_dict(), model="pan", scale=2, metadata={})
    with pytest.raises(ConfigError, match="had a teacher with other weights"):
        train(taught, tmp_path / "run", resume=True)
    for other in (None, {"weights": str(elsewhere), "share": 0.5}):
        with pytest.raises(ConfigError, match="another 'teacher'"):
            train(config(images, teacher=other), tmp_path / "run", resume=True)


def test_a_run_says_that_it_began_with_weights_of_others(images: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.pth"
    torch.save(create_model("pan", 2).state_dict(), theirs)
    start = import_checkpoint(theirs, tmp_path / "imported.safetensors", "pan", 2).path
    begun = config(images, init=str(start))
    train(begun, tmp_path / "run", max_minutes=0)
    train(begun, tmp_path / "run", resume=True)
    assert identify(tmp_path / "run" / "last.safetensors").metadata["imported_from"] == "theirs.pth"
    train(config(images), tmp_path / "ours")
    assert "imported_from" not in identify(tmp_path / "ours" / "last.safetensors").metadata


def test_the_callers_random_numbers_go_on(images: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)[1]
    torch.manual_seed(5)
    torch.rand(1)
    train(config(images, iterations=1), str(tmp_path))
    assert torch.rand(1) == expected


def test_what_is_validated_on_is_not_trained_on(images: Path) -> None:
    """A folder of both is searched whole."""
    files, held = split_files(config(images, data__train=[images]))
    assert held == list((images / "val").iterdir())
    assert sorted(files) == sorted((images / "train").iterdir())
    with pytest.raises(DatasetError, match="all training images are among those to validate on"):
        split_files(config(images, data__train=[images / "val"]))


@pytest.mark.parametrize(("there", "wanted"), [(39, 20), (5, 3), (4, 0), (3, 9), (60, 20)])
def test_images_to_validate_on_are_evenly_spread(
    images: Path, tmp_path: Path, there: int, wanted: int
) -> None:
    files = [tmp_path / f"{number:02}.png" for number in range(there)]
    for number, file in enumerate(files):
        Image.new("L", (16, 16), number).save(file)
    settings = config(images, data__validation_images=wanted)
    chosen = [
        int(each[0, 0, 0]) for each in Validation(settings, files, torch.device("cpu")).images
    ]
    assert len(chosen) == min(wanted or there, there)
    steps = {after - before for before, after in itertools.pairwise([*chosen, there])}
    assert chosen[0] == 0
    assert max(steps) - min(steps) <= 1


def test_a_resumed_run_may_say_more(images: Path, tmp_path: Path) -> None:
    train(config(images, log_every=4, validate_every=4), tmp_path, max_minutes=0)
    often = config(images, log_every=1, validate_every=2, checkpoint_every=3)
    assert train(often, tmp_path, resume=True).reason == "finished"
    rows = log(tmp_path)
    assert [int(row["iteration"]) for row in rows] == list(range(1, often.iterations + 1))
    assert [bool(row["val_psnr"]) for row in rows[:4]] == [False, True, False, True]


def test_two_runs_in_one_folder_do_not_meet(images: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def second(_: object) -> None:
        for resume in (False, True):
            with pytest.raises(ConfigError, match="another run is at work in") as caught:
                train(config(images), tmp_path, resume=resume)
            refused.append(str(caught.value))

    train(config(images, iterations=2, log_every=2, checkpoint_every=1), tmp_path, on_row=second)
    assert len(refused) == 2
    assert train(config(images, iterations=2, log_every=2), tmp_path, resume=True).iteration == 2


def test_images_that_are_too_small_are_told(images: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(images, mixed)
    settings = config(mixed, iterations=1)
    edge = 2 * max(settings.patch_sizes)
    Image.new("RGB", (edge - 1, edge)).save(mixed / "train" / "small.png")
    there = len(list((mixed / "train").iterdir()))
    with pytest.warns(SrupliftWarning, match=f"^1 of {there} .* smaller than {edge}x{edge} pixels"):
        train(settings, tmp_path / "run")


def test_resume_refuses_a_checkpoint_with_other_groups(images: Path, tmp_path: Path) -> None:
    train(config(images, iterations=1), tmp_path)
    path = tmp_path / "checkpoint.pt"
    checkpoint = load_checkpoint(path)
    checkpoint.optimizer["param_groups"] *= 2
    save_checkpoint(path, checkpoint)
    with pytest.raises(ConfigError, match="grouped parameters otherwise"):
        train(config(images, iterations=1), tmp_path, resume=True)


def test_a_checkpoint_older_than_a_key_resumes(images: Path, tmp_path: Path) -> None:
    train(config(images, iterations=1), tmp_path)
    path = tmp_path / "checkpoint.pt"
    checkpoint = load_checkpoint(path)
    del checkpoint.config["optimizer"]["schedule"], checkpoint.config["compile"]
    save_checkpoint(path, checkpoint)
    assert train(config(images, iterations=1), tmp_path, resume=True).reason == "finished"
    stepped = {"warmup": 2, "schedule": "step", "halve_every": 3}
    with pytest.raises(ConfigError, match="another 'optimizer'"):
        train(config(images, iterations=1, optimizer=stepped), tmp_path, resume=True)


@pytest.mark.parametrize("holds", [True, False])
def test_a_resumed_srram_goes_on_as_its_own_weights_ask(
    images: Path, tmp_path: Path, holds: bool
) -> None:
    """What the run began with may have been released anew, with or without a way for the image."""
    start = tmp_path / "start.safetensors"
    network = create_model("srram", 2)
    tensors = {True: network.state_dict(), False: dict(network.state_dict())}
    tensors[False]["trunk_end.bias"] = torch.full((64,), 0.1)
    changes = {"model": "srram", "init": str(start), "iterations": 4}
    save_weights(start, tensors[holds], model="srram", scale=2, metadata={})
    whole = tmp_path / "whole"
    train(config(images, **changes), whole)
    parts = tmp_path / "parts"
    train(config(images, **changes), parts, max_minutes=1e-9)
    assert load_checkpoint(parts / "checkpoint.pt").iteration < 4
    save_weights(start, tensors[not holds], model="srram", scale=2, metadata={})
    assert train(config(images, **changes), parts, resume=True).reason == "finished"
    assert same_weights(whole, parts)
    kept = load_file(whole / "last.safetensors")["trunk_end.bias"][:3]
    assert bool((kept == 0).all()) == holds


def test_weights_of_another_scale_start_a_run(images: Path, tmp_path: Path) -> None:
    train(config(images), tmp_path / "x2")
    start = str(tmp_path / "x2" / "best.safetensors")
    tiny = {"iterations": 1, "optimizer__learning_rate": 1e-12, "ema_decay": 0.0}
    train(config(images, init=start, scale=4, **tiny), tmp_path / "x4")
    source, target = load_file(start), load_file(tmp_path / "x4" / "last.safetensors")
    name = "blocks.7.plain.weight"
    assert torch.allclose(source[name], target[name], atol=1e-6)
    assert "upsample.1.conv.weight" not in source
    assert "upsample.1.conv.weight" in target


def test_a_diverged_run_says_so(images: Path, tmp_path: Path) -> None:
    wild = config(images, optimizer__learning_rate=1e20, optimizer__warmup=0)
    with pytest.raises(NumericalError, match="lower the learning rate"):
        train(wild, tmp_path)


@pytest.mark.parametrize("loss", ["l1", "psnr"])
def test_a_run_that_makes_no_pictures_any_more_says_so(
    images: Path, tmp_path: Path, loss: str
) -> None:
    """Its loss is finite."""
    wild = config(images, loss=loss, log_every=1, optimizer__learning_rate=0.03)
    with pytest.raises(NumericalError, match="that of no picture: lower") as caught:
        train(wild, tmp_path)
    value = float(str(caught.value).split()[3])
    assert 0 < value < 1e10


@pytest.mark.parametrize("until", [0.25, 0.75])
def test_a_mean_of_two_losses_is_not_judged(
    images: Path, tmp_path: Path, until: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sruplift.train.is_hopeless", lambda *_: True)
    mixed = config(images, log_every=4, stages=[{"until": until}, {"until": 1, "loss": "psnr"}])
    if until == 0.25:  # The last four iterations have one.
        with pytest.raises(NumericalError, match="iteration 8, that of no picture"):
            train(mixed, tmp_path)
    else:
        assert train(mixed, tmp_path).iteration == 8


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "pam"}, "unknown model 'pam'"),
        ({"scale": 5}, "no scale 5"),
        ({"data__train": []}, "no training data"),
        ({"optimizer__betas": [1.5, 0.9]}, "betas"),
        ({"seed": 2**63}, "seed"),
        ({"model": "hpinet-s"}, "8x8 LR pixels are too small for hpinet-s, which needs 24x24"),
        ({"model": "maffsrn", "stages": [{"until": 1, "patch_size": 12}]}, "needs 13x13"),
    ],
)
def test_impossible_configs(
    images: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        train(config(images, **changes), tmp_path / "out")


def test_learning_rate_warms_up_and_falls_in_each_cycle(images: Path) -> None:
    settings = config(images, iterations=200, optimizer__warmup=10, optimizer__cycles=2)
    rates = [learning_rate(settings, i) for i in range(200)]
    assert rates[0] == pytest.approx(1e-4, rel=0.01)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[99] < 1e-5 < rates[105]
    assert rates[:100] == pytest.approx(rates[100:])
    middle = 0.5 * 1e-3 * (1 + math.cos(math.pi / 2))
    assert rates[50] == pytest.approx(middle, rel=0.01)


def test_learning_rate_is_halved_in_steps(images: Path) -> None:
    steps = {"schedule": "step", "halve_every": 50, "warmup": 4}
    settings = config(images, iterations=200, optimizer=steps)
    rates = [learning_rate(settings, i) for i in (0, 3, 49, 50, 99, 100, 199)]
    assert rates == pytest.approx([2.5e-4, 1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 1.25e-4])


@pytest.fixture(scope="module")
def larger_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for a patch of 24 pixels at x4."""
    folder = tmp_path_factory.mktemp("larger")
    write_images(folder / "train", [(96, 96), (100, 96)])
    write_images(folder / "val", [(24, 36)])
    return folder


@pytest.mark.parametrize("name", config_names())
def test_every_config_trains(larger_images: Path, tmp_path: Path, name: str) -> None:
    """Two iterations, with patches as small as every network takes: all else is the config's."""
    whole = read_config(name)
    values = whole.model_dump(exclude_none=True)
    stages = [{**stage, "patch_size": 24, "batch_size": 1} for stage in values["stages"]]
    data = {"patch_size": 24, "batch_size": 1}
    small = build_config({**values, "iterations": 2, "data": data, "stages": stages})
    result = train(
        small.with_data([larger_images / "train"], larger_images / "val"), tmp_path / "out"
    )
    assert (result.reason, result.iteration) == ("finished", 2)
    assert math.isfinite(result.best_psnr)


def arguments(images: Path, out: Path, iterations: int) -> list[str]:
    settings = (f"iterations={iterations}", "data.patch_size=8", "data.batch_size=2", "stages=[]")
    settings += ("precision=fp32", "checkpoint_every=5", "validate_every=1000", "log_every=5")
    folders = ("--data", str(images / "train"), "--validation", str(images / "val"))
    options = [word for setting in settings for word in ("--set", setting)]
    return ["train", "--config", "pan_x2", *folders, "--out", str(out), *options]


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("waited for a minute")


def test_a_signal_to_the_whole_group_lets_the_run_save(images: Path, tmp_path: Path) -> None:
    """As `timeout` and schedulers send it: also to the processes that read files."""
    command = [sys.executable, "-m", "sruplift", *arguments(images, tmp_path / "run", 10_000)]
    command += ["--set", "data.cache=none", "--set", "data.workers=2"]
    pipes = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        wait_for((tmp_path / "run" / "checkpoint.pt").exists, process)
        os.killpg(process.pid, signal.SIGTERM)
        _, messages = process.communicate(timeout=60)
    assert process.returncode == 0, messages
    assert "stopped by a signal, go on with --resume" in messages
    assert (tmp_path / "run" / "last.safetensors").exists()


@pytest.mark.parametrize("trouble", ["diverges", "damaged image"])
def test_a_run_that_fails_ends_with_the_processes_that_read_files(
    images: Path, tmp_path: Path, trouble: str
) -> None:
    shutil.copytree(images / "train", tmp_path / "train")
    command = [sys.executable, "-m", "sruplift", *arguments(images, tmp_path / "run", 10_000)]
    command += ["--set", "data.cache=none", "--set", "data.workers=2"]
    if trouble == "diverges":
        command += ["--set", "optimizer.name=adam", "--set", "optimizer.learning_rate=1e30"]
        command += ["--set", "optimizer.warmup=0"]
    else:
        command[command.index(str(images / "train"))] = str(tmp_path / "train")
        for path in (tmp_path / "train").iterdir():
            path.write_bytes(path.read_bytes()[:-100])
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    words = "the loss is" if trouble == "diverges" else "cannot read the image"
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("sruplift: "))
    assert words in said
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 25 iterations by the command, on one thread."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    command = [sys.executable, "-m", "sruplift", *arguments(images, folder, 25)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, env=environment, timeout=120, check=False).returncode == 0
    return folder


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_from_outside(
    images: Path, undisturbed: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """SIGTERM and Ctrl-C save and end cleanly; SIGKILL leaves the checkpoint before. All resume."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "sruplift", *arguments(images, killed, 25)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for((killed / "checkpoint.pt").exists, process)
        process.send_signal(how)
        _, messages = process.communicate(timeout=60)
    assert "Traceback" not in messages
    expected = {signal.SIGTERM: 0, signal.SIGINT: 130}.get(how, -how)
    assert process.returncode == expected
    saved = {signal.SIGTERM: "stopped by a signal", signal.SIGINT: "interrupted, go on"}
    assert saved.get(how, "") in messages
    assert not list(killed.glob(".*part"))
    resumed = subprocess.run([*command, "--resume"], env=environment, timeout=120, check=False)
    assert resumed.returncode == 0
    assert same_weights(undisturbed, killed)


@pytest.mark.parametrize("model", ["pan", "srram"])
def test_a_batch_in_parts_is_the_batch(images: Path, tmp_path: Path, model: str) -> None:
    for parts in (1, 2, 4):
        settings = config(
            images,
            model=model,
            log_every=1,
            data__batch_size=4,
            data__accumulate=parts,
            optimizer={"name": "muon", "warmup": 2, "clip_norm": 0.5},
        )
        train(settings, tmp_path / str(parts))
    whole, *others = (log(tmp_path / str(parts)) for parts in (1, 2, 4))
    for other in others:
        losses = [[float(row["loss"]) for row in rows] for rows in (whole, other)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    with pytest.raises(ConfigError, match="shared evenly by 1 processes in 4 parts"):
        train(config(images, data__accumulate=4), tmp_path / "uneven")


@pytest.mark.parametrize("resume", [False, True])
def test_what_cannot_begin_leaves_no_folder(images: Path, tmp_path: Path, resume: bool) -> None:
    out = tmp_path / "run"
    settings = config(images, model="pan" if resume else "unknown")
    with pytest.raises(SrupliftError, match="no checkpoint" if resume else "unknown model"):
        train(settings, out, resume=resume)
    assert not out.exists()
