"""``sruplift batch`` on a local Ray, killed and run again; what it says where it cannot begin."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from clusters import encoded
from pictures import bilinear_pan

import sruplift
from sruplift.cli.main import run as main
from sruplift.cluster import job
from sruplift.cluster.job import device_of
from sruplift.cluster.planning import ClusterOptions
from sruplift.errors import SrupliftError

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(sruplift.__file__).parent.parent)}
BROKEN = "bad.png"


@pytest.fixture
def short_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where a killed job leaves its Ray's folder: the path of a socket in it has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="sr", ignore_cleanup_errors=True) as folder:
        monkeypatch.setitem(ENVIRONMENT, "TMPDIR", folder)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bilinear_pan(tmp_path_factory.mktemp("weights"), 2)


def make_images(folder: Path, count: int) -> None:
    folder.mkdir()
    for index in range(count):
        (folder / f"{index}.png").write_bytes(encoded(index))
    (folder / BROKEN).write_bytes(encoded()[:60])


def records(out: Path) -> list[dict[str, str]]:
    text = "".join(path.read_text() for path in sorted(out.glob("_report/*.jsonl")))
    return [json.loads(line) for line in text.splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


@pytest.mark.usefixtures("short_folder")
def test_killed_and_run_again(tmp_path: Path, weights: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'sruplift[ray]'")
    make_images(tmp_path / "in", 9)
    what = ["--scale", "2", "--weights", str(weights), "--device", "cpu"]
    plain = [sys.executable, "-m", "sruplift", "upscale", "in", "-o", "plain/", *what]
    batch = [sys.executable, "-m", "sruplift", "batch", "in", "out", *what, "--workers", "1"]
    batch += ["--cores-per-worker", "1"]
    where = {"cwd": tmp_path, "env": ENVIRONMENT}
    subprocess.run(plain, **where, capture_output=True, check=False, timeout=120)  # type: ignore[call-overload]
    running = subprocess.Popen(batch, **where, stderr=subprocess.PIPE)  # type: ignore[call-overload]
    started = time.monotonic()
    while not contents(tmp_path / "out") and time.monotonic() - started < 300:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    first = set(contents(tmp_path / "out"))
    assert first
    again = subprocess.run(batch, **where, capture_output=True, text=True, check=False, timeout=240)  # type: ignore[call-overload]
    assert again.returncode == 1
    assert again.stdout == ""
    said = again.stderr.splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"sruplift: cannot read {tmp_path / 'in' / BROKEN}: ")
    assert said[1].split(" in ")[0].endswith("skipped" if "skipped" in said[1] else "failed")
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")
    assert len(contents(tmp_path / "out")) == 9
    assert Counter(each["status"] for each in records(tmp_path / "out")) == {"done": 9, "failed": 1}
    assert not [*(tmp_path / "out").rglob("*.part"), *(tmp_path / "out").rglob("*.begun")]


def outcome_of(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sruplift", "batch", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_without_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert outcome_of(monkeypatch, tmp_path / "in", tmp_path / "out") == 2
    expected = 'sruplift: sruplift batch needs Ray: pip install "sruplift[ray]"\n'
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("torch", "auto", "auto")),
        (["--device", "cpu", "--compile", "off"], ("torch", "off", "cpu")),
        (["--backend", "openvino"], ("openvino", "auto", "cpu")),
    ],
)
def test_backend_and_compiler_are_told_to_workers_and_where_they_run_to_ray(
    options: list[str],
    expected: tuple[str, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded())
    told = []

    def run_on_ray(_: object, batch: ClusterOptions, *__: object) -> NoReturn:
        upscale = batch.upscale
        told.append((upscale.backend, upscale.compile_mode, device_of(upscale)))
        raise SrupliftError("enough")

    monkeypatch.setattr(job, "import_ray", lambda **_: None)
    monkeypatch.setattr(job, "run_on_ray", run_on_ray)
    assert outcome_of(monkeypatch, tmp_path / "in", tmp_path / "out", *options) == 1
    assert "sruplift: enough" in capsys.readouterr().err.splitlines()
    assert told == [expected]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "0"], "--workers"),
        (["--scale", "65"], "at most 64"),
        (["--model", "pam"], "did you mean 'pan'"),
        (["--device", "cuda:1"], "without a number"),
        (["--backend", "onxruntime"], "did you mean 'onnxruntime'"),
        (["--backend", "onnxruntime", "--device", "cuda"], "runs on the CPU"),
        (["--compile", "never"], "unknown compile mode"),
        (["--overwrite", "--skip-existing"], "contradict"),
        (["--output-template", "{index}{suffix}"], "{index} may differ"),
        (["--address", "127.0.0.1:9"], "Ray cannot be joined at 127.0.0.1:9"),
    ],
)
def test_what_cannot_be_meant(
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'sruplift[ray]'")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded())
    assert outcome_of(monkeypatch, tmp_path / "in", tmp_path / "out", *options) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert not (tmp_path / "out").exists()
