"""Fixtures that more than one test file uses."""

from __future__ import annotations

import os

# Threads that wait for each other on a busy machine make small tests many times slower. It must
# be set before torch is imported, and holds for the programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fidelity import CELLS, table
from torch import Tensor

from sruplift.datasets import cache_folder
from sruplift.errors import CompilerError
from sruplift.kernels import Arithmetic, Kernels, load_kernels


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """What asks for the shared data is marked so: `-m shared` misses no test of them."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes hands its part of that table to the one that prints it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["fidelity"] = [[*key, cell] for key, cell in CELLS.items()]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The other end of it. One that crashed has nothing to hand over."""
    for name, kind, cell in getattr(node, "workeroutput", {}).get("fidelity", []):
        CELLS[name, kind] = cell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What `test_fidelity.py` found, if it ran."""
    if lines := table():
        terminalreporter.section("what `sruplift upscale` keeps")
        for line in lines:
            terminalreporter.line(line.rstrip())


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared data: benchmarks, oracles, training images. Absent for most people."""
    folder = os.environ.get("SRUPLIFT_SHARED")
    if not folder:
        pytest.skip("SRUPLIFT_SHARED is not set: the shared benchmarks and oracles are not here")
    path = Path(folder)
    assert path.is_dir(), f"SRUPLIFT_SHARED names no folder: {path}"
    return path


@pytest.fixture(autouse=True)
def _isolated_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test sees or fills the user's caches, and none reaches the network."""
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.getbasetemp() / "hf-home"))
    monkeypatch.delenv("HF_ASSETS_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.delenv("SRUPLIFT_HUB_REPO", raising=False)


@pytest.fixture(autouse=True)
def _ordinary_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that a test runs in this process does not change how all later tests get memory."""
    monkeypatch.setattr("sruplift.heap._tell_glibc", lambda: False)


@pytest.fixture
def kernels() -> Kernels:
    """Our own kernels, where this machine can compile them."""
    try:
        return load_kernels(cache_folder("compiled"))
    except CompilerError as error:
        if "computes something else" in str(error):
            raise
        pytest.skip(f"no kernels here: {error}")


@pytest.fixture(params=["bf16", "float32"])
def arithmetic(request: pytest.FixtureRequest, kernels: Kernels) -> Arithmetic:
    """What programs compute in; in bf16 also where the processor does not, slowly."""
    return Arithmetic(kernels, half=request.param == "bf16")


def without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user whom the system does not know, and who has set nothing."""

    def unknown(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("HF_HOME", "HF_ASSETS_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)


def photo_like(height: int, width: int, *, seed: int = 0) -> Tensor:
    """A (3, H, W) float image in [0, 1] with gradients, edges and texture: harsher than a photo."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = 0.5 + 0.25 * np.sin(x / 7 + random.uniform(0, 6)) + 0.25 * np.cos(y / 5 + x / 11)
    disc = ((x - width / 2) ** 2 + (y - height / 2) ** 2) < (min(height, width) / 4) ** 2
    channels = [np.where(disc, 1 - waves * share, waves * share) for share in (1.0, 0.8, 0.6)]
    noise = random.normal(0, 0.02, (3, height, width))
    return torch.from_numpy(np.clip(np.stack(channels) + noise, 0, 1).astype(np.float32))
