"""A training run of several processes is the run of one, and ends when it loses one of them."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from several import LIMIT, PLAIN, command_line, free_port, started, train_each
from test_data import write_images

from sruplift import loader
from sruplift.checkpoint import load_checkpoint
from sruplift.config import build_config
from sruplift.errors import ConfigError, LostProcessError
from sruplift.loader import Patches, Validation, split_files
from sruplift.models import create_model
from sruplift.processes import Processes, watch
from sruplift.train import train
from sruplift.weights import save_weights

# What each kind of run changes; the losses of one and of two processes are compared.
KINDS: dict[str, dict[str, Any]] = {
    "adam": {},
    "taught": {"teacher": {"weights": "pan_x2"}},
    "muon, accumulated": {
        "data": {"accumulate": 2},
        "optimizer": {"name": "muon", "clip_norm": 0.5},
    },
    "scales, accumulated": {"scale": None, "scales": [2, 3, 4], "data": {"accumulate": 2}},
    "files, stages": {
        "data": {"cache": "none", "workers": 0},
        "loss": "charbonnier",
        "stages": [{"until": 0.5, "patch_size": 6, "batch_size": 6}],
    },
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "train", [(48, 48), (40, 56), (48, 40), (52, 44), (44, 44)])
    write_images(folder / "val", [(32, 40), (36, 32), (40, 32)])
    return folder


def values(images: Path, **changes: Any) -> dict[str, Any]:
    """A config as JSON has it; tables are merged."""
    base: dict[str, Any] = {
        "model": "pan",
        "scale": 2,
        "iterations": 6,
        "precision": "fp32",
        "validate_every": 3,
        "log_every": 1,
        "data": {
            "train": [str(images / "train")],
            "validation": str(images / "val"),
            "patch_size": 8,
            "batch_size": 4,
        },
        "optimizer": {"warmup": 2},
    }
    for key, value in changes.items():
        base[key] = {**base.get(key, {}), **value} if isinstance(value, dict) else value
    return base


def log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(folder: Path, name: str) -> list[float]:
    return [float(row[name]) for row in log(folder) if row[name]]


@pytest.fixture(scope="module")
def pair(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each kind of run, by two processes."""
    folder = tmp_path_factory.mktemp("pair")
    runs = {folder / kind: values(images, **changes) for kind, changes in KINDS.items()}
    with started(train_each, [runs], folder) as members:
        assert [member.end() for member in members] == [(0, ""), (0, "")]
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(images: Path, tmp_path: Path, pair: Path, kind: str) -> None:
    config = build_config(values(images, **KINDS[kind]))
    result = train(config, tmp_path)
    assert load_checkpoint(pair / kind / "checkpoint.pt").iteration == config.iterations
    name = "last_x3.safetensors" if config.scales else "last.safetensors"
    with safe_open(pair / kind / name, "pt") as file:
        assert file.metadata()["processes"] == "2"
    one, two = (column(folder, "loss") for folder in (tmp_path, pair / kind))
    assert len(one) == config.iterations
    assert one == pytest.approx(two, abs=1e-4)
    one, two = (column(folder, "val_psnr") for folder in (tmp_path, pair / kind))
    assert max(one) == pytest.approx(result.best_psnr, abs=1e-3)
    assert one == pytest.approx(two, abs=1e-3)
    weights, others = load_file(tmp_path / name), load_file(pair / kind / name)
    assert all(torch.allclose(weights[key], others[key], atol=1e-4) for key in weights)


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_every_sample_is_one_process_s(images: Path, cache: str) -> None:
    stages = [{"until": 0.5, "batch_size": 8}]
    config = build_config(values(images, data={"cache": cache, "workers": 0}, stages=stages))
    files, device = split_files(config)[0], torch.device("cpu")
    whole = Patches(config, files, device).batches(0, 0)
    shares = [Patches(config, files, device, rank, 4, 4).batches(0, 0) for rank in range(4)]
    for size in (8, 8, 8, 4):
        lr, hr, count = next(whole)
        parts = [next(share) for share in shares]
        assert (count, len(lr)) == (size, size)
        assert all((n, len(part)) == (size, size // 4) for part, _, n in parts)
        assert torch.equal(torch.cat([part for part, _, _ in parts]), lr)
        assert torch.equal(torch.cat([part for _, part, _ in parts]), hr)


def test_validation_images_are_shared_out(images: Path) -> None:
    config = build_config(values(images))
    files, device = split_files(config)[1], torch.device("cpu")
    shares = [Validation(config, files, device, rank, 5) for rank in range(5)]
    assert [len(share.images) for share in shares] == [1, 1, 1, 0, 0]
    assert {share.count for share in shares} == {3}


def test_processes_share_the_memory_of_a_machine(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build_config(values(images))
    files, device = split_files(config)[0], torch.device("cpu")
    pixels = 3 * sum(height * width for height, width in [(48, 48), (40, 56), (48, 40)])
    pixels += 3 * sum(height * width for height, width in [(52, 44), (44, 44)])
    enough = 2 * (pixels + pixels // 4)
    monkeypatch.setattr(loader, "available_memory", lambda _: 3 * enough)
    assert Patches(config, files, device, 0, 2, 2).cache is not None
    assert Patches(config, files, device, 0, 4, 4).cache is None
    assert Patches(config, files, device, 0, 4, 2).cache is not None


def arguments(images: Path, out: Path, *more: str) -> list[str]:
    """`train` for long enough to be stopped in the middle.

    With Adam: Muon's steps are as long in directions that only rounding has.
    """
    settings = ["iterations=30", "data.patch_size=8", "data.batch_size=2", "stages=[]"]
    settings += ["precision=fp32", "checkpoint_every=5", "validate_every=1000", "log_every=5"]
    settings += ["optimizer.name=adam", "optimizer.learning_rate=1e-3"]
    folders = ["--data", str(images / "train"), "--validation", str(images / "val")]
    options = [word for setting in settings for word in ("--set", setting)]
    return ["train", "-c", "pan_x2", *folders, "-o", str(out), *options, *more]


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `arguments` train by two processes at a stretch."""
    folder = tmp_path_factory.mktemp("whole")
    with started(command_line, arguments(images, folder / "run"), folder) as members:
        assert [member.end()[0] for member in members] == [0, 0]
    return folder / "run"


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (signal.SIGKILL, "another process of this run was lost: start all of them again"),
        (signal.SIGSTOP, "did not answer for 4 seconds (--patience): start all of them again"),
    ],
)
def test_a_lost_process_ends_the_run_and_it_goes_on(
    images: Path, tmp_path: Path, whole: Path, how: signal.Signals, sentence: str
) -> None:
    cut = tmp_path / "run"
    lost, witness = (1, 0) if how == signal.SIGKILL else (0, 1)
    with started(command_line, arguments(images, cut, "--patience", "4"), tmp_path) as members:
        deadline = time.monotonic() + LIMIT
        while not (cut / "checkpoint.pt").exists():
            assert time.monotonic() < deadline
            assert all(member.process.is_alive() for member in members)
            time.sleep(0.02)
        os.kill(members[lost].process.pid or 0, how)
        code, said = members[witness].end(60)
    assert code == 1
    assert said.splitlines()[-1].startswith("sruplift: ")
    assert sentence in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not list(cut.glob(".*part"))
    assert 5 <= load_checkpoint(cut / "checkpoint.pt").iteration < 30
    again = arguments(images, cut, "--resume")
    # One process where two were before, too: a machine may be gone for good.
    with started(command_line, again, tmp_path, count=2 if lost else 1) as members:
        assert {member.end()[0] for member in members} == {0}
    assert column(cut, "iteration") == column(whole, "iteration")
    assert column(cut, "loss") == pytest.approx(column(whole, "loss"), abs=1e-4)
    weights, others = (load_file(out / "last.safetensors") for out in (whole, cut))
    # Beside the way that training went. One process adds up in another order than two, of which a
    # processor's rounding leaves up to 4e-4; a batch that is left out makes 0.2, an optimizer that
    # forgets 0.97.
    torch.manual_seed(0)
    start = create_model("pan", 2).state_dict()
    for key, weight in weights.items():
        off = (others[key] - weight).norm() / (weight - start[key]).norm()
        assert off <= (0 if lost else 2e-3)


def test_the_first_process_speaks_for_all(images: Path, tmp_path: Path) -> None:
    for more, code, sentence in (
        (["--max-minutes", "1e-9"], 0, "stopped by --max-minutes at iteration 0 of 30"),
        ([], 2, "holds a run already: go on with --resume"),
        (["--set", "data.batch_size=3"], 2, "3 patches cannot be shared evenly by 2 processes"),
    ):
        with started(command_line, arguments(images, tmp_path / "run", *more), tmp_path) as members:
            (first, said), other = (member.end() for member in members)
        assert first == code
        assert sentence in said
        assert other == (code, "")
    assert not (tmp_path / "run" / "log.csv").read_text().splitlines()[1:]


@pytest.mark.parametrize("what", ["training images", "weights of their teacher"])
def test_machines_with_other_files_are_refused(images: Path, tmp_path: Path, what: str) -> None:
    other: dict[str, Any] = {"teacher": {"weights": str(tmp_path / "{rank}.safetensors")}}
    if what == "training images":
        for folder in ("0", "1"):
            write_images(tmp_path / folder, [(48, 48), (40, 44)])
        (tmp_path / "1" / "0.png").rename(tmp_path / "1" / "2.png")
        other = {"data": {"train": [str(tmp_path / "{rank}")]}}
    else:
        for rank in (0, 1):
            tensors = create_model("pan", 2).state_dict()
            path = tmp_path / f"{rank}.safetensors"
            save_weights(path, tensors, model="pan", scale=2, metadata={})
    runs = {tmp_path / "run": values(images, **other)}
    with started(train_each, [runs], tmp_path) as members:
        ends = [member.end() for member in members]
    assert [code for code, _ in ends] == [1, 1]
    sentence = f"see different {what}: each machine needs the same files under the same names"
    assert all(sentence in said for _, said in ends)


def test_accelerate_launches_two_machines(images: Path, tmp_path: Path) -> None:
    """Both on loopback, each in a folder of its own: only the first machine's gets the run."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_machines=2", "--num_processes=2", "--mixed_precision=no"]
    command += ["--dynamo_backend=no", "--main_process_ip=127.0.0.1"]
    command += [f"--main_process_port={free_port()}"]
    run = ["-m", "sruplift", *arguments(images, Path("run"), "--set", "iterations=10")]
    machines = []
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        process = subprocess.Popen(
            [*command, f"--machine_rank={rank}", *run],
            env={**os.environ, **PLAIN},
            cwd=tmp_path / str(rank),
            stderr=subprocess.PIPE,
            text=True,
        )
        machines.append(process)
    try:
        said = [machine.communicate(timeout=LIMIT)[1] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert not any((tmp_path / "1").iterdir())
    assert column(tmp_path / "0" / "run", "iteration") == [5, 10]
    with safe_open(tmp_path / "0" / "run" / "last.safetensors", "pt") as file:
        assert file.metadata()["processes"] == "2"


def test_only_lost_processes_are_called_so() -> None:
    with pytest.raises(RuntimeError, match="shapes"), watch(1):
        raise RuntimeError("shapes differ")
    with pytest.raises(LostProcessError, match="--resume"), watch(1):
        raise torch.distributed.DistNetworkError("gone")


def test_an_error_alone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = Processes(10)
    assert (processes.count, processes.rank, processes.neighbours) == (1, 0, 1)
    with pytest.raises(ConfigError, match="wrong") as caught, processes.together():
        raise ConfigError("wrong")
    assert not caught.value.said_elsewhere


def test_unconnected_processes_do_not_train_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would take itself for the first, and write to the same folder."""
    Processes(10)  # Accelerate keeps what it found first.
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="started 2 processes"):
        Processes(10)


def test_configs_know_accumulation(images: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.accumulate"):
        build_config(values(images, data={"accumulate": 0}))
