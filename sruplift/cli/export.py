"""``sruplift export``: networks as files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sruplift.cli import options
from sruplift.errors import UsageError

app = typer.Typer(
    help="Write networks as files for other programs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def export() -> None:
    """Write networks as files for other programs."""


@app.command()
def onnx(
    model: options.Model = "pan",
    scale: options.Scale = 4,
    weights: options.Weights = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: pan_x4.onnx, and so on."),
    ] = None,
    opset: Annotated[int, typer.Option(help="The version of ONNX's operators.")] = 18,
    overwrite: options.Overwrite = False,
) -> None:
    """Write a network as an ONNX file that takes images of any size, checked against PyTorch."""
    from sruplift.export import CHECKED, export_onnx

    output = output or Path(f"{model}_x{scale}.onnx")
    if output.suffix.lower() != ".onnx":
        raise UsageError(f"-o {output}: name a file that ends in .onnx")
    made = export_onnx(output, model, scale, weights, opset=opset, overwrite=overwrite)
    typer.echo(
        f"{made.path}: {made.model} x{made.scale}, opset {made.opset}, {made.size:,} bytes,"
        f" sha256 {made.sha256}; licence: {made.licence}; at most {made.difference:.1e} from"
        f" PyTorch at {len(CHECKED)} sizes",
        err=True,
    )
