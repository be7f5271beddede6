"""Reports as data: JSON of one and several networks, CSV, intervals."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from reports import SHA256, make_report

from sruplift.reporting import as_csv, as_json, interval_text, label
from sruplift.statistics import Interval, bootstrap_interval


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


class TestJson:
    def test_one_network_is_an_object_and_several_are_a_list(self) -> None:
        pan, bicubic = make_report(), make_report("bicubic")
        alone = json.loads(as_json([pan]))
        assert (alone["model"], alone["scale"]) == ("pan", 4)
        both = json.loads(as_json([pan, bicubic]))
        assert list(both) == ["reports"]
        assert both["reports"][0] == alone
        assert both["reports"][1]["weights"] is None

    def test_intervals_of_the_means(self) -> None:
        data = json.loads(as_json([make_report(psnr=(30, 31, 33))]))
        (set5,) = data["datasets"]
        expected = bootstrap_interval([30, 31, 33])
        assert expected is not None
        assert set5["mean_interval"]["psnr_y"] == [expected.low, expected.high]
        assert expected.low < set5["mean"]["psnr_y"] < expected.high
        assert "seconds" not in set5["mean_interval"]
        assert "95 % BCa bootstrap" in data["protocol"]["mean_interval"]
        assert "10,000 resamples, seed 0" in data["protocol"]["mean_interval"]

    def test_there_is_no_interval_of_an_infinite_mean(self) -> None:
        (set5,) = json.loads(as_json([make_report(psnr=(30, math.inf))]))["datasets"]
        assert set5["mean"]["psnr_y"] is None
        assert set5["mean_interval"]["psnr_y"] is None


class TestCsv:
    def test_a_line_for_each_image_the_mean_and_the_paper(self) -> None:
        rows = csv_rows(as_csv([make_report(psnr=(30, 31, 32)), make_report("bicubic")]))
        assert [row["row"] for row in rows] == [*["image"] * 3, "mean", "paper"] + [
            *["image"] * 3,
            "mean",
        ]
        first, mean, paper = rows[0], rows[3], rows[4]
        assert (first["model"], first["scale"], first["dataset"]) == ("pan", "4", "Set5")
        assert (first["image"], first["height"], first["width"]) == ("image_0.png", "40", "44")
        assert first["weights_sha256"] == SHA256
        assert float(first["psnr_y"]) == 30
        assert float(first["psnr_rgb"]) == 28
        assert float(mean["psnr_y"]) == 31
        assert (paper["psnr_y"], paper["ssim_y"], paper["psnr_rgb"]) == ("32.13", "0.8948", "")
        assert rows[5]["weights_sha256"] == ""

    def test_a_paper_that_rounds_y_is_in_the_columns_of_rounded_y(self) -> None:
        (paper,) = [
            row for row in csv_rows(as_csv([make_report("hpinet-m")])) if row["row"] == "paper"
        ]
        assert paper["psnr_y"] == ""
        assert paper["psnr_y_rounded"] == "32.6"

    def test_intervals_on_request(self) -> None:
        report = make_report(psnr=(30, 31, 33))
        rows = {row["row"]: row for row in csv_rows(as_csv([report], ci=True))}
        expected = bootstrap_interval([30, 31, 33])
        assert expected is not None
        assert float(rows["ci_low"]["psnr_y"]) == expected.low
        assert float(rows["ci_high"]["psnr_y"]) == expected.high
        assert "ci_low" not in as_csv([report])

    def test_infinity_can_be_read(self) -> None:
        first, *_ = csv_rows(as_csv([make_report(psnr=(math.inf, 30))]))
        assert float(first["psnr_y"]) == math.inf


def test_names_of_methods() -> None:
    assert label(make_report()) == "pan"
    assert label(make_report(self_ensemble=True)) == "pan+"


@pytest.mark.parametrize(
    ("interval", "text"), [(Interval(28.913, 34.028), "[28.91, 34.03]"), (None, "")]
)
def test_intervals_as_text(interval: Interval | None, text: str) -> None:
    assert interval_text(interval, 2) == text
