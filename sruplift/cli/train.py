"""``sruplift train``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from sruplift.runlog import LogRow


def command(
    config: Annotated[
        str, typer.Option("--config", "-c", help="A config's name (pan_x2) or a TOML file.")
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Folder of training images, searched recursively. Repeatable."),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(help="Folder of held-out images; without it, every 20th image is held out."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output folder; default: runs/<config>.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from --out's checkpoint.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one config value. Repeatable."),
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0.0, help="Save and stop after so many minutes.")
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            min=1.0, max=1e8, help="Seconds that one of several processes waits for the others."
        ),
    ] = 600.0,
) -> None:
    """Train a network, or fine-tune released weights, on a folder of images."""
    from sruplift.config import read_config

    settings = read_config(config, set_ or ()).with_data(data or (), validation)

    from sruplift.processes import is_first
    from sruplift.train import train

    folder = out or Path("runs") / Path(config).stem
    run = partial(
        train, settings, folder, resume=resume, max_minutes=max_minutes, patience=patience
    )
    if not is_first():
        # Launched beside others: the first process speaks for all.
        run()
        return
    with _progress(settings.iterations) as show:
        result = run(on_row=show.row, on_answer=show.answer)
    best = "not validated yet"
    if result.best_iteration:
        best = (
            f"best validation PSNR {result.best_psnr:.3f} dB at iteration {result.best_iteration}"
        )
    typer.echo(
        f"{_REASONS[result.reason]} at iteration {result.iteration} of {settings.iterations};"
        f" {best}; weights: {result.weights}",
        err=True,
    )
    if result.reason == "interrupt":
        raise typer.Exit(130)


_REASONS = {
    "finished": "finished",
    "time": "stopped by --max-minutes",
    "signal": "stopped by a signal, go on with --resume",
    "interrupt": "interrupted, go on with --resume",
}


class _Lines:
    """How a run goes, in a line for each line of its log."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations

    def row(self, row: LogRow) -> None:
        typer.echo(f"{row.iteration}/{self.iterations}  {_describe(row)}", err=True)

    def answer(self, done: int, total: int) -> None:
        """Tell of each tenth of the images that a teacher is asked about."""
        if 10 * done // total > 10 * (done - 1) // total:
            typer.echo(f"the teacher has answered for {done} of {total} images", err=True)


class _Bar:
    """The same on a terminal."""

    def __init__(self, iterations: int, progress: Progress) -> None:
        self.iterations = iterations
        self.progress = progress
        self.task = progress.add_task("starting", total=iterations)

    def row(self, row: LogRow) -> None:
        described = _describe(row)
        self.progress.update(
            self.task, completed=row.iteration, total=self.iterations, description=described
        )
        if row.val_psnr is not None:
            self.progress.console.print(f"{row.iteration}: validation {row.val_psnr:.3f} dB")

    def answer(self, done: int, total: int) -> None:
        """Count images that a teacher is asked about, in place of iterations."""
        self.progress.update(
            self.task, completed=done, total=total, description="asking the teacher"
        )
        if done == total:
            self.progress.reset(self.task, total=self.iterations, description="starting")


@contextmanager
def _progress(iterations: int) -> Iterator[_Lines | _Bar]:
    """A bar on a terminal, lines elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(iterations)
        return
    columns = ("{task.completed}/{task.total}", BarColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console) as progress:
        yield _Bar(iterations, progress)


def _describe(row: LogRow) -> str:
    text = (
        f"loss {row.loss:.5f}  learning rate {row.learning_rate:.2e}"
        f"  {row.iterations_per_second:.2f} it/s"
    )
    if row.val_psnr is None:
        return text
    each = ", ".join(f"x{scale} {value:.3f}" for scale, value in row.val_psnr_of.items())
    return f"{text}  validation {row.val_psnr:.3f} dB" + (f" ({each})" if each else "")
