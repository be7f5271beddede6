"""``sruplift upscale``: sizes, previews and sheets as options."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from pictures import photo
from PIL import Image as Pillow

from sruplift.cli.main import run as main


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Pillow.fromarray(photo(8, 12)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def upscale(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sruplift", "upscale", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize(
    ("options", "name", "size"),
    [
        (["-s", "2.5"], "a_pan_x2.5.png", (30, 20)),
        (["--width", "30"], "a_pan_30w.png", (30, 20)),
        (["--height", "30"], "a_pan_30h.png", (45, 30)),
        (["--width", "30", "--height", "30"], "a_pan_30x30.png", (30, 30)),
        (["--max-side", "24"], "a_pan_24max.png", (24, 16)),
        (["--megapixels", "0.0006"], "a_pan_0.0006mp.png", (30, 20)),
    ],
)
def test_sizes(
    monkeypatch: pytest.MonkeyPatch,
    picture: Path,
    options: list[str],
    name: str,
    size: tuple[int, int],
) -> None:
    assert upscale(monkeypatch, picture, *options) == 0
    with Pillow.open(picture.with_name(name)) as result:
        assert result.size == size


def test_a_dry_run_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], picture: Path
) -> None:
    assert upscale(monkeypatch, picture, "--dry-run", "-o", f"{picture.parent}/new/") == 0
    first, last = capsys.readouterr().out.splitlines()
    assert re.search(r"a\.png 12x8 -> .*a_pan_x4\.png 48x32, x4, 1 tile, about .* s and", first)
    assert re.fullmatch(r"1 to do, about \d+ s", last)
    assert [each.name for each in picture.parent.iterdir()] == ["a.png"]


def test_a_dry_run_refuses_what_a_run_does(
    monkeypatch: pytest.MonkeyPatch, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = picture.with_name("sheet.png")
    sheet.touch()
    output = picture.with_name("out.png")
    for arguments, said in (
        (("-o", picture.parent / "none" / "x.png"), "there is no folder"),
        (("-o", output, "--compare", sheet), "sheet.png exists"),
        (("-o", output, "--compare", picture.parent / "none" / "s.png"), "there is no folder"),
    ):
        for dry in ((), ("--dry-run",)):
            assert upscale(monkeypatch, picture, *arguments, *dry) == 1
            assert said in capsys.readouterr().err


def test_a_dry_run_tells_what_would_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], picture: Path
) -> None:
    assert upscale(monkeypatch, picture, picture.with_name("none.png"), "--dry-run") == 1
    captured = capsys.readouterr()
    assert "none.png: there is no such file" in captured.err
    assert captured.out.splitlines()[-1].startswith("1 to do")


def test_a_sheet_is_for_one_image(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], picture: Path
) -> None:
    sheet = picture.with_name("sheet.png")
    Pillow.fromarray(photo(8, 12)).save(picture.with_name("b.png"))
    both = (picture, picture.with_name("b.png"))
    assert upscale(monkeypatch, *both, "--compare", sheet) == 2
    assert "--compare is for one image, not 2" in capsys.readouterr().err
    before = picture.read_bytes()
    result = picture.with_name("result.png")
    for taken, kind in ((picture, "an input"), (picture.parent / "." / result.name, "the result")):
        named = (picture, "-o", result, "--compare", taken, "--overwrite")
        assert upscale(monkeypatch, *named) == 2
        assert f"is {kind} and would be overwritten" in capsys.readouterr().err
    assert upscale(monkeypatch, picture, "--compare", sheet.with_suffix(".txt")) == 2
    assert "cannot write '.txt' images" in capsys.readouterr().err
    assert picture.read_bytes() == before
    assert not result.exists()
    assert upscale(monkeypatch, picture, "--compare", sheet) == 0
    assert sheet.exists()
