"""``sruplift train``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
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
        result = run(on_row=show)
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


@contextmanager
def _progress(iterations: int) -> Iterator[Callable[[LogRow], None]]:
    """A bar on a terminal, a line for each line of the log elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda row: typer.echo(f"{row.iteration}/{iterations}  {_describe(row)}", err=True)
        return
    columns = ("{task.completed}/{task.total}", BarColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console) as progress:
        task = progress.add_task("starting", total=iterations)

        def show(row: LogRow) -> None:
            progress.update(task, completed=row.iteration, description=_describe(row))
            if row.val_psnr is not None:
                console.print(f"{row.iteration}: validation {row.val_psnr:.3f} dB")

        yield show


def _describe(row: LogRow) -> str:
    text = (
        f"loss {row.loss:.5f}  learning rate {row.learning_rate:.2e}"
        f"  {row.iterations_per_second:.2f} it/s"
    )
    if row.val_psnr is None:
        return text
    each = ", ".join(f"x{scale} {value:.3f}" for scale, value in row.val_psnr_of.items())
    return f"{text}  validation {row.val_psnr:.3f} dB" + (f" ({each})" if each else "")
