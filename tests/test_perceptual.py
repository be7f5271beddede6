"""The adapter of pyiqa, with a stand-in in its place; the real one needs downloads."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pyiqa_stand_in
import pytest
import torch

from sruplift.errors import NumericalError, SrupliftError, UsageError
from sruplift.perceptual import Perceptual, PerceptualMetric

SR, HR = torch.full((1, 3, 8, 9), 0.75), torch.full((1, 3, 8, 9), 0.5)


def test_with_and_without_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pyiqa_stand_in.install(monkeypatch)
    perceptual = Perceptual(["lpips", "niqe", "lpips", "musiq"])
    assert perceptual.metrics == (
        PerceptualMetric("lpips", True),
        PerceptualMetric("niqe", True),
        PerceptualMetric("musiq", False),
    )
    assert perceptual.measure(SR, HR) == {"lpips": 0.25, "niqe": 0.75, "musiq": 0.75}
    ((first, second),) = module.made["lpips"].seen
    assert torch.equal(first, SR)
    assert torch.equal(second, HR)
    assert perceptual.version == "0.0.stand-in"


def test_what_it_prints_is_not_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pyiqa_stand_in.install(monkeypatch)
    Perceptual(["lpips"]).measure(SR, HR)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Loading pretrained model lpips" in captured.err


def test_without_pyiqa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(UsageError, match=r"need pyiqa: pip install 'sruplift\[perceptual\]'$"):
        Perceptual(["lpips"])


def test_a_pyiqa_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pyiqa.py").write_text("raise RuntimeError('operator nms does\\nnot exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    with pytest.raises(UsageError, match=r"cannot be imported: operator nms does not exist$"):
        Perceptual(["lpips"])


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    pyiqa_stand_in.install(monkeypatch)
    with pytest.raises(UsageError, match="no metric 'lpisp'; did you mean 'lpips'"):
        Perceptual(["lpisp"])


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pyiqa_stand_in.install(monkeypatch)

    def fail(*_: object, **__: object) -> None:
        raise OSError("Max retries\nexceeded")

    module.create_metric = fail
    with pytest.raises(SrupliftError, match="metric niqe ready: Max retries exceeded"):
        Perceptual(["niqe"])


@pytest.mark.parametrize(
    ("result", "words"), [(math.nan, "niqe gave nan"), (None, "niqe failed: ")]
)
def test_what_is_no_number(
    monkeypatch: pytest.MonkeyPatch, result: float | None, words: str
) -> None:
    pyiqa_stand_in.install(monkeypatch)
    perceptual = Perceptual(["niqe"])
    monkeypatch.setattr(pyiqa_stand_in.Metric, "__call__", lambda *_: result)
    with pytest.raises(NumericalError, match=words):
        perceptual.measure(SR, HR)
