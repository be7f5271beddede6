from __future__ import annotations

from pathlib import Path

import pytest
from exports import MISSING, small_network
from typer.testing import CliRunner, Result

from sruplift import export
from sruplift.cli.main import make_app
from sruplift.errors import SrupliftError
from sruplift.manifest import sha256_of


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(make_app(), ["export", "onnx", *map(str, arguments)])


@pytest.fixture
def small_pan(monkeypatch: pytest.MonkeyPatch) -> None:
    """PAN is small, so that its export takes a second."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=MISSING)
    monkeypatch.setattr(export, "load_model", lambda *_: small_network("pan", 3))


@pytest.mark.usefixtures("small_pan")
def test_a_file_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("--scale", "3")
    assert result.exit_code == 0, result.exception
    path = Path("pan_x3.onnx")
    assert list(Path().iterdir()) == [path]
    assert result.stdout == ""
    for words in ("pan_x3.onnx: pan x3, opset 18", sha256_of(path), "licence: Apache-2.0"):
        assert words in result.stderr
    assert "from PyTorch at 3 sizes" in result.stderr


@pytest.mark.usefixtures("small_pan")
def test_a_file_is_replaced_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "pan.onnx"
    path.write_bytes(b"mine")
    refused = run("--scale", "3", "-o", path).exception
    assert isinstance(refused, SrupliftError)
    assert "--overwrite" in str(refused)
    assert path.read_bytes() == b"mine"
    assert run("--scale", "3", "-o", path, "--overwrite").exit_code == 0
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-o", "absent/pan.onnx"), 1, "there is no folder absent"),
        (("-o", "cat.png"), 2, "-o cat.png: name a file that ends in .onnx"),
        (("--model", "hpinet-m"), 2, "HPINet cannot be exported"),
        (("--model", "pam"), 2, "did you mean 'pan'"),
        (("--opset", "9"), 2, "opset must be from 18 to 23, not 9"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    error = run(*arguments).exception
    assert isinstance(error, SrupliftError)
    assert (error.exit_code, words in str(error)) == (code, True), error
    assert not list(tmp_path.iterdir())
