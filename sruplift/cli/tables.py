"""Reports of ``sruplift eval`` as Rich tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from sruplift.reporting import Metric
    from sruplift.results import DatasetResult, Report


def report_table(report: Report, *, ci: bool = False) -> Table:
    """The means of one network at one scale, a row for each data set."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from sruplift.reporting import METRICS, label, perceptual_metrics

    weights = report.weights
    with_weights = f", {weights.path.name} (sha256 {weights.sha256[:12]}…)" if weights else ""
    title = f"{label(report)} x{report.options.scale}{with_weights}"
    # As Text: in plain strings Rich takes [brackets], of file names too, for its markup.
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,  # So that a line fits in 80 columns.
        title=Text(f"{title}, {report.device} {report.precision}"),
        caption=Text("\n".join(_captions(report, ci=ci))) or None,
    )
    table.add_column("data set", no_wrap=True)
    metrics = (*METRICS, *perceptual_metrics(report))
    for column in ("images", *(metric.heading for metric in metrics), "paper", "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in report.datasets:
        table.add_row(*(Text(cell) for cell in _row(result, metrics, ci=ci)))
    return table


def _row(result: DatasetResult, metrics: Sequence[Metric], *, ci: bool) -> tuple[str, ...]:
    from sruplift.reporting import mean_text, paper_text

    cells = [mean_text(result, metric, ci=ci, before="\n") for metric in metrics]
    return (result.name, str(len(result.images)), *cells, *paper_text(result))


def _captions(report: Report, *, ci: bool) -> list[str]:
    """How it was measured if not on the whole image, and where the paper's numbers are from."""
    from sruplift.reporting import INTERVAL_SHORT, inference, sources

    tiled = report.options.tile_size is not None
    intervals = [INTERVAL_SHORT] if ci else []
    return [*([inference(report)] if tiled else []), *intervals, *sources(report)]
