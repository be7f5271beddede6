"""Reports of ``sruplift eval`` as Rich tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from sruplift.evaluate import DatasetResult, Report


def report_table(report: Report) -> Table:
    """The means of one network at one scale, a row for each data set."""
    from rich import box
    from rich.table import Table

    weights = report.weights
    plus = "+" if report.options.self_ensemble else ""
    with_weights = f", {weights.path.name} (sha256 {weights.sha256[:12]}…)" if weights else ""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{report.options.model}{plus} x{report.options.scale}{with_weights}, "
        f"{report.device} {report.precision}",
        caption="\n".join(_captions(report)) or None,
    )
    table.add_column("data set", no_wrap=True)
    for column in ("images", "PSNR Y", "SSIM Y", "PSNR RGB", "paper", "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in report.datasets:
        table.add_row(*_row(result))
    return table


def _row(result: DatasetResult) -> tuple[str, ...]:
    mean, paper = result.mean, result.paper
    ours = (
        result.name,
        str(len(result.images)),
        f"{mean.psnr_y:.4f}",
        f"{mean.ssim_y:.5f}",
        f"{mean.psnr_rgb:.4f}",
    )
    if paper is None or paper.psnr is None:
        return (*ours, "-", "-")
    theirs = f"{paper.psnr:.2f} / {'-' if paper.ssim is None else f'{paper.ssim:.4f}'}"
    return (*ours, theirs, f"{result.as_in_paper[0] - paper.psnr:+.2f} dB")


def _captions(report: Report) -> list[str]:
    """How it was measured if not on the whole image, and where the paper's numbers are from."""
    from sruplift.reporting import inference, sources

    tiled = report.options.tile_size is not None
    return [*([inference(report)] if tiled else []), *sources(report)]
