"""``sruplift models``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sruplift.inventory import LocalFile
    from sruplift.manifest import WeightsEntry

BENCHMARKS = ("Set5", "Set14", "BSD100")


def command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything the manifest says, as JSON.")
    ] = False,
) -> None:
    """List the released weights: scales, parameters, PSNR, licence, and whether they are here."""
    from sruplift.inventory import local_files
    from sruplift.manifest import read_manifest

    manifest = read_manifest()
    found = [(entry, local_files(manifest, entry)) for entry in manifest.weights]
    if as_json:
        rows = [_describe(entry, files) for entry, files in found]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif found:
        _print_table(found)
    else:
        typer.echo("No weights have been released yet.", err=True)


def _describe(entry: WeightsEntry, files: Sequence[LocalFile]) -> dict[str, object]:
    path = str(files[0].path) if files else None
    return {**dataclasses.asdict(entry), "status": _status(files), "path": path}


def _print_table(found: Sequence[tuple[WeightsEntry, Sequence[LocalFile]]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption="PSNR in dB on Y, as `sruplift eval` measures it.",
    )
    table.add_column("model")
    for name in ("scale", "params", *BENCHMARKS, "iterations"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("licence", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    for entry, files in found:
        table.add_row(
            entry.model,
            f"x{entry.scale}",
            f"{entry.parameters:,}",
            *(_psnr(entry, benchmark) for benchmark in BENCHMARKS),
            f"{entry.iterations:,}",
            entry.licence,
            _status(files),
        )
    # In a pipe or a file Rich assumes 80 columns and cuts what does not fit.
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


def _psnr(entry: WeightsEntry, benchmark: str) -> str:
    metrics = entry.metrics.get(benchmark)
    return f"{metrics.psnr_y:.2f}" if metrics else "-"


def _status(files: Sequence[LocalFile]) -> str:
    if not files:
        return "not here"
    return {"bundled": "bundled", "cache": "cached"}[files[0].source]
