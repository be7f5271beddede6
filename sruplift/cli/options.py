"""Option types that more than one command takes."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option("--model", "-m", help="The network; `sruplift models` lists them.")
]
Scale = Annotated[int, typer.Option("--scale", "-s", help="How many times larger: 2, 3 or 4.")]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="FILE|hf://OWNER/REPO/FILE[@REVISION]",
        help="Weights to use instead of the released ones.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")]
SelfEnsemble = Annotated[
    bool,
    typer.Option("--self-ensemble", help="Mean over 8 flips and rotations, 8 times slower."),
]
