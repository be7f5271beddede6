"""``sruplift compare``: two reports of ``sruplift eval``, image by image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from sruplift.cli.outputs import check_files, print_tables, write_text

if TYPE_CHECKING:
    from rich.table import Table

    from sruplift.comparison import Comparison, DatasetComparison, MetricComparison

_HELP = "Made by `sruplift eval --json`; #pan_x4 names one network of several."
# Decimals of the means and of the differences.
_DECIMALS = {"psnr_y": ("PSNR", 2, 3), "ssim_y": ("SSIM", 4, 4)}


def command(
    a: Annotated[str, typer.Argument(metavar="A[#MODEL_xSCALE]", help=_HELP)],
    b: Annotated[str, typer.Argument(metavar="B[#MODEL_xSCALE]", help="Likewise.")],
    images: Annotated[
        bool, typer.Option("--images", help="Also show the difference of every image.")
    ] = False,
    any_inference: Annotated[
        bool,
        typer.Option(
            "--any-inference", help="Also compare what ran otherwise: in tiles, self-ensembled."
        ),
    ] = False,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE|-", help="Write everything as JSON; - is stdout."),
    ] = None,
) -> None:
    """Test whether one network is better than another on the same images; PSNR and SSIM on Y."""
    from sruplift.comparison import compare, comparison_as_dict, split_address

    check_files({"--json": json_file}, [split_address(each)[0] for each in (a, b)])
    comparison = compare(a, b, any_inference=any_inference)
    tables = [_summary(comparison)]
    if images:
        tables += [_images(dataset) for dataset in comparison.datasets]
    print_tables(tables, to_stderr=json_file == "-")
    if json_file is not None:
        data = comparison_as_dict(comparison)
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(text + "\n", json_file)


def _summary(comparison: Comparison) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text("\n".join(_titles(comparison))),
        caption=Text(
            "a - b with its 95 % BCa bootstrap interval; p of the mean: sign-flip permutation"
            " test; signs: images where a is above / below / equal, and the sign test's p"
        ),
        pad_edge=False,
        collapse_padding=True,  # So that it fits in 80 columns.
    )
    table.add_column("data set", no_wrap=True)
    for column in ("", "a", "b", "a - b", "p", "signs", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    for dataset in comparison.datasets:
        names = (f"{dataset.name}\n{len(dataset.images)} images", "")
        for name, metric in zip(names, dataset.metrics, strict=True):
            table.add_row(*(Text(cell) for cell in (name, *_row(metric))))
    return table


def _titles(comparison: Comparison) -> list[str]:
    lines = []
    for name, side in (("a", comparison.a), ("b", comparison.b)):
        digest = f", sha256 {side.sha256[:12]}…" if side.sha256 else ""
        where = f"{side.device} {side.precision}"
        lines.append(f"{name}: {side.model} x{side.scale}{digest}, {where} ({side.report})")
    return lines


def _row(metric: MetricComparison) -> tuple[str, ...]:
    heading, decimals, finer = _DECIMALS[metric.metric]
    signs, interval = metric.signs, metric.interval
    difference = f"{metric.mean_difference:+.{finer}f}"
    if interval is not None:
        difference += f"\n[{interval.low:.{finer}f}, {interval.high:.{finer}f}]"
    return (
        heading,
        f"{metric.mean_a:.{decimals}f}",
        f"{metric.mean_b:.{decimals}f}",
        difference,
        _probability(metric.permutation.p_value),
        f"{signs.positive}/{signs.negative}/{signs.zero}",
        _probability(signs.p_value),
    )


def _probability(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _images(dataset: DatasetComparison) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(f"{dataset.name}: a - b"))
    table.add_column("image", no_wrap=True)
    for metric in dataset.metrics:
        table.add_column(_DECIMALS[metric.metric][0], justify="right", no_wrap=True)
    for index, image in enumerate(dataset.images):
        cells = [
            f"{metric.differences[index]:+.{_DECIMALS[metric.metric][2] + 1}f}"
            for metric in dataset.metrics
        ]
        table.add_row(Text(image), *cells)
    return table
