"""Markdown and LaTeX: what is in which cell, and what is bold."""

from __future__ import annotations

import dataclasses
import math
import re

from reports import make_report

from sruplift.documents import as_latex, as_markdown
from sruplift.perceptual import PerceptualMetric
from sruplift.reporting import METRICS, interval_of, interval_text
from sruplift.results import Report


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Tables of rows of cells, headings included, the ruler not."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    rows = [[line.strip("| \n").split(" | ") for line in block.splitlines()] for block in blocks]
    return [[row for row in table if set(row) - {"---", "---:"}] for table in rows]


def latex_tables(text: str) -> list[dict[str, list[str]]]:
    """For each tabular the cells of each row below the headings, by the row's name."""
    bodies = re.findall(r"\\midrule\n(.*?)\\bottomrule", text, flags=re.DOTALL)
    lines = [[line.removesuffix(r" \\").split(" & ") for line in b.splitlines()] for b in bodies]
    return [{name: cells for name, *cells in rows} for rows in lines]


def with_lpips(report: Report, value: float) -> Report:
    """``report`` with this LPIPS for each image."""
    (result,) = report.datasets
    images = tuple(dataclasses.replace(each, perceptual={"lpips": value}) for each in result.images)
    return dataclasses.replace(
        report,
        datasets=(dataclasses.replace(result, images=images),),
        perceptual=(PerceptualMetric("lpips", True),),
    )


class TestMarkdown:
    def test_means_with_the_paper_beside_and_every_image(self) -> None:
        text = as_markdown([make_report(psnr=(30, 31, 33))])
        means, images = markdown_tables(text)
        assert means[0] == [
            *(
                "data set",
                "images",
                "PSNR Y",
                "SSIM Y",
                "PSNR RGB",
                "LR PSNR",
                "paper",
                "difference",
            )
        ]
        assert means[1] == [
            *("Set5", "3", "31.3333", "0.94000", "29.3333", "46.33", "32.13 / 0.8948", "-0.80 dB")
        ]
        assert images[1] == ["image_0.png", "30.0000", "0.90000", "28.0000", "45.00"]
        assert images[-2] == ["**mean**", "31.3333", "0.94000", "29.3333", "46.33"]
        assert images[-1][:3] == ["paper", "32.13", "0.8948"]
        assert "## pan x4" in text
        assert "paper: PAN Table 5 (Zhao et al." in text
        assert "whole image" in text

    def test_a_section_for_each_network(self) -> None:
        text = as_markdown([make_report(), make_report("bicubic", 2)])
        assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == ["pan x4", "bicubic x2"]
        assert markdown_tables(text)[2][1][-2:] == ["-", "-"]

    def test_intervals_on_request(self) -> None:
        report = make_report()
        expected = interval_text(interval_of(report.datasets[0], METRICS[0]), 2)
        assert re.fullmatch(r"\[\d\d\.\d\d, \d\d\.\d\d\]", expected)
        assert f"31.3333 {expected}" in as_markdown([report], ci=True)
        assert expected not in as_markdown([report])

    def test_every_row_has_as_many_cells_as_the_heading(self) -> None:
        reports = [make_report("hpinet-s"), make_report(), make_report("bicubic")]
        for table in re.findall(r"(?:^\|.*\n)+", as_markdown(reports, ci=True), flags=re.MULTILINE):
            assert len({line.count("|") for line in table.splitlines()}) == 1

    def test_a_bar_in_a_name_does_not_end_the_cell(self) -> None:
        assert r"| a\|b |" in as_markdown([make_report(dataset="a|b")])

    def test_nor_does_a_line_that_ends_in_one_or_what_is_no_character(self) -> None:
        assert r"| a\nb\udcff |" in as_markdown([make_report(dataset="a\nb\udcff")])


class TestLatex:
    def test_names_are_text_to_it(self) -> None:
        text = as_latex([make_report(dataset="a\n<b|\udcff>_é")])
        name = r"a\textbackslash{}n\textless{}b\textbar{}\textbackslash{}udcff\textgreater{}\_é"
        assert name in text

    def test_is_whole(self) -> None:
        text = as_latex([make_report(), make_report("bicubic")])
        assert text.startswith("% needs \\usepackage{booktabs}")
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
        assert r"\multicolumn{2}{c}{Set5}" in text
        code = [line for line in text.splitlines() if not line.startswith("%")]
        depth = sum(line.count("{") - line.count("}") for line in code)
        assert depth == 0
        columns = re.findall(r"\\begin\{tabular\}\{(lr*)\}", text)
        for spec, rows in zip(columns, latex_tables(text), strict=True):
            assert {len(cells) for cells in rows.values()} == {len(spec) - 1}

    def test_the_best_of_each_column_is_bold_also_the_papers(self) -> None:
        means, images = latex_tables(
            as_latex([make_report(), make_report("bicubic", psnr=(1, 40, 2))])
        )
        assert means["pan"] == ["31.33", r"\textbf{0.9400}"]
        assert means["pan (paper)"] == [r"\textbf{32.13}", "0.8948"]
        assert means["bicubic"] == ["14.33", "0.4300"]
        assert images[r"image\_1.png"] == ["31.00", "0.9300", r"\textbf{40.00}", r"\textbf{1.2000}"]
        assert images["mean"][0] == r"\textbf{31.33}"

    def test_what_is_printed_alike_is_bold_alike(self) -> None:
        first, second = (make_report(psnr=(value,), paper=False) for value in (30.001, 30.002))
        _, images = latex_tables(as_latex([first, second]))
        assert images["mean"][0] == images["mean"][2] == r"\textbf{30.00}"

    def test_nothing_is_bold_where_there_is_no_choice(self) -> None:
        assert r"\textbf" not in as_latex([make_report(paper=False)])

    def test_a_paper_that_rounds_y_does_not_compete(self) -> None:
        reports = [make_report("hpinet-m", psnr=(20, 20)), make_report("bicubic", psnr=(19, 19))]
        means, _ = latex_tables(as_latex(reports))
        assert means["hpinet-m"][0] == r"\textbf{20.00}"
        assert means["hpinet-m (paper)"][0] == "32.60"

    def test_each_scale_has_its_own_tables(self) -> None:
        text = as_latex([make_report(scale=2), make_report(scale=4)])
        assert [f"$\\times{scale}$" in text for scale in (2, 3, 4)] == [True, False, True]
        assert len(latex_tables(text)) == 4

    def test_intervals_and_infinity(self) -> None:
        report = make_report(paper=False)
        expected = interval_text(interval_of(report.datasets[0], METRICS[0]), 2)
        means, _ = latex_tables(as_latex([report], ci=True))
        assert means["pan"][0] == f"31.33 {{\\scriptsize {expected}}}"
        _, images = latex_tables(as_latex([make_report(psnr=(math.inf, 30), paper=False)]))
        assert images[r"image\_0.png"][0] == r"$\infty$"

    def test_of_what_should_be_low_the_least_is_bold(self) -> None:
        reports = [with_lpips(make_report(paper=False), value) for value in (0.3, 0.2)]
        text = as_latex(reports)
        assert r"\multicolumn{3}{c}{Set5}" in text
        assert text.count(r" & PSNR & SSIM & LPIPS $\downarrow$") == 3
        _, images = latex_tables(text)
        assert images["mean"][2::3] == ["0.3000", r"\textbf{0.2000}"]

    def test_papers_have_no_perceptual_metrics(self) -> None:
        means, _ = latex_tables(as_latex([with_lpips(make_report(), 0.3)]))
        assert means["pan"][2] == "0.3000"
        assert means["pan (paper)"][2] == "--"

    def test_names_are_escaped(self) -> None:
        report: Report = make_report(dataset="50%_a&b#")
        assert r"50\%\_a\&b\#" in as_latex([report])
