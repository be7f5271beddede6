"""Which networks are measured on what, and what is said of those that are not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import photo_like
from PIL import Image

from sruplift import suite as module
from sruplift.errors import DatasetError, UsageError, WeightsError
from sruplift.evaluate import prepare
from sruplift.manifest import Manifest, read_manifest
from sruplift.results import EvalOptions
from sruplift.suite import Suite, evaluate_suite, plan_suite


def networks(suite: Suite) -> list[tuple[str, int]]:
    return [(run.model, run.scale) for run in suite.runs]


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of pan x2 and x4, and of a2n x4."""
    pan, *_ = read_manifest().weights
    entries = (
        pan,
        dataclasses.replace(pan, scale=4),
        dataclasses.replace(pan, model="a2n", scale=4),
    )
    monkeypatch.setattr(module, "read_manifest", lambda: Manifest(None, entries))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What passes for Set5 and Set14."""
    for name, count in (("Set5", 5), ("Set14", 14)):
        folder = tmp_path / "root" / name
        folder.mkdir(parents=True)
        for index in range(count):
            pixels = photo_like(24, 26, seed=index).mul(255).round().to(torch.uint8)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return tmp_path / "root"


@pytest.mark.usefixtures("released")
class TestNetworks:
    def test_every_model_at_every_scale_in_the_order_asked_for(self) -> None:
        suite = plan_suite(["Set5"], ["bicubic", "pan"], [4, 2, 4])
        assert networks(suite) == [("bicubic", 4), ("bicubic", 2), ("pan", 4), ("pan", 2)]
        assert suite.notes == ()

    def test_all_leaves_out_what_has_no_weights_and_says_so(self) -> None:
        suite = plan_suite(["Set5"], ["all"], [2, 3, 4])
        assert networks(suite) == [("pan", 2), ("pan", 4), ("a2n", 4)]
        assert suite.notes == ("left out: pan x3, a2n x2, a2n x3 (no released weights yet)",)

    def test_all_with_a_baseline_beside_it(self) -> None:
        suite = plan_suite(["Set5"], ["all", "bicubic"], [4])
        assert networks(suite) == [("pan", 4), ("a2n", 4), ("bicubic", 4)]

    def test_all_of_nothing(self) -> None:
        with pytest.raises(WeightsError, match="no released weights yet of pan x3, a2n x3"):
            plan_suite(["Set5"], ["all"], [3])

    def test_several_that_were_named_are_refused_in_one_sentence(self) -> None:
        with pytest.raises(WeightsError, match="yet of srram x2, srram x4, maffsrn x2, maf"):
            plan_suite(["Set5"], ["srram", "pan", "maffsrn"], [2, 4])

    def test_one_that_was_named_is_explained_when_it_is_looked_for(self) -> None:
        (run,) = plan_suite(["Set5"], ["hpinet-m"], [4]).runs
        with pytest.raises(WeightsError, match="hpinet-m x4 yet: name a file with --weights"):
            prepare(run)

    @pytest.mark.parametrize(
        ("models", "scales", "message"),
        [
            (["pan", "pam"], [4], "unknown model 'pam'; did you mean 'pan'"),
            (["pan"], [4, 8], r"no scale 8 \(valid: 2, 3, 4\)"),
            (["bicubic"], [8], "bicubic has no scale 8"),
            (["srram-l"], [4], r"no scale 4 \(valid: 2\)"),
        ],
    )
    def test_names(self, models: list[str], scales: list[int], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            plan_suite(["Set5"], models, scales)

    def test_weights_are_of_one_network(self) -> None:
        (run,) = plan_suite(["Set5"], ["srram"], [3], weights="mine.safetensors").runs
        assert run == EvalOptions(("Set5",), "srram", 3, "mine.safetensors")
        for models, scales in ((["all"], [4]), (["pan", "a2n"], [4]), (["pan"], [2, 4])):
            with pytest.raises(UsageError, match="name one model and one scale"):
                plan_suite(["Set5"], models, scales, weights="mine.safetensors")


class TestDatasets:
    def test_all_below_a_root_leaves_out_what_is_not_there(self, root: Path) -> None:
        suite = plan_suite(["all"], ["bicubic"], [2], data_root=root)
        assert suite.runs[0].datasets == ("Set5", "Set14")
        assert suite.notes == (f"left out: BSD100, Urban100, Manga109 (not in {root})",)

    def test_all_without_a_root_is_what_can_be_downloaded(self) -> None:
        suite = plan_suite(["all"], ["bicubic"], [2])
        assert suite.runs[0].datasets == ("Set5", "Set14", "BSD100", "Urban100")
        (note,) = suite.notes
        assert note.startswith("left out: Manga109 (not free to download")

    def test_each_once_whatever_it_is_called(self, root: Path) -> None:
        names = ["set14", "all", "SET5", "b100"]
        suite = plan_suite(names, ["bicubic"], [2], data_root=root)
        assert suite.runs[0].datasets == ("Set14", "Set5", "BSD100")

    def test_an_incomplete_one_is_not_passed_over(self, root: Path) -> None:
        (root / "Set14" / "7.png").unlink()
        suite = plan_suite(["all"], ["bicubic"], [2], data_root=root)
        with pytest.raises(DatasetError, match="has 13 images, Set14 has 14"):
            evaluate_suite(suite)

    def test_nothing_below_the_root(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"no benchmark in .*Set5, Set14, BSD100"):
            plan_suite(["all"], ["bicubic"], [2], data_root=tmp_path)


def test_a_report_for_each_network(root: Path) -> None:
    told: list[tuple[str, int, int]] = []
    suite = plan_suite(["Set5"], ["bicubic"], [2, 3], data_root=root)
    two, three = evaluate_suite(suite, lambda *news: told.append(news))
    assert (two.options.scale, three.options.scale) == (2, 3)
    assert two.datasets[0].mean.psnr_y > three.datasets[0].mean.psnr_y
    assert ("bicubic x2 Set5", 0, 5) in told
    assert told[-1] == ("bicubic x3 Set5", 5, 5)


def test_everything_is_looked_for_before_anything_is_measured(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure", None)
    suite = plan_suite(["Set5"], ["bicubic", "hpinet-m"], [4], data_root=root)
    with pytest.raises(WeightsError, match="hpinet-m x4"):
        evaluate_suite(suite)
