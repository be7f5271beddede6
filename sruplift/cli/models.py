"""``sruplift models``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sruplift.complexity import Complexity
    from sruplift.inventory import LocalFile
    from sruplift.manifest import WeightsEntry

BENCHMARKS = ("Set5", "Set14", "BSD100")


def command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything that is known, as JSON.")
    ] = False,
    complexity: Annotated[
        bool,
        typer.Option(
            "--complexity",
            help="List every network instead, with its Mult-Adds for an output of 1280x720 pixels"
            " and what its paper prints.",
        ),
    ] = False,
) -> None:
    """List the released weights: scales, parameters, PSNR, licence, and whether they are here."""
    if complexity:
        _list_complexity(as_json=as_json)
    else:
        _list_weights(as_json=as_json)


def _list_weights(*, as_json: bool) -> None:
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
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption="PSNR in dB on Y, as `sruplift eval` measures it.",
    )
    table.add_column("\nmodel", no_wrap=True)
    # Two lines of header: 80 columns are enough for the table.
    for name in ("scale", "params", *BENCHMARKS):
        table.add_column(f"\n{name}", justify="right", no_wrap=True)
    table.add_column("itera-\ntions", justify="right", no_wrap=True)
    table.add_column("\nlicence", no_wrap=True)
    table.add_column("\nweights", no_wrap=True)
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
    _console().print(table)


def _psnr(entry: WeightsEntry, benchmark: str) -> str:
    metrics = entry.metrics.get(benchmark)
    return f"{metrics.psnr_y:.2f}" if metrics else "-"


def _status(files: Sequence[LocalFile]) -> str:
    if not files:
        return "not here"
    return {"bundled": "bundled", "cache": "cached"}[files[0].source]


def _list_complexity(*, as_json: bool) -> None:
    from sruplift.complexity import measure_every_network

    networks = measure_every_network()
    if as_json:
        rows = [_describe_complexity(network) for network in networks]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    # A reason that several networks share is printed once.
    notes = list(dict.fromkeys(note for network in networks for note in network.notes))
    console = _console()
    console.print(_complexity_table(networks, notes))
    for number, note in enumerate(notes, start=1):
        console.print(f"{number}  {note}", highlight=False, soft_wrap=not console.is_terminal)


def _describe_complexity(network: Complexity) -> dict[str, object]:
    fields = dataclasses.asdict(network)
    fields["mult_adds"]["total"] = network.mult_adds.total
    return {**fields, "notes": network.notes}


def _complexity_table(networks: Sequence[Complexity], notes: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        caption="Mult-Adds in G for an output of 1280x720 pixels (x3: an input of 426x240).",
    )
    table.add_column("\nmodel", no_wrap=True)
    # Two lines of header, and no more than two decimals: 80 columns are enough for the table.
    for name in ("\nparams", "Mult-\nAdds", "\nconv", "\nlinear", "atten-\ntion"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("paper\nparams", "\nM.-A."):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("\nnote", no_wrap=True)
    for network in networks:
        table.add_row(*_complexity_row(network, notes))
    return table


def _complexity_row(network: Complexity, notes: Sequence[str]) -> tuple[str, ...]:
    work, paper = network.mult_adds, network.paper
    thousands, giga = (paper.parameters_k, paper.mult_adds_g) if paper else (None, None)
    return (
        f"{network.model} x{network.scale}",
        f"{network.parameters:,}",
        *(_giga(count) for count in (work.total, work.convolution, work.linear, work.attention)),
        "-" if thousands is None else f"{thousands:,}K",
        "-" if giga is None else f"{giga:.1f}",
        " ".join(str(number) for number in sorted(1 + notes.index(note) for note in network.notes)),
    )


def _giga(count: int) -> str:
    return f"{count / 10**9:.2f}" if count else "-"


def _console() -> Console:
    from rich.console import Console

    # In a pipe or a file Rich assumes 80 columns and cuts what does not fit.
    console = Console()
    return console if console.is_terminal else Console(width=120)
