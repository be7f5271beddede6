"""``sruplift eval``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sruplift.cli import options
from sruplift.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from sruplift.evaluate import DatasetResult, Report


def command(
    dataset: Annotated[
        list[str],
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAME|DIR",
            help="Set5, Set14, BSD100, Urban100, Manga109, or a folder of images. Repeatable.",
        ),
    ],
    model: options.Model = "pan",
    scale: options.Scale = 4,
    weights: options.Weights = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder that has the benchmarks' folders; without it they are downloaded.",
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
    device: options.Device = "auto",
    precision: options.Precision = "fp32",
    self_ensemble: options.SelfEnsemble = False,
    chop: Annotated[
        bool, typer.Option("--chop", help="In overlapping quarters, as A2N's authors measure.")
    ] = False,
) -> None:
    """Measure PSNR and SSIM by the papers' protocol. The model "bicubic" is the baseline."""
    _check_json_file(json_file)

    from sruplift.evaluate import EvalOptions, evaluate, report_as_dict

    settings = EvalOptions(
        datasets=tuple(dataset),
        model=model,
        scale=scale,
        weights=weights,
        data_root=data_root,
        device=device,
        precision=precision,
        self_ensemble=self_ensemble,
        chop=chop,
    )
    with _progress_bar() as progress:
        report = evaluate(settings, progress)
    _print_table(report, to_stderr=json_file == "-")
    if json_file is not None:
        _write_json(report_as_dict(report), json_file)


def _check_json_file(json_file: str | None) -> None:
    """Say what is wrong with the path now and not after minutes of work."""
    if json_file is None or json_file == "-":
        return
    path = Path(json_file)
    if path.is_dir():
        raise UsageError(f"--json {path} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"--json {path} cannot be written: there is no folder {path.parent}")


def _write_json(data: dict[str, object], json_file: str) -> None:
    # allow_nan: an infinity here would be a report that no other program can read.
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if json_file == "-":
        sys.stdout.write(text)
        return
    from sruplift.manifest import write_atomically

    write_atomically(Path(json_file), text.encode("utf-8"))


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """One bar on stderr, for the data set that is being measured."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    # Elsewhere than on a terminal even an erased bar leaves a line.
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("", total=None)

        def show(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)

        yield show


def _print_table(report: Report, *, to_stderr: bool) -> None:
    from rich.console import Console

    console = Console(stderr=to_stderr)
    if not console.is_terminal:
        # In a pipe or a file Rich assumes 80 columns and breaks what does not fit.
        console.width = 140
    console.print(_table(report))


def _table(report: Report) -> Table:
    from rich import box
    from rich.table import Table

    weights = report.weights
    plus = "+" if report.options.self_ensemble else ""
    with_weights = f", {weights.path.name} (sha256 {weights.sha256[:12]}…)" if weights else ""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{report.options.model}{plus} x{report.options.scale}{with_weights}, "
        f"{report.device} {report.precision}",
        caption="\n".join(_sources(report)) or None,
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


def _sources(report: Report) -> list[str]:
    """Where the paper's numbers are from, and how they were made if not as ours."""
    lines: dict[str, None] = {}
    for result in report.datasets:
        paper = result.paper
        if paper is not None:
            lines[f"paper: {paper.source} ({paper.paper})"] = None
            if paper.note:
                lines[f"paper's test: {paper.note}"] = None
            if paper.round_y:
                lines["difference: ours with Y rounded likewise"] = None
    return list(lines)
