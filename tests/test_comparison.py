"""Paired comparisons: what is paired with what, what is refused, and the numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from reports import make_report

from sruplift.comparison import compare, comparison_as_dict, read_report
from sruplift.errors import ComparisonError
from sruplift.reporting import as_json
from sruplift.results import Report
from sruplift.statistics import bootstrap_interval, sign_flip_test, sign_test

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write reports as `eval --json` does; the file's path."""

    def write_(name: str, *reports: Report, change: Callable[[Any], None] | None = None) -> str:
        data = json.loads(as_json(reports))
        if change:
            change(data)
        path = tmp_path / name
        path.write_text(json.dumps(data))
        return str(path)

    return write_


def psnr(write: Write, a: Sequence[float], b: Sequence[float]) -> Any:
    files = write("a.json", make_report(psnr=a)), write("b.json", make_report(psnr=b))
    (dataset,) = compare(*files).datasets
    return dataset.metrics[0]


def test_the_numbers(write: Write) -> None:
    a, b = (30.0, 31.0, 33.5, 29.0), (29.5, 31.25, 33.0, 28.0)
    found = psnr(write, a, b)
    differences = [0.5, -0.25, 0.5, 1.0]
    assert found.metric == "psnr_y"
    assert found.differences == tuple(differences)
    assert (found.mean_a, found.mean_b) == (30.875, 30.4375)
    assert found.mean_difference == 0.4375
    assert found.interval == bootstrap_interval(differences)
    assert found.permutation == sign_flip_test(differences)
    assert found.signs == sign_test(differences)
    assert (found.signs.positive, found.signs.negative) == (3, 1)


def test_both_metrics_of_every_set_and_the_sides(write: Write) -> None:
    comparison = compare(
        write("a.json", make_report()), write("b.json", make_report("bicubic", psnr=(29, 30, 32)))
    )
    (dataset,) = comparison.datasets
    assert dataset.images == ("image_0.png", "image_1.png", "image_2.png")
    assert [metric.metric for metric in dataset.metrics] == ["psnr_y", "ssim_y"]
    assert dataset.metrics[1].mean_difference == pytest.approx(0.03)
    assert (comparison.a.model, comparison.a.sha256) == ("pan", "ab" * 32)
    assert (comparison.b.model, comparison.b.sha256) == ("bicubic", None)


def test_swapping_the_reports_turns_the_signs_and_keeps_the_p_values(write: Write) -> None:
    a, b = (30.0, 31.0, 33.5, 29.0), (29.5, 31.25, 33.0, 28.0)
    one, other = psnr(write, a, b), psnr(write, b, a)
    assert one.differences == tuple(-each for each in other.differences)
    assert one.permutation == other.permutation
    assert one.signs.p_value == other.signs.p_value


def test_json(write: Write) -> None:
    files = (write("a.json", make_report()), write("b.json", make_report(psnr=(29, 30, 32.5))))
    data = json.loads(json.dumps(comparison_as_dict(compare(*files)), allow_nan=False))
    assert (data["a"]["report"], data["b"]["report"]) == files
    assert data["scale"] == 4
    (set5,) = data["datasets"]
    assert [image["psnr_y"] for image in set5["images"]] == [1, 1, 0.5]
    metric = set5["metrics"]["psnr_y"]
    assert metric["mean_difference"] == pytest.approx(2.5 / 3)
    assert metric["permutation"] == {"p_value": 0.25, "exact": True, "flips": 8}
    assert metric["sign_test"] == {"positive": 3, "negative": 0, "zero": 0, "p_value": 0.25}
    assert len(metric["interval"]) == 2


class TestInfinity:
    def test_identical_in_both_is_no_difference(self, write: Write) -> None:
        found = psnr(write, (math.inf, 31.0), (math.inf, 30.0))
        assert found.differences == (0, 1)
        assert found.mean_a == math.inf
        files = [write(name, make_report(psnr=(math.inf, 31))) for name in ("a.json", "b.json")]
        data = comparison_as_dict(compare(*files))
        assert data["datasets"][0]["metrics"]["psnr_y"]["mean_a"] is None

    def test_identical_in_one_cannot_be_tested(self, write: Write) -> None:
        with pytest.raises(
            ComparisonError, match=r"image_0\.png is identical to the original in one"
        ):
            psnr(write, (math.inf, 31.0), (30.0, 30.0))


class TestSeveral:
    def test_one_network_of_a_file_of_several(self, write: Write) -> None:
        path = write("all.json", make_report(), make_report(scale=2), make_report("bicubic"))
        assert read_report(f"{path}#pan_x2")["scale"] == 2
        assert compare(f"{path}#pan_x4", f"{path}#bicubic_x4").b.model == "bicubic"
        for address, words in (
            (path, "has several networks"),
            (f"{path}#a2n_x4", "has no 'a2n_x4'"),
        ):
            with pytest.raises(
                ComparisonError, match=rf"{words}: name one of .*#pan_x4, .*#bicubic_x4"
            ):
                read_report(address)

    def test_a_file_whose_name_has_a_number_sign(self, write: Write) -> None:
        path = write("run#3.json", make_report())
        assert read_report(path)["model"] == "pan"
        assert read_report(f"{path}#pan_x4")["model"] == "pan"

    def test_data_sets_are_paired_by_name_and_shown_in_the_first_ones_order(
        self, write: Write
    ) -> None:
        def add(data: Any) -> None:
            other = json.loads(json.dumps(data["datasets"][0]))
            data["datasets"].append({**other, "name": "B"})

        def add_first(data: Any) -> None:
            add(data)
            data["datasets"].reverse()

        a = write("a.json", make_report(dataset="Z"), change=add)
        b = write("b.json", make_report(psnr=(20, 20, 20), dataset="Z"), change=add_first)
        assert [dataset.name for dataset in compare(a, b).datasets] == ["Z", "B"]


def _set(path: str, value: object) -> Callable[[Any], None]:
    """A change of one entry, such as ``datasets/0/name``."""

    def change(data: Any) -> None:
        *keys, last = path.split("/")
        for key in keys:
            data = data[int(key) if key.isdigit() else key]
        data[last] = value

    return change


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "value", "words"),
        [
            ("scale", 2, "are of different scales: x4 and x2"),
            ("datasets/0/name", "Set14", "are of different data sets: Set5 and Set14"),
            ("datasets/0/images/1/name", "x.png", r"images in Set5: image_1\.png and x\.png"),
            ("datasets/0/images/1/size", [40, 48], r"two of the name image_1\.png"),
            ("datasets/0/images/1/sha256", "00", r"two of the name image_1\.png"),
            ("datasets/0/images", [], "different images in Set5: 3 and 0"),
            ("protocol/lr", "Pillow", "different protocols: lr 'MATLAB .*' and 'Pillow'"),
            ("protocol/crop_border", 0, "different protocols: crop_border 4 and 0"),
            ("protocol/inference", "tiles", r"inference .* and 'tiles' \(--any-inference"),
        ],
    )
    def test_what_differs(self, write: Write, path: str, value: object, words: str) -> None:
        a = write("a.json", make_report())
        b = write("b.json", make_report(), change=_set(path, value))
        with pytest.raises(ComparisonError, match=words):
            compare(a, b)

    def test_other_inference_on_request(self, write: Write) -> None:
        a = write("a.json", make_report())
        b = write("b.json", make_report(self_ensemble=True, psnr=(31, 32, 34)))
        with pytest.raises(ComparisonError, match="different protocols: inference"):
            compare(a, b)
        comparison = compare(a, b, any_inference=True)
        assert comparison.datasets[0].metrics[0].mean_difference == -1
        assert "flips and rotations" in comparison.b.inference

    def test_reports_without_fingerprints_are_paired_by_name_and_size(self, write: Write) -> None:
        def forget(data: Any) -> None:
            for image in data["datasets"][0]["images"]:
                del image["sha256"]

        a, b = write("a.json", make_report()), write("b.json", make_report(), change=forget)
        assert compare(a, b).datasets[0].metrics[0].mean_difference == 0

    @pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": "pan", "scale": 4}', "[3]"])
    def test_what_is_no_report(self, write: Write, tmp_path: Path, content: str) -> None:
        (tmp_path / "b.json").write_text(content)
        a, b = write("a.json", make_report()), str(tmp_path / "b.json")
        with pytest.raises(ComparisonError, match=r"b\.json is not a report of `sruplift eval"):
            compare(a, b)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ComparisonError, match=r"cannot read .*gone\.json"):
            compare(str(tmp_path / "gone.json"), str(tmp_path / "gone.json"))
