"""``sruplift upscale``: pictures in, larger pictures out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sruplift.cli import options
from sruplift.errors import ImageError, UsageError
from sruplift.files import Failure, Job, Skipped, plan_jobs, reason, shown

if TYPE_CHECKING:
    from rich.console import Console

    from sruplift.upscale import UpscaleResult
    from sruplift.upscaler import Upscaler

Inputs = Annotated[
    list[Path], typer.Argument(metavar="INPUT", help="Images, or folders of images.")
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE|DIR", help="Default: photo_pan_x4.png beside photo.png."
    ),
]
Tile = Annotated[
    str, typer.Option("--tile", metavar="auto|N", help="Edge of a tile in input pixels.")
]
Overlap = Annotated[
    str, typer.Option("--overlap", metavar="auto|N", help="Input pixels that tiles share.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", min=1, help="Read images of up to this many pixels."),
]
Quality = Annotated[
    int | None,
    typer.Option("--quality", min=1, max=100, help="For JPEG, WebP and AVIF; default: high."),
]
Format = Annotated[
    str | None, typer.Option("--format", help="png, jpg, webp, tiff or avif; default: as input.")
]
VerifySeams = Annotated[
    bool,
    typer.Option("--verify-seams", help="Also tell how tiles differ from the whole, on a crop."),
]


def command(
    inputs: Inputs,
    output: Output = None,
    model: options.Model = "pan",
    scale: options.Scale = 4,
    weights: options.Weights = None,
    tile: Tile = "auto",
    overlap: Overlap = "auto",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    overwrite: Overwrite = False,
    max_pixels: MaxPixels = None,
    quality: Quality = None,
    image_format: Format = None,
    verify_seams: VerifySeams = False,
    self_ensemble: options.SelfEnsemble = False,
) -> None:
    """Enlarge images; exit code 0 all done, 1 some failed, 2 usage, 130 interrupted."""
    from rich.console import Console

    jobs = _plan(inputs, output, model, scale, image_format)
    chosen = {
        "weights": weights,
        "tile_size": _auto_or_number(tile, "--tile"),
        "overlap": _auto_or_number(overlap, "--overlap"),
        "device": device,
        "precision": precision,
        "overwrite": overwrite,
        "quality": quality,
        "verify_seams": verify_seams,
        "self_ensemble": self_ensemble,
    }
    if max_pixels is not None:
        chosen["max_pixels"] = max_pixels
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    upscaler = None
    if any(isinstance(job, Job) for job in jobs):
        with console.status(f"Loading {model} x{scale}"):
            from sruplift.upscaler import Upscaler

            upscaler = Upscaler(model, scale=scale, **chosen)
    if not _run(jobs, upscaler, console):
        raise typer.Exit(1)


def _plan(
    inputs: list[Path], output: str | None, model: str, scale: int, image_format: str | None
) -> list[Job | Failure]:
    """The jobs, their folder made."""
    if output == "":
        raise UsageError("--output is empty: name a file or a folder")
    suffix = f".{image_format.lower().lstrip('.')}" if image_format else None
    folder = output is not None and output.endswith(("/", os.sep))
    target = None if output is None else Path(output)
    jobs = plan_jobs(inputs, target, model=model, scale=scale, suffix=suffix, into_folder=folder)
    work = [job for job in jobs if isinstance(job, Job)]
    if target is not None and any(job.destination.parent == target for job in work):
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImageError(f"cannot make folder {shown(target)}: {reason(error)}") from error
    return jobs


def _auto_or_number(text: str, option: str) -> str | int:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{option} is 'auto' or a number of pixels, not {text!r}") from None


def _run(jobs: list[Job | Failure], upscaler: Upscaler | None, console: Console) -> bool:
    """Do ``jobs`` and tell how each went; whether all went well. No upscaler: nothing to do."""
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeLeft())
    visible = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not visible) as bar:
        task = bar.add_task("", total=len(jobs))
        done = failed = 0

        def progress(source: Path, share: float) -> None:
            bar.update(task, description=escape(shown(source)), completed=done + share)

        for result in _results(jobs, upscaler, progress):
            done += 1
            failed += isinstance(result, Failure)
            bar.update(task, completed=done)
            for line in _lines(result):
                console.print(line, markup=False)
    return failed == 0


def _results(
    jobs: list[Job | Failure], upscaler: Upscaler | None, progress: Callable[[Path, float], None]
) -> Iterable[UpscaleResult | Failure | Skipped]:
    if upscaler is None:
        return [job for job in jobs if isinstance(job, Failure)]
    from sruplift.upscale import upscale_files

    return upscale_files(jobs, upscaler, progress)


def _lines(result: UpscaleResult | Failure | Skipped) -> list[str]:
    """What a person is told about one input."""
    if isinstance(result, Skipped):
        return [f"{shown(result.source)}: skipped, {result.why}"]
    if isinstance(result, Failure):
        return [f"sruplift: {result.error}"]
    before, after = (
        f"{width}x{height}" for height, width in (result.input_size, result.output_size)
    )
    names = f"{shown(result.source)} {before} -> {shown(result.destination)} {after}"
    warnings = [f"sruplift: warning: {shown(result.source)}: {note}" for note in result.notes]
    seams = [] if result.seams is None else [f"{shown(result.source)}: {result.seams}"]
    summary = f"{names}, {result.device}, {result.precision}, {result.seconds:.1f} s"
    return [*warnings, *seams, summary]
