"""``sruplift bench``: how fast the networks run on this machine."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sruplift.cli import options
from sruplift.cli.outputs import print_tables
from sruplift.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from sruplift.bench import BenchOptions, BenchResult, TileTime


def command(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="NAME|all", help="Default: pan. Repeatable."),
    ] = None,
    scale: Annotated[
        list[int] | None,
        typer.Option("--scale", "-s", metavar="N", help="2, 3 or 4 (default). Repeatable."),
    ] = None,
    size: Annotated[
        str,
        typer.Option(metavar="WIDTHxHEIGHT", help="Of the input, in pixels; --tiles has its own."),
    ] = "320x180",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    compile_mode: options.Compile = "auto",
    runs: Annotated[int, typer.Option(min=1, help="Timed runs; the median is printed.")] = 20,
    warm_up: Annotated[int, typer.Option(min=0, help="Runs before them.")] = 3,
    tiles: Annotated[
        bool,
        typer.Option(
            "--tiles",
            help="Also find the fastest tile, which `upscale` then takes on this machine.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Time the networks: latency, pixels a second, memory, and the share of what is possible.

    The weights are random, which changes no time.
    """
    from sruplift.bench import BenchOptions, bench, keep_fastest, time_tiles

    chosen = [
        BenchOptions(
            model=name,
            scale=each,
            size=_size(size),
            device=device,
            precision=precision,
            runs=runs,
            warm_up=warm_up,
            compile_mode=compile_mode,
        )
        for name, each in _networks(model or ["pan"], scale or [4])
    ]
    results = []
    for each in chosen:
        _say(each, f"{size}, {warm_up} + {runs} runs")
        results.append(bench(each))
    if not as_json:
        print_tables([_table(results)], to_stderr=False)
    times: list[list[TileTime]] = [[] for _ in chosen]
    kept = []
    for each, row in zip(chosen if tiles else [], times, strict=tiles):
        _say(each, "square tiles")
        for tile in time_tiles(each):
            row.append(tile)
            _say(each, f"{tile.edge}x{tile.edge}, {1e9 * tile.seconds_per_pixel:.0f} ns a pixel")
        kept.append(keep_fastest(each, row))
    if as_json:
        typer.echo(json.dumps(list(map(_described, results, times)), indent=2))
        return
    if tiles:
        print_tables([_tile_table(chosen, times)], to_stderr=False)
    for each, (tile, path) in zip(chosen, kept, strict=bool(kept)):
        typer.echo(f"{each.model} x{each.scale}: tiles of {tile.edge} are kept in {path}")


def _say(each: BenchOptions, doing: str) -> None:
    """What is at work, and what has been found, on stderr."""
    typer.echo(f"{each.model} x{each.scale}: {doing}", err=True)


def _networks(names: Sequence[str], scales: Sequence[int]) -> list[tuple[str, int]]:
    """Each network and scale once; of "all" those that there are."""
    from sruplift.models import MODELS

    every = [(name, scale) for name in MODELS for scale in scales if scale in MODELS[name].scales]
    chosen = (
        pair
        for name in names
        for pair in (every if name == "all" else [(name, scale) for scale in scales])
    )
    if not (found := list(dict.fromkeys(chosen))):
        raise UsageError(f"no network has {' or '.join(f'scale {scale}' for scale in scales)}")
    return found


def _size(text: str) -> tuple[int, int]:
    """(height, width) of WIDTHxHEIGHT."""
    match = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text)
    if match is None:
        raise UsageError(f"--size is WIDTHxHEIGHT, as 320x180, not {text!r}")
    return int(match[2]), int(match[1])


def _described(result: BenchResult, times: Sequence[TileTime]) -> dict[str, Any]:
    height, width = result.size
    return {
        **dataclasses.asdict(result),
        "size": {"height": height, "width": width},
        "gflops": result.gflops,
        "megapixels_per_second": result.megapixels_per_second,
        "tiles": [dataclasses.asdict(tile) for tile in times],
    }


def _table(results: Sequence[BenchResult]) -> Table:
    from rich import box
    from rich.table import Table

    first = results[0]
    height, width = first.size
    compiled = ", compiled" if any(result.compiled for result in results) else ""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=f"input {width}x{height}, {first.device}, {first.precision}{compiled}",
        caption=f"{first.processor}, {first.threads} threads, PyTorch {first.torch}; median and"
        f" quartiles of {first.runs} runs; GFLOP/s of the published network's Mult-Adds, and their"
        " share of a matrix product's.",
    )
    table.add_column("\nnetwork", no_wrap=True)
    # Two lines of header: 80 columns are enough for the table.
    for name in ("\nms", "\nquartiles", "MP/s\nout", "mem.\nMB", "\nparams", "Mult-\nAdds"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("GFLOP\n/s", "\nshare"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        memory = result.peak_memory
        table.add_row(
            f"{result.model} x{result.scale}",
            _milliseconds(result.seconds),
            f"{_milliseconds(result.low)} to {_milliseconds(result.high)}",
            f"{result.megapixels_per_second:.2f}",
            "-" if memory is None else f"{memory / 1e6:.0f}",
            f"{result.parameters:,}",
            f"{result.mult_adds / 1e9:.1f} G",
            f"{result.gflops:.0f}",
            f"{100 * result.share:.0f} %",
        )
    return table


def _milliseconds(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _tile_table(chosen: Sequence[BenchOptions], times: Sequence[Sequence[TileTime]]) -> Table:
    from rich import box
    from rich.table import Table

    edges = sorted({tile.edge for row in times for tile in row})
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption="Nanoseconds for each input pixel of a tile's own, by the tile's edge.",
    )
    table.add_column("network", no_wrap=True)
    for edge in edges:
        table.add_column(str(edge), justify="right", no_wrap=True)
    for each, row in zip(chosen, times, strict=True):
        by_edge = {tile.edge: f"{1e9 * tile.seconds_per_pixel:.0f}" for tile in row}
        table.add_row(f"{each.model} x{each.scale}", *(by_edge.get(edge, "-") for edge in edges))
    return table
