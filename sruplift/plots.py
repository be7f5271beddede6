"""PSNR against parameters and Mult-Adds, beside the papers' rows. Needs ``sruplift[plot]``.

Both are our own counts (``sruplift models --complexity``), for the papers' networks too: papers
count in different ways, and a network measured here stands straight above or below its paper's row.
"""

from __future__ import annotations

import functools
import importlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sruplift.complexity import GIGA, Complexity, measure_complexity
from sruplift.errors import UsageError
from sruplift.models import MODELS
from sruplift.published import find_published
from sruplift.reporting import label
from sruplift.results import BICUBIC, DatasetResult, Report

SUFFIXES = (".png", ".svg", ".pdf")
# Inches of one of the two charts in a row.
WIDTH, HEIGHT = 5.5, 3.8
_PAPERS = "papers (*: Y rounded)"


@dataclass(frozen=True)
class Point:
    """A network on one data set: parameters, Mult-Adds (G, for 1280 x 720 pixels), PSNR in dB."""

    name: str
    parameters: int
    mult_adds_g: float
    psnr: float


@dataclass(frozen=True)
class Chart:
    """One scale and data set. ``bicubic`` is its PSNR, if it was measured."""

    title: str
    ours: tuple[Point, ...]
    papers: tuple[Point, ...]
    bicubic: float | None


def make_charts(reports: Sequence[Report]) -> list[Chart]:
    """A chart for each scale and data set of ``reports``, which are on the same data sets."""
    charts = []
    for scale in dict.fromkeys(report.options.scale for report in reports):
        group = [report for report in reports if report.options.scale == scale]
        for at, result in enumerate(group[0].datasets):
            baseline = [r for r in group if r.options.model == BICUBIC]
            chart = Chart(
                title=f"{result.name} x{scale}",
                ours=tuple(_ours(r, r.datasets[at]) for r in group if r not in baseline),
                papers=_papers(scale, result.name),
                bicubic=baseline[0].datasets[at].mean.psnr_y if baseline else None,
            )
            charts.append(chart)
    return charts


def _ours(report: Report, result: DatasetResult) -> Point:
    size = _size(report.options.model, report.options.scale)
    giga = size.mult_adds.total / GIGA
    return Point(label(report), size.parameters, giga, result.mean.psnr_y)


def _papers(scale: int, dataset: str) -> tuple[Point, ...]:
    """The row of every network's paper that has one."""
    points = []
    for model, spec in MODELS.items():
        paper = find_published(model, scale, dataset) if scale in spec.scales else None
        if paper is not None and paper.psnr is not None:
            size = _size(model, scale)
            name = f"{spec.title}*" if paper.round_y else spec.title
            points.append(Point(name, size.parameters, size.mult_adds.total / GIGA, paper.psnr))
    return tuple(points)


@functools.cache
def _size(model: str, scale: int) -> Complexity:
    return measure_complexity(model, scale)


def check_plot(path: Path) -> None:
    """Say now, and not after minutes of work, that ``path`` cannot be drawn.

    Raises:
        UsageError: the suffix is none that can be drawn, or matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"cannot draw {path}: its suffix is none of {', '.join(SUFFIXES)}")
    _figure_class()


def draw(charts: Sequence[Chart], suffix: str = ".png") -> bytes:
    """A row for each chart: PSNR against parameters, and against Mult-Adds.

    Raises:
        UsageError: matplotlib is not installed.
    """
    rows = len(charts)
    figure = _figure_class()(figsize=(2 * WIDTH, HEIGHT * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False, sharey="row")
    for (left, right), chart in zip(axes, charts, strict=True):
        _draw_chart(left, chart, "parameters in thousands", lambda p: p.parameters / 1000)
        _draw_chart(right, chart, "Mult-Adds in G for 1280x720", lambda p: p.mult_adds_g)
        left.set_ylabel("PSNR on Y, dB")
        right.legend(loc="lower right", fontsize="small")
    target = io.BytesIO()
    # Without a date the same numbers give the same file.
    metadata = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[suffix.lower()]
    figure.savefig(target, format=suffix[1:].lower(), dpi=150, metadata=metadata)
    return target.getvalue()


def _draw_chart(axes: Any, chart: Chart, heading: str, x: Callable[[Point], float]) -> None:
    axes.set_title(chart.title)
    axes.set_xlabel(heading)
    # Powers of two: networks are within a factor of ten, where decades have one labelled tick.
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.15, y=0.2)
    axes.grid(alpha=0.3)
    above = {"xytext": (3, 4), "rotation": 30, "va": "bottom"}
    below = {"xytext": (3, -4), "va": "top"}
    _draw_points(axes, chart.papers, x, above, label=_PAPERS, facecolors="none", edgecolors="gray")
    _draw_points(axes, chart.ours, x, below, label="measured here", color="tab:blue")
    if chart.bicubic is not None:
        axes.axhline(chart.bicubic, linestyle="--", color="gray", label="bicubic")


def _draw_points(
    axes: Any,
    points: Sequence[Point],
    x: Callable[[Point], float],
    place: dict[str, Any],
    **style: Any,
) -> None:
    """Points with their names, which stand at ``place``, in points from them."""
    axes.scatter([x(point) for point in points], [point.psnr for point in points], **style)
    for point in points:
        at = (x(point), point.psnr)
        axes.annotate(point.name, at, textcoords="offset points", fontsize="x-small", **place)


def _figure_class() -> Any:
    """Not pyplot: that would look for a screen."""
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise UsageError("plots need matplotlib: pip install 'sruplift[plot]'") from error
