from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sruplift import bench as bench_module
from sruplift.cli import bench
from sruplift.errors import UsageError
from sruplift.models import MODELS

app = typer.Typer()
app.command()(bench.command)
SMALL = ("--size", "40x24", "--runs", "2", "--warm-up", "0", "--device", "cpu", "--scale", "2")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_module, "MATRIX", {"cpu": 64})
    monkeypatch.setattr(bench_module, "PIXELS", 1)
    monkeypatch.setattr(bench_module.time_tiles, "__defaults__", ((96, 128),))
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*SMALL, *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    assert "pan x2: 40x24, 0 + 2 runs\n" in result.stderr
    return result.stdout


def test_json_has_a_row_for_each_network_and_scale() -> None:
    rows = json.loads(run("--model", "pan", "--model", "maffsrn", "--scale", "3", "--json"))
    assert [(row["model"], row["scale"]) for row in rows] == [
        ("pan", 2),
        ("pan", 3),
        ("maffsrn", 2),
        ("maffsrn", 3),
    ]
    for row in rows:
        assert row["size"] == {"height": 24, "width": 40}
        assert row["gflops"] == pytest.approx(2 * row["mult_adds"] / row["seconds"] / 1e9)
        assert row["tiles"] == []


def test_the_table_says_what_was_measured() -> None:
    lines = run().splitlines()
    assert any("input 40x24, cpu" in line for line in lines)
    (row,) = (line for line in lines if line.split()[:2] == ["pan", "x2"])
    assert "261,403" in row
    assert row.rstrip().endswith("%")


def test_the_table_fits_on_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # As if there were a terminal.
    monkeypatch.setenv("COLUMNS", "80")
    slow = bench_module.BenchResult(
        model="hpinet-l",
        scale=4,
        size=(180, 320),
        device="cpu",
        processor="a processor",
        precision="fp32",
        compiled=False,
        threads=2,
        torch="2.13.0",
        runs=9,
        seconds=2.4445,
        low=2.4375,
        high=2.4555,
        peak_memory=172_000_000,
        parameters=1_435_587,
        mult_adds=196_390_000_000,
        matrix_gflops=428.0,
        share=0.65,
    )
    monkeypatch.setattr(bench_module, "bench", lambda *_: slow)
    result = CliRunner().invoke(app, ["-m", "hpinet-l"], catch_exceptions=False)
    assert "2438 to 2456" in result.stdout
    assert "…" not in result.stdout


def test_tiles_are_timed_and_the_fastest_is_kept(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*SMALL, "--tiles"], catch_exceptions=False)
    text = result.stdout
    assert "pan x2: 128x128, " in result.stderr
    path = tmp_path / "sruplift" / "tuning" / "tiles.json"
    (pixels,) = json.loads(path.read_text()).values()
    assert pixels in (96**2, 128**2)
    # The console may break the path into lines.
    assert f"pan x2: tiles of {int(pixels**0.5)} are kept in" in text


@pytest.mark.parametrize("size", ["320", "320x", "axb", "-3x5", "320x180x3", "3.5x2", ""])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(UsageError, match=r"--size is WIDTHxHEIGHT, as 320x180"):
        CliRunner().invoke(app, ["--size", size], catch_exceptions=False)


def test_a_scale_that_no_network_has_is_refused() -> None:
    with pytest.raises(UsageError, match="no network has scale 5 or scale 7"):
        CliRunner().invoke(app, ["-m", "all", "-s", "5", "-s", "7"], catch_exceptions=False)


def test_all_are_all_networks_that_have_the_scale_and_none_twice() -> None:
    others = [(name, 4) for name, spec in MODELS.items() if name != "pan" and 4 in spec.scales]
    assert bench._networks(["pan", "all"], [4]) == [("pan", 4), *others]
    assert ("srram-l", 4) not in others
    assert bench._networks(["srram-l"], [4]) == [("srram-l", 4)]  # Refused, not left out.
