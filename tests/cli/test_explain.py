"""``sruplift explain``: a sheet, a table, sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pictures import bilinear_pan, photo
from PIL import Image as Pillow
from typer.testing import CliRunner, Result

from sruplift.cli.main import make_app
from sruplift.errors import ImageError, UsageError

QUICK = ("--steps", "2", "--device", "cpu", "--context", "16")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Pillow.fromarray(photo(30, 40)).save(path, quality=95)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(bilinear_pan(tmp_path_factory.mktemp("weights")))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), ["explain", *map(str, arguments)])


def test_a_sheet_beside_the_photo_and_a_table(source: Path, weights: str) -> None:
    result = run(source, "--window", "60,48,16", "-w", weights, *QUICK)
    assert result.exit_code == 0, result.output
    assert "window 16x16 at 60,48 of the result, x4" in result.stdout
    assert "crop 16x16 at 9,6 of the input" in result.stdout
    (row,) = [line.split() for line in result.stdout.splitlines() if line.startswith(" pan")]
    index, gini, reach = (float(cell) for cell in row[-3:])
    assert index == pytest.approx(100 * (1 - gini), abs=1e-3)
    assert reach == 1
    sheet = source.with_name("photo_pan_x4_lam.png")
    assert f"{source} -> {sheet}" in result.stderr
    with Pillow.open(sheet) as picture:
        assert picture.format == "PNG"
        assert picture.width > 4 * 448


@pytest.mark.parametrize("option", ["-o", "--json"])
def test_the_photo_is_not_written_over(source: Path, weights: str, option: str) -> None:
    before = source.read_bytes()
    other = source.parent / "." / source.name
    result = run(
        source, "--window", "60,48,16", "-w", weights, *QUICK, "--overwrite", option, other
    )
    assert isinstance(result.exception, UsageError)
    assert "is an input and would be overwritten" in str(result.exception)
    assert source.read_bytes() == before


def test_numbers_that_exist_are_replaced_with_overwrite_only(
    source: Path, tmp_path: Path, weights: str
) -> None:
    numbers = tmp_path / "n.json"
    numbers.write_text("mine")
    arguments = (source, "--window", "60,48,16", "-w", weights, *QUICK, "--json", numbers)
    result = run(*arguments)
    assert isinstance(result.exception, UsageError)
    assert numbers.read_text() == "mine"
    assert run(*arguments, "--overwrite").exit_code == 0
    assert json.loads(numbers.read_text())["networks"]


def test_networks_side_by_side(source: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "s.png"
    arguments = ("--window", "60,48,16", "-m", "pan", "-m", "maffsrn", "-o", sheet)
    result = run(source, *arguments, *QUICK, "--json", "-")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert [each["model"] for each in data["networks"]] == ["pan", "maffsrn"]
    assert all(0 < each["diffusion_index"] < 100 for each in data["networks"])
    assert data["crop"] == {"x": 9, "y": 6, "width": 16, "height": 16}
    assert data["output"] == str(sheet)
    assert "diffusion index" in result.stderr
    with Pillow.open(sheet) as picture:
        assert picture.height > 2 * 448


def test_json_into_a_file(source: Path, weights: str, tmp_path: Path) -> None:
    target = tmp_path / "numbers.json"
    result = run(source, "--window", "60,48,16", "-w", weights, *QUICK, "--json", target)
    assert result.exit_code == 0, result.output
    assert json.loads(target.read_text())["path"]["steps"] == 2
    assert "diffusion index" in result.stdout


@pytest.mark.parametrize(
    ("window", "words"),
    [
        ("abc", "--window is x,y,size in pixels of the result, such as 120,80,16, not 'abc'"),
        ("1,2", "not '1,2'"),
        ("1,2,3.5", "not '1,2,3.5'"),
        ("1,2,16,4", "not '1,2,16,4'"),
        ("0,0,3", "at least 4 pixels"),
        ("0,0,-16", "at least 4 pixels"),
        ("150,0,16", "150,0,16 is not inside the result, which has 160x120 pixels at x4"),
        ("-4,0,16", "-4,0,16 is not inside the result"),
        ("0,0,68", "covers 17 pixels of the input, more than the context of 16"),
    ],
)
def test_windows_that_cannot_be(source: Path, window: str, words: str) -> None:
    result = run(source, f"--window={window}", *QUICK)
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)
    assert result.exception.exit_code == 2
    assert [path.name for path in source.parent.iterdir()] == ["photo.jpg"]


def test_a_sheet_that_exists_is_left_alone(source: Path, weights: str, tmp_path: Path) -> None:
    sheet = tmp_path / "s.png"
    sheet.write_bytes(b"mine")
    arguments = (source, "--window", "60,48,16", "-w", weights, "-o", sheet, *QUICK)
    result = run(*arguments)
    assert isinstance(result.exception, ImageError)
    assert "--overwrite" in str(result.exception)
    assert sheet.read_bytes() == b"mine"
    assert run(*arguments, "--overwrite").exit_code == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_transparency_is_spoken_of(tmp_path: Path, weights: str) -> None:
    source = tmp_path / "glass.png"
    Pillow.fromarray(photo(30, 40)).convert("RGBA").save(source)
    result = run(source, "--window", "60,48,16", "-w", weights, *QUICK)
    assert result.exit_code == 0, result.output
    assert "its transparency is left out of account" in result.stderr


def test_help_says_whose_pixels() -> None:
    text = " ".join(run("--help").stdout.replace("│", " ").split())
    assert "in pixels of the result, not of the input" in text
