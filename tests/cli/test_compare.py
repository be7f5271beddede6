"""``sruplift compare``: tables, JSON and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reports import make_report
from typer.testing import CliRunner, Result

from sruplift.cli.main import make_app
from sruplift.errors import ComparisonError, UsageError
from sruplift.reporting import as_json


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, psnr in zip(paths, ((30, 31, 33), (29.5, 30, 31)), strict=True):
        path.write_text(as_json([make_report(psnr=psnr)]))
    return str(paths[0]), str(paths[1])


def run(*arguments: str) -> Result:
    return CliRunner().invoke(make_app(), ["compare", *arguments])


def test_table(files: tuple[str, str]) -> None:
    result = run(*files)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    (row,) = [words for words in lines if words[:2] == ["Set5", "PSNR"]]
    assert row[2:] == ["31.33", "30.17", "+1.167", "0.2500", "3/0/0", "0.2500"]
    assert "a: pan x4, sha256 abababababab…, cpu fp32" in result.stdout
    assert "image_1.png" not in result.stdout


def test_the_table_fits_on_a_terminal_of_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # As if there were a terminal.
    monkeypatch.setenv("COLUMNS", "80")
    for name, better in (("a", 0.2), ("b", 0.0)):
        psnr = [31.0 + index / 100 + better * (index > 11) for index in range(100)]
        report = make_report(psnr=psnr, dataset="BSD100")
        (tmp_path / f"{name}.json").write_text(as_json([report]))
    result = run(str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert "100 images" in result.stdout
    (row,) = (line for line in result.stdout.splitlines() if "PSNR" in line)
    assert "88/0/12" in row
    assert row.count("<0.0001") == 2
    assert "…" not in result.stdout.replace("abababababab…", "")


@pytest.mark.parametrize("part", ["", "#pan_x4"])
def test_a_report_is_not_written_over(files: tuple[str, str], part: str) -> None:
    before = Path(files[1]).read_text()
    result = run(files[0], files[1] + part, "--json", files[1])
    assert isinstance(result.exception, UsageError)
    assert "is an input and would be overwritten" in str(result.exception)
    assert Path(files[1]).read_text() == before


def test_a_report_with_a_number_sign_in_its_name_is_not_written_over(
    files: tuple[str, str], tmp_path: Path
) -> None:
    path = Path(files[0]).rename(tmp_path / "run#1.json")
    before = path.read_text()
    result = run(str(path), files[1], "--json", str(path))
    assert "is an input and would be overwritten" in str(result.exception)
    assert path.read_text() == before


def test_a_table_is_not_written_under_a_pictures_name(
    files: tuple[str, str], tmp_path: Path
) -> None:
    result = run(*files, "--json", str(tmp_path / "photo.PNG"))
    assert isinstance(result.exception, UsageError)
    assert "named like a picture" in str(result.exception)


def test_it_may_be_asked_for_as_a_part_of_eval(files: tuple[str, str]) -> None:
    result = CliRunner().invoke(make_app(), ["eval", "compare", *files])
    assert result.exit_code == 0, result.output
    assert result.stdout == run(*files).stdout


def test_fits_a_terminal_of_80_columns(files: tuple[str, str]) -> None:
    lines = run(*files).stdout.splitlines()
    rows = [line for line in lines if "PSNR" in line or "SSIM" in line or "[" in line]
    assert len(rows) == 4
    assert max(len(row.rstrip()) for row in rows) <= 80


def test_every_image_on_request(files: tuple[str, str]) -> None:
    lines = [line.split() for line in run(*files, "--images").stdout.splitlines()]
    assert ["image_1.png", "+1.0000", "+0.03000"] in lines


def test_json_on_stdout_is_alone_there(files: tuple[str, str], tmp_path: Path) -> None:
    result = run(*files, "--json", "-")
    data = json.loads(result.stdout)
    assert data["datasets"][0]["metrics"]["psnr_y"]["mean_difference"] == pytest.approx(3.5 / 3)
    assert "Set5" in result.stderr
    target = tmp_path / "c.json"
    run(*files, "--json", str(target))
    assert json.loads(target.read_text()) == data


def test_a_refusal_writes_nothing(files: tuple[str, str], tmp_path: Path) -> None:
    Path(files[1]).write_text(as_json([make_report(scale=2)]))
    target = tmp_path / "c.json"
    result = run(*files, "--json", str(target))
    assert isinstance(result.exception, ComparisonError)
    assert "different scales: x4 and x2" in str(result.exception)
    assert result.stdout == ""
    assert not target.exists()
