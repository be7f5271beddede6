"""What is drawn where; the drawing itself where matplotlib is installed."""

from __future__ import annotations

import importlib.util
import io
import math
import sys
from pathlib import Path

import pytest
from PIL import Image
from reports import make_report

from sruplift.complexity import measure_complexity
from sruplift.errors import UsageError
from sruplift.plots import Point, check_plot, draw, make_charts

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)


def by_name(points: tuple[Point, ...]) -> dict[str, Point]:
    return {point.name: point for point in points}


class TestCharts:
    def test_ours_stand_over_the_papers_rows(self) -> None:
        (chart,) = make_charts([make_report(psnr=(30, 32)), make_report("maffsrn", psnr=(29, 29))])
        assert chart.title == "Set5 x4"
        ours, papers = by_name(chart.ours), by_name(chart.papers)
        assert [(name, point.psnr) for name, point in ours.items()] == [
            ("pan", 31),
            ("maffsrn", 29),
        ]
        assert papers["PAN"].psnr == 32.13
        assert papers["PAN"].parameters == ours["pan"].parameters == 272_419
        assert papers["MAFFSRN"].mult_adds_g == ours["maffsrn"].mult_adds_g
        giga = measure_complexity("pan", 4).mult_adds.total / 1e9
        assert ours["pan"].mult_adds_g == giga
        assert "HPINet-M*" in papers
        assert len(papers) == 8
        assert chart.bicubic is None

    def test_a_chart_for_each_scale(self) -> None:
        reports = [make_report(scale=scale) for scale in (2, 4)]
        charts = make_charts([*reports, make_report("bicubic", 4, psnr=(28, 29))])
        assert [chart.title for chart in charts] == ["Set5 x2", "Set5 x4"]
        assert [chart.bicubic for chart in charts] == [None, 28.5]
        assert [point.name for point in charts[1].ours] == ["pan"]

    def test_a_folder_has_no_papers(self) -> None:
        (chart,) = make_charts([make_report(dataset="mine")])
        assert chart.papers == ()


class TestDrawing:
    @needs_matplotlib
    def test_a_picture(self) -> None:
        reports = [make_report(), make_report("bicubic", psnr=(28, 29))]
        png = draw(make_charts(reports))
        with Image.open(io.BytesIO(png)) as image:
            assert (image.format, image.size) == ("PNG", (1650, 570))
            assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 20
        assert draw(make_charts(reports)) == png

    @needs_matplotlib
    def test_an_infinite_psnr_is_not_drawn(self) -> None:
        assert draw(make_charts([make_report(psnr=(math.inf,))]))

    @needs_matplotlib
    def test_svg_has_the_names(self) -> None:
        svg = draw(make_charts([make_report(self_ensemble=True)]), ".svg")
        assert b"<!-- pan+ -->" in svg

    def test_other_suffixes(self) -> None:
        with pytest.raises(UsageError, match=r"plot\.jpg: its suffix is none of \.png, \.svg"):
            check_plot(Path("plot.jpg"))

    def test_without_matplotlib(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(UsageError, match=r"need matplotlib: pip install 'sruplift\[plot\]'"):
            check_plot(Path("plot.png"))
