"""``sruplift eval``: which networks on which data, and where the reports go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sruplift.cli import options
from sruplift.cli.outputs import check_files, print_tables, write_data, write_text
from sruplift.cli.tables import report_table
from sruplift.cli.teller import named_bar

if TYPE_CHECKING:
    from sruplift.htmlreport import Gallery
    from sruplift.resultcache import ResultCache
    from sruplift.results import Report


def command(
    dataset: Annotated[
        list[str],
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAME|DIR|all",
            help="Set5, Set14, BSD100, Urban100, Manga109, or a folder of images. Repeatable.",
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|all",
            help="Default: pan; all: those with released weights. Repeatable.",
        ),
    ] = None,
    scale: Annotated[
        list[int] | None,
        typer.Option("--scale", "-s", metavar="N", help="2, 3 or 4 (default). Repeatable."),
    ] = None,
    weights: options.Weights = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder of the benchmarks' folders; else they are downloaded (not Manga109).",
        ),
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE|-",
            help="Write everything that was measured as JSON; - is stdout.",
        ),
    ] = None,
    markdown: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="Write tables, also per image, as Markdown."),
    ] = None,
    latex: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="The same for LaTeX (booktabs), the best in bold."),
    ] = None,
    csv: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Write a line per image as CSV.")
    ] = None,
    html: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="One page with tables, and crops to compare by eye."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw PSNR against size: .png, .svg or .pdf."),
    ] = None,
    ci: Annotated[
        bool, typer.Option("--ci", help="95 % confidence intervals of the means in the tables.")
    ] = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Also lpips, dists, niqe or another of pyiqa's. Repeatable."
        ),
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "fp32",
    self_ensemble: options.SelfEnsemble = False,
    chop: Annotated[
        bool, typer.Option("--chop", help="In overlapping quarters, as A2N's authors measure.")
    ] = False,
    tile: Annotated[
        str | None,
        typer.Option(metavar="auto|N", help="In tiles, as `upscale`; default: the whole image."),
    ] = None,
    overlap: Annotated[
        str, typer.Option(metavar="auto|N", help="Input pixels that tiles share.")
    ] = "auto",
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Measure what was measured before, too.")
    ] = False,
) -> None:
    """Measure PSNR and SSIM by the papers' protocol. The model "bicubic" is the baseline."""
    files = {
        "--json": json_file,
        "--markdown": markdown,
        "--latex": latex,
        "--csv": csv,
        "--html": html,
    }
    check_files({**files, "--plot": None if plot is None else str(plot)})
    if plot is not None:
        _check_plot(plot)
    chosen = {
        "tile_size": None if tile is None else options.auto_or_number(tile, "--tile"),
        "overlap": options.auto_or_number(overlap, "--overlap"),
        "device": device,
        "precision": precision,
        "self_ensemble": self_ensemble,
        "chop": chop,
        "metrics": tuple(metric or ()),
    }

    from sruplift.resultcache import ResultCache
    from sruplift.suite import evaluate_suite, plan_suite

    suite = plan_suite(
        dataset, model or ["pan"], scale or [4], weights=weights, data_root=data_root, **chosen
    )
    for note in suite.notes:
        typer.echo(f"sruplift: warning: {note}", err=True)
    cache = None if no_cache else ResultCache()
    gallery = None if html is None else _gallery()
    with named_bar() as progress:
        reports = evaluate_suite(suite, progress, cache, gallery)
    for line in _about_cache(reports, cache):
        typer.echo(f"sruplift: {line}", err=True)
    tables = [report_table(report, ci=ci) for report in reports]
    print_tables(tables, to_stderr="-" in files.values())
    _write_files(reports, files, gallery, ci=ci)
    if plot is not None:
        _draw(reports, plot)


def _check_plot(path: Path) -> None:
    from sruplift.plots import check_plot

    check_plot(path)


def _draw(reports: Sequence[Report], path: Path) -> None:
    from sruplift.plots import draw, make_charts

    write_data(draw(make_charts(reports), path.suffix), path)


def _gallery() -> Gallery:
    from sruplift.htmlreport import Gallery

    return Gallery()


def _write_files(
    reports: Sequence[Report], files: dict[str, str | None], gallery: Gallery | None, *, ci: bool
) -> None:
    from sruplift.documents import as_latex, as_markdown
    from sruplift.htmlreport import Gallery, as_html
    from sruplift.reporting import as_csv, as_json

    renderers: dict[str, Callable[[], str]] = {
        "--json": lambda: as_json(reports),
        "--markdown": lambda: as_markdown(reports, ci=ci),
        "--latex": lambda: as_latex(reports, ci=ci),
        "--csv": lambda: as_csv(reports, ci=ci),
        "--html": lambda: as_html(reports, gallery or Gallery()),
    }
    for option, name in files.items():
        if name is not None:
            write_text(renderers[option](), name)


def _about_cache(reports: Sequence[Report], cache: ResultCache | None) -> list[str]:
    """What a person should know of results that are from the cache, or did not get there."""
    lines = []
    results = [image for report in reports for each in report.datasets for image in each.images]
    known = sum(image.from_cache for image in results)
    if known:
        counts = f"{known} of {len(results)} results are"
        lines.append(f"{counts} from an earlier run (--no-cache measures them again)")
    if cache is not None and cache.problem:
        lines.append(f"warning: results are not kept for a later run: {cache.problem}")
    return lines
