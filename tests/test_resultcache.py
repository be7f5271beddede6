"""What is found again, what is not, and an evaluation that goes on where it was interrupted."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pyiqa_stand_in
import pytest
import torch
from conftest import photo_like, without_home
from PIL import Image
from torch import Tensor

from sruplift import resultcache
from sruplift.datasets import cache_folder
from sruplift.engine import Engine
from sruplift.errors import DatasetError
from sruplift.evaluate import evaluate
from sruplift.models import create_model
from sruplift.resultcache import ResultCache
from sruplift.results import EvalOptions, Report
from sruplift.weights import save_weights

KEY = {"model": "pan", "tile": None, "metrics": ("a", "b"), "overlap": 3}


@pytest.fixture
def cache(tmp_path: Path) -> ResultCache:
    return ResultCache(tmp_path / "cache")


def files(cache: ResultCache) -> list[Path]:
    return sorted(cache.folder.rglob("*.json"))


class TestStore:
    def test_gives_back_what_was_written(self, cache: ResultCache) -> None:
        result = {"size": [4, 5], "psnr": math.inf, "ssim": 0.1 + 0.2}
        assert cache.read(KEY) is None
        cache.write(KEY, result)
        assert cache.read(KEY) == result
        assert ResultCache(cache.folder).read(KEY) == result
        assert cache.problem is None

    @pytest.mark.parametrize("name", KEY)
    def test_any_other_key_is_another_result(self, cache: ResultCache, name: str) -> None:
        cache.write(KEY, {"psnr": 30.0})
        assert cache.read({**KEY, name: "other"}) is None

    @pytest.mark.parametrize("name", ["torch.__version__", "PIL.__version__", "code_version"])
    def test_other_versions_are_other_results(
        self, cache: ResultCache, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        cache.write(KEY, {"psnr": 30.0})
        other = (lambda: "0") if name == "code_version" else "0"
        monkeypatch.setattr(f"sruplift.resultcache.{name}", other)
        assert cache.read(KEY) is None

    def test_the_code_is_part_of_the_version(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        versions = []
        names = ("metrics.py", "models/pan.py", "models/pan.py", "fuse/pan.py", "kernels/pan.c")
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            with (tmp_path / name).open("a") as file:
                file.write("# changed\n")
            monkeypatch.setattr(resultcache.resources, "files", lambda _: tmp_path)
            resultcache.code_version.cache_clear()
            versions.append(resultcache.code_version())
        monkeypatch.undo()
        resultcache.code_version.cache_clear()
        assert len({*versions, resultcache.code_version()}) == len(names) + 1

    def test_without_a_home_there_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_home(monkeypatch)
        cache = ResultCache()
        cache.write(KEY, {"psnr": 30.5})
        assert cache.read(KEY) is None
        assert cache.problem is not None
        assert "no home folder" in cache.problem

    @pytest.mark.parametrize(
        "damage",
        [
            lambda _: "",
            lambda text: text[:-9],
            lambda text: text.replace("30.5", "30.6"),
            lambda text: text.replace('"pan"', '"pam"'),
            lambda _: "[]",
            lambda _: '{"key": 3}',
            lambda _: "\x00\xff",
        ],
    )
    def test_a_damaged_file_is_absent_and_replaced(
        self, cache: ResultCache, damage: Callable[[str], str]
    ) -> None:
        cache.write(KEY, {"psnr": 30.5})
        (file,) = files(cache)
        text = file.read_text()
        file.write_bytes(damage(text).encode("latin-1"))
        assert cache.read(KEY) is None
        cache.write(KEY, {"psnr": 30.5})
        assert file.read_text() == text

    def test_a_folder_that_cannot_be_written_is_a_problem_and_no_error(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        cache = ResultCache(tmp_path / "file" / "cache")
        cache.write(KEY, {"psnr": 30.0})
        assert cache.problem
        assert cache.read(KEY) is None

    def test_lies_beside_the_data_sets(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path))
        assert ResultCache().folder == tmp_path / "sruplift" / "eval"
        assert cache_folder() == tmp_path / "sruplift" / "datasets"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the images that the network was run on."""
    seen: list[tuple[int, ...]] = []
    run = Engine.run

    def counted(self: Engine, lr: Tensor, *rest: object) -> Tensor:
        seen.append(tuple(lr.shape))
        return run(self, lr, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "run", counted)
    return seen


@pytest.fixture
def options(tmp_path: Path) -> EvalOptions:
    """Four images and random weights of PAN x2."""
    for index in range(4):
        save_image(tmp_path / "images" / f"{index}.png", seed=index)
    return EvalOptions(
        (str(tmp_path / "images"),), "pan", 2, str(make_weights(tmp_path / "a")), device="cpu"
    )


def save_image(path: Path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    levels = photo_like(24, 26, seed=seed).mul(255).round().to(torch.uint8)
    Image.fromarray(levels.permute(1, 2, 0).numpy()).save(path)


def make_weights(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_weights(path, create_model("pan", 2).state_dict(), model="pan", scale=2, metadata={})
    return path


def from_cache(report: Report) -> list[bool]:
    return [image.from_cache for image in report.datasets[0].images]


class TestEvaluation:
    def test_interrupted_it_measures_only_the_rest(
        self,
        options: EvalOptions,
        cache: ResultCache,
        calls: list[tuple[int, ...]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        counted = Engine.run

        def interrupted(self: Engine, lr: Tensor, *rest: object) -> Tensor:
            if len(calls) == 2:
                raise KeyboardInterrupt
            return counted(self, lr, *rest)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "run", interrupted)
            with pytest.raises(KeyboardInterrupt):
                evaluate(options, cache=cache)
        assert len(calls) == len(files(cache)) == 2
        report = evaluate(options, cache=cache)
        assert len(calls) == 4
        assert from_cache(report) == [True, True, False, False]
        anew = evaluate(options)
        assert len(calls) == 8
        for found, measured in zip(report.datasets[0].images, anew.datasets[0].images, strict=True):
            seconds = measured.scores.seconds
            alike = dataclasses.replace(found.scores, seconds=seconds)
            assert dataclasses.replace(found, scores=alike) == measured

    def test_repeated_it_runs_no_network_and_gives_the_same(
        self, options: EvalOptions, cache: ResultCache, calls: list[tuple[int, ...]]
    ) -> None:
        first = evaluate(options, cache=cache)
        second = evaluate(options, cache=cache)
        assert len(calls) == 4
        assert second.datasets == first.datasets
        assert from_cache(second) == [True] * 4

    def test_a_changed_image_alone_is_measured_anew(
        self, options: EvalOptions, cache: ResultCache, calls: list[tuple[int, ...]]
    ) -> None:
        before = evaluate(options, cache=cache)
        save_image(Path(options.datasets[0]) / "1.png", seed=9)
        after = evaluate(options, cache=cache)
        assert from_cache(after) == [True, False, True, True]
        assert len(calls) == 5
        assert after.datasets[0].values("psnr_y")[1] != before.datasets[0].values("psnr_y")[1]

    def test_a_renamed_image_is_the_same_under_its_new_name(
        self, options: EvalOptions, cache: ResultCache
    ) -> None:
        evaluate(options, cache=cache)
        folder = Path(options.datasets[0])
        (folder / "1.png").rename(folder / "9.png")
        images = evaluate(options, cache=cache).datasets[0].images
        assert [image.name for image in images] == ["0.png", "2.png", "3.png", "9.png"]
        assert all(image.from_cache for image in images)

    def test_other_weights_under_the_same_name_are_measured(
        self, options: EvalOptions, cache: ResultCache
    ) -> None:
        before = evaluate(options, cache=cache)
        make_weights(Path(str(options.weights)), seed=1)
        after = evaluate(options, cache=cache)
        assert not any(from_cache(after))
        assert after.datasets[0].mean.psnr_y != before.datasets[0].mean.psnr_y

    @pytest.mark.parametrize(
        "change",
        [
            {"self_ensemble": True},
            {"chop": True},
            {"tile_size": 12},
            {"tile_size": 12, "overlap": 2},
            {"precision": "bf16"},
            {"metrics": ("lpips",)},
            {"model": "bicubic", "weights": None},
        ],
    )
    def test_other_options_are_measured(
        self,
        options: EvalOptions,
        cache: ResultCache,
        change: dict[str, object],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pyiqa_stand_in.install(monkeypatch)
        evaluate(options, cache=cache)
        evaluate(dataclasses.replace(options, tile_size=12, overlap=1), cache=cache)
        other = dataclasses.replace(options, **change)  # type: ignore[arg-type]
        first = evaluate(other, cache=cache)
        assert not any(from_cache(first))
        assert evaluate(other, cache=cache).datasets == first.datasets

    def test_a_damaged_file_is_measured_anew(
        self, options: EvalOptions, cache: ResultCache
    ) -> None:
        evaluate(options, cache=cache)
        files(cache)[0].write_text("{")
        assert sorted(from_cache(evaluate(options, cache=cache))) == [False, True, True, True]
        assert all(from_cache(evaluate(options, cache=cache)))

    def test_infinite_scores_survive(self, tmp_path: Path, cache: ResultCache) -> None:
        (tmp_path / "flat").mkdir()
        Image.new("RGB", (32, 32), (90, 90, 90)).save(tmp_path / "flat" / "a.png")
        options = EvalOptions((str(tmp_path / "flat"),), "bicubic", 2)
        for _ in range(2):
            report = evaluate(options, cache=cache)
        assert from_cache(report) == [True]
        assert report.datasets[0].mean.psnr_y == math.inf

    def test_an_image_that_cannot_be_measured_is_not_kept(
        self, options: EvalOptions, cache: ResultCache
    ) -> None:
        (Path(options.datasets[0]) / "2.png").write_text("no image")
        for _ in range(2):
            with pytest.raises(DatasetError, match=r"2\.png"):
                evaluate(options, cache=cache)
        assert len(files(cache)) == 2


def test_a_file_says_what_it_is_of(cache: ResultCache) -> None:
    cache.write(KEY, {"psnr": 30.0})
    (file,) = files(cache)
    data = json.loads(file.read_text())
    assert data["key"]["model"] == "pan"
    assert data["key"]["torch"] == torch.__version__
