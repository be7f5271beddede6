"""Reports of `sruplift eval` as text for a paper: Markdown and LaTeX tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sruplift.reporting import (
    INTERVAL_SHORT,
    LR_PSNR,
    METRICS,
    Metric,
    inference,
    interval_of,
    interval_text,
    label,
    mean_text,
    paper_text,
    perceptual_metrics,
    sources,
)
from sruplift.results import DatasetResult, Report

# As papers print them.
PAPER_METRICS = (Metric("psnr_y", "PSNR", 2), Metric("ssim_y", "SSIM", 4))
_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{each: "\\" + each for each in "&%$#_{}"},
}


def as_markdown(reports: Sequence[Report], *, ci: bool = False) -> str:
    """A section for each network and scale: the sets' means, then a table for each set's images."""
    return "\n".join(line for report in reports for line in _markdown_section(report, ci))


def _markdown_section(report: Report, ci: bool) -> Iterable[str]:
    weights = report.weights
    with_weights = f"`{weights.path.name}` (sha256 `{weights.sha256}`), " if weights else ""
    yield f"## {label(report)} x{report.options.scale}\n"
    yield f"{with_weights}{report.device}, {report.precision}; {inference(report)}.\n"
    metrics = (*METRICS, LR_PSNR, *perceptual_metrics(report))
    headings = [metric.heading for metric in metrics]
    rows = [_markdown_means(result, metrics, ci) for result in report.datasets]
    yield from _markdown_table(["data set", "images", *headings, "paper", "difference"], rows)
    for note in [*([INTERVAL_SHORT] if ci else []), *sources(report)]:
        yield f"{note}\n"
    for result in report.datasets:
        yield f"### {result.name}, {label(report)} x{report.options.scale}\n"
        yield from _markdown_table(["image", *headings], _markdown_images(result, metrics))


def _markdown_means(result: DatasetResult, metrics: Sequence[Metric], ci: bool) -> list[str]:
    cells = [mean_text(result, metric, ci=ci) for metric in metrics]
    return [result.name, str(len(result.images)), *cells, *paper_text(result)]


def _markdown_images(result: DatasetResult, metrics: Sequence[Metric]) -> list[list[str]]:
    rows = [
        [image.name, *(metric.text(image.value(metric.name)) for metric in metrics)]
        for image in result.images
    ]
    rows.append(["**mean**", *(mean_text(result, metric) for metric in metrics)])
    paper = result.paper
    if paper is not None:
        texts = [
            "" if value is None else metric.text(value)
            for metric, value in zip(PAPER_METRICS, (paper.psnr, paper.ssim), strict=True)
        ]
        row = ["paper (Y rounded)" if paper.round_y else "paper", *texts]
        rows.append(row + [""] * (1 + len(metrics) - len(row)))
    return rows


def _markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield _markdown_row(headings)
    yield _markdown_row(["---", *["---:"] * (len(headings) - 1)])
    for row in rows:
        yield _markdown_row(row)
    yield ""


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_printable(cell).replace("|", r"\|") for cell in cells) + " |"


@dataclass(frozen=True)
class _Cell:
    """A number of a LaTeX table; ``rank`` is higher the better, None where there is no number."""

    text: str = "--"
    rank: float | None = None
    interval: str = ""
    competes: bool = True

    @property
    def latex(self) -> str:
        return f"{self.text} {{\\scriptsize {self.interval}}}" if self.interval else self.text


def as_latex(reports: Sequence[Report], *, ci: bool = False) -> str:
    r"""Tables for booktabs (``\usepackage{booktabs}``), of ``reports`` on the same data sets.

    For each scale there are the means of all networks with their papers' beside them, then one
    table for the images of each set. The best printed value of a column (of an image, a row) is
    bold, equal ones all; the numbers of papers that round Y do not compete.
    """
    tables = []
    for scale in dict.fromkeys(report.options.scale for report in reports):
        group = [report for report in reports if report.options.scale == scale]
        tables.append(_latex_means(group, scale, ci))
        tables += [_latex_images(group, scale, at) for at in range(len(group[0].datasets))]
    return "% needs \\usepackage{booktabs}\n\n" + "\n".join(tables)


def _latex_means(reports: Sequence[Report], scale: int, ci: bool) -> str:
    rows: list[tuple[str, list[_Cell]]] = []
    metrics = _latex_metrics(reports[0])
    for report in reports:
        rows.append((label(report), _ours(report, metrics, ci)))
        theirs = _theirs(report, metrics)
        if any(cell.rank is not None for cell in theirs):
            rows.append((f"{label(report)} (paper)", theirs))
    columns = [_bold_best(cells) for cells in zip(*(cells for _, cells in rows), strict=True)]
    lines = [
        [_escape(name), *(column[index].latex for column in columns)]
        for index, (name, _) in enumerate(rows)
    ]
    notes = [f"x{scale}: means on Y", *([INTERVAL_SHORT] if ci else [])]
    notes += dict.fromkeys(line for report in reports for line in sources(report))
    names = [result.name for result in reports[0].datasets]
    return _tabular(notes, names, lines, f"$\\times{scale}$", metrics)


def _latex_images(reports: Sequence[Report], scale: int, at: int) -> str:
    """The data set number ``at``: a row for each image, a pair of columns for each network."""
    results = [report.datasets[at] for report in reports]
    metrics = _latex_metrics(reports[0])
    name = results[0].name
    lines = []
    for index, image in enumerate(results[0].images):
        images = [result.images[index] for result in results]
        cells = [[_cell(metric, each.value(metric.name)) for each in images] for metric in metrics]
        lines.append([_escape(image.name), *_best_of_row(cells)])
    means = [[_cell(metric, each.mean_of(metric.name)) for each in results] for metric in metrics]
    lines.append(["mean", *_best_of_row(means)])
    notes = [f"x{scale}: {name}, each image, on Y"]
    return _tabular(notes, [label(report) for report in reports], lines, _escape(name), metrics)


def _latex_metrics(report: Report) -> tuple[Metric, ...]:
    """The columns; every report of a suite has the same."""
    arrows = {True: r"$\uparrow$", False: r"$\downarrow$"}
    perceptual = [
        replace(each, heading=f"{_escape(each.name.upper())} {arrows[each.higher_is_better]}")
        for each in perceptual_metrics(report)
    ]
    return (*PAPER_METRICS, *perceptual)


def _best_of_row(cells: Sequence[Sequence[_Cell]]) -> list[str]:
    """``cells`` for each metric those of the networks -> for each network those of the metrics."""
    bold = [_bold_best(each) for each in cells]
    return [cell.latex for network in zip(*bold, strict=True) for cell in network]


def _ours(report: Report, metrics: Sequence[Metric], ci: bool) -> list[_Cell]:
    cells = []
    for result in report.datasets:
        for metric in metrics:
            cell = _cell(metric, result.mean_of(metric.name))
            text = interval_text(interval_of(result, metric), metric.decimals) if ci else ""
            cells.append(replace(cell, interval=text))
    return cells


def _theirs(report: Report, metrics: Sequence[Metric]) -> list[_Cell]:
    cells = []
    for result in report.datasets:
        paper = result.paper
        printed = {"psnr_y": paper.psnr, "ssim_y": paper.ssim} if paper else {}
        for metric in metrics:
            value = printed.get(metric.name)
            cell = _Cell() if value is None else _cell(metric, value)
            cells.append(replace(cell, competes=not (paper and paper.round_y)))
    return cells


def _cell(metric: Metric, value: float) -> _Cell:
    text = metric.text(value)
    # The printed number: what is printed alike is equally good.
    rank = float(text) if metric.higher_is_better else -float(text)
    return _Cell(r"$\infty$" if text == "inf" else text, rank)


def _bold_best(cells: Sequence[_Cell]) -> list[_Cell]:
    """``cells`` with the best in bold, if there are two to choose from."""
    ranks = [cell.rank for cell in cells if cell.rank is not None and cell.competes]
    if len(ranks) < 2:
        return list(cells)
    return [
        replace(cell, text=f"\\textbf{{{cell.text}}}")
        if cell.competes and cell.rank == max(ranks)
        else cell
        for cell in cells
    ]


def _tabular(
    notes: Iterable[str],
    groups: Sequence[str],
    rows: Iterable[Sequence[str]],
    corner: str,
    metrics: Sequence[Metric],
) -> str:
    """Rows of numbers under ``groups``, each over all ``metrics``."""
    width = len(metrics)
    tops = [f"\\multicolumn{{{width}}}{{c}}{{{_escape(group)}}}" for group in groups]
    rules = [
        f"\\cmidrule(lr){{{start}-{start + width - 1}}}"
        for start in range(2, 2 + width * len(groups), width)
    ]
    headings = [metric.heading for _ in groups for metric in metrics]
    lines = [
        *(f"% {note}" for note in notes),
        f"\\begin{{tabular}}{{l{'r' * len(headings)}}}",
        r"\toprule",
        " & ".join([corner, *tops]) + r" \\",
        " ".join(rules),
        " & ".join(["", *headings]) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return "".join(_LATEX_SPECIAL.get(each, each) for each in _printable(text))


def _printable(text: str) -> str:
    """The name of a file, with escapes for what would end its line or is no character."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
