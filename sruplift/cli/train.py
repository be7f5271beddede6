"""``sruplift train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sruplift.train import TrainEvent


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
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --out's checkpoint.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one config value. Repeatable."),
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0.0, help="Save and stop after so many minutes.")
    ] = None,
) -> None:
    """Train a network, or fine-tune released weights, on a folder of images."""
    from sruplift.config import read_config

    settings = read_config(config, set_ or ())
    values = settings.model_dump()
    if data:
        values["data"]["train"] = tuple(data)
    if validation:
        values["data"]["validation"] = validation
    settings = type(settings).model_validate(values)

    from sruplift.train import train

    folder = out or Path("runs") / Path(config).stem
    result = train(
        settings, folder, resume=resume, max_minutes=max_minutes, on_event=_print_event
    )
    typer.echo(
        f"{result.reason} at iteration {result.iteration}; best validation PSNR"
        f" {result.best_psnr:.3f} dB at {result.best_iteration}; weights: {result.weights}",
        err=True,
    )


def _print_event(event: TrainEvent) -> None:
    left = (event.iterations - event.iteration) / max(event.iterations_per_second, 1e-9)
    line = (
        f"{event.iteration}/{event.iterations}  loss {event.loss:.5f}"
        f"  learning rate {event.learning_rate:.2e}  {event.iterations_per_second:.2f} it/s"
        f"  {left / 60:.0f} min left"
    )
    if event.val_psnr is not None:
        line += f"  validation {event.val_psnr:.3f} dB"
    typer.echo(line, err=True)
