from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from hub_server import HubServer
from released import HUB_REPO, make_release
from typer.testing import CliRunner

from sruplift.cli import models
from sruplift.manifest import Manifest, write_manifest
from sruplift.weights import find_weights

app = typer.Typer()
app.command()(models.command)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_table_shows_what_the_manifest_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_release(tmp_path, monkeypatch, bundled=True)
    row = next(line for line in run().splitlines() if line.split()[:1] == ["pan"])
    assert row.split() == ["pan", "x2", "261,403", "37.50", "-", "-", "7", "Apache-2.0", "bundled"]


def test_the_table_fits_on_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # As if there were a terminal.
    monkeypatch.setenv("COLUMNS", "80")
    shown = run()
    assert "hpinet-s" in shown
    assert "…" not in shown


def test_json_has_every_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = make_release(tmp_path, monkeypatch, bundled=True)
    (row,) = json.loads(run("--json"))
    assert row["sha256"] == release.entry.sha256
    assert row["metrics"]["Set5"] == {"psnr_y": 37.5, "ssim_y": 0.95}
    assert row["status"] == "bundled"
    assert Path(row["path"]) == release.entry.bundled_path


def test_the_status_follows_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = make_release(tmp_path, monkeypatch, bundled=False)
    assert json.loads(run("--json"))[0]["status"] == "not here"
    monkeypatch.setenv("SRUPLIFT_HUB_REPO", HUB_REPO)
    files = {f"model/{HUB_REPO}": {release.entry.file: release.content}}
    with HubServer(files) as server:
        server.use(monkeypatch, tmp_path / "hf")
        assert json.loads(run("--json"))[0]["status"] == "not here"
        assert server.requests == []  # listing never asks the Hub
        find_weights("pan", 2)
    assert json.loads(run("--json"))[0]["status"] == "cached"


def test_nothing_released_is_said_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_release(tmp_path, monkeypatch, bundled=True)
    write_manifest(Manifest())
    result = CliRunner().invoke(app, [])
    assert result.stdout == ""
    assert "No weights have been released yet" in result.stderr
    assert run("--json").strip() == "[]"


class TestComplexity:
    def test_the_table_has_ours_the_papers_and_the_reasons(self) -> None:
        lines = run("--complexity").splitlines()
        rows = {tuple(words[:2]): words[2:] for words in map(str.split, lines) if len(words) > 2}
        assert rows["pan", "x4"] == ["272,419", "28.16", "28.16", "-", "-", "272K", "28.2"]
        ours = ["895,659", "135.81", "47.00", "33.25", "55.56"]
        assert rows["hpinet-m", "x4"] == [*ours, "900K", "124.0", "4", "5"]
        assert rows["hpinet-s", "x2"][-2:] == ["-", "-"]
        assert "1,127K" in rows["srram", "x3"]
        notes = [line for line in lines if line[:3].strip().isdigit()]
        assert [note.split()[:2] for note in notes] == [
            ["1", "MAFFSRN's"],
            ["2", "MAFFSRN's"],
            ["3", "SRRAM"],
            ["4", "HPINet's"],
            ["5", "HPINet's"],
        ]
        assert max(len(line.rstrip()) for line in lines[: -len(notes)]) <= 80

    def test_json_has_exact_counts(self) -> None:
        rows = {
            (row["model"], row["scale"]): row for row in json.loads(run("--complexity", "--json"))
        }
        row = rows["maffsrn", 2]
        total = row["mult_adds"].pop("total")
        assert round(total / 1e9, 3) == 86.072
        assert row["mult_adds"] == {"convolution": total, "linear": 0, "attention": 0}
        assert row["lr_size"] == [360, 640]
        assert row["parameters"] == 402_394
        assert row["paper"] == {
            "parameters_k": 402,
            "mult_adds_g": 77.2,
            "source": "MAFFSRN Table 5",
        }
        (note,) = row["notes"]
        assert "weight normalisation" in note
        assert rows["hpinet-l", 3]["paper"] is None


def test_listing_needs_no_torch() -> None:
    code = (
        "import sys\nfrom sruplift.cli import models, weights\nmodels.command()\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
