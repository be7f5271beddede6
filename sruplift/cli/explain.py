"""``sruplift explain``: which pixels of a photo made a part of its enlargement."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sruplift.cli import options
from sruplift.cli.outputs import check_files, check_is_no_input, print_tables, write_text
from sruplift.cli.teller import named_bar
from sruplift.errors import UsageError
from sruplift.files import shown

if TYPE_CHECKING:
    from rich.table import Table

    from sruplift.explain import ExplainOptions, Explanation
    from sruplift.image import Image


def command(
    photo: Annotated[Path, typer.Argument(metavar="INPUT", help="The image that is enlarged.")],
    window: Annotated[
        str,
        typer.Option(
            "--window",
            metavar="X,Y,SIZE",
            help="The square to explain, in pixels of the result, not of the input: its left"
            " column, its top row and its edge; the paper's have an edge of 16.",
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="NAME", help="Default: pan. Repeatable."),
    ] = None,
    scale: options.Scale = 4,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="FILE|hf://OWNER/REPO/FILE[@REVISION]",
            help="Weights to use instead of the released ones; as many as models, in their order.",
        ),
    ] = None,
    context: Annotated[
        int,
        typer.Option(
            "--context",
            min=1,
            metavar="N",
            help="Edge of the crop around the window that the networks see, in pixels of the"
            " input. Diffusion indices of different crops cannot be compared.",
        ),
    ] = 64,
    steps: Annotated[
        int, typer.Option("--steps", min=1, metavar="N", help="Of the integral along the path.")
    ] = 50,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Default: photo_pan_x4_lam.png beside photo.jpg."
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE|-", help="Also write the numbers as JSON; - is stdout."
        ),
    ] = None,
    device: options.Device = "auto",
) -> None:
    """Show which pixels of the input a part of the result was made from.

    Local attribution maps (Gu and Dong, CVPR 2021), over the input, and their diffusion index.
    """
    left, top, size = _parse(window)
    models = tuple(model or ("pan",))
    check_files({"--json": json_file}, [photo])

    from sruplift.attribution import BlurPath, Window
    from sruplift.explain import ExplainOptions
    from sruplift.outfile import check_destination
    from sruplift.outputs import ATTRIBUTION

    chosen = ExplainOptions(
        window=Window(top, left, size),
        models=models,
        scale=scale,
        weights=tuple(weights or ()),
        context=context,
        path=BlurPath(steps=steps),
        device=device,
    )
    name = ATTRIBUTION.format(stem=photo.stem, models="_".join(models), scale=scale)
    sheet = output or photo.parent / name
    check_is_no_input(sheet, [photo])
    check_destination(sheet, overwrite)
    if json_file not in (None, "-") and not overwrite and os.path.lexists(json_file):
        raise UsageError(f"{json_file} exists (--overwrite replaces it)")
    explanation = _explain(_read(photo), chosen)
    _write_sheet(explanation, sheet, overwrite)
    print_tables([_table(explanation)], to_stderr=json_file == "-")
    typer.echo(f"{shown(photo)} -> {shown(sheet)}", err=True)
    if json_file is not None:
        _write_json(explanation, photo, sheet, json_file)


def _parse(text: str) -> tuple[int, int, int]:
    """``x,y,size`` as numbers.

    Raises:
        UsageError: it is something else.
    """
    if not re.fullmatch(r"\s*[+-]?\d+\s*(,\s*[+-]?\d+\s*){2}", text, flags=re.ASCII):
        raise UsageError(
            f"--window is x,y,size in pixels of the result, such as 120,80,16, not {text!r}"
        )
    x, y, size = (int(number) for number in text.split(","))
    return x, y, size


def _read(photo: Path) -> Image:
    from sruplift.reading import read_image

    image = read_image(photo)
    alpha = () if image.alpha is None else ("its transparency is left out of account",)
    for note in (*image.notes, *alpha):
        typer.echo(f"sruplift: warning: {shown(photo)}: {note}", err=True)
    return image


def _explain(image: Image, chosen: ExplainOptions) -> Explanation:
    from sruplift.explain import explain

    with named_bar() as progress:
        return explain(image, chosen, progress)


def _write_sheet(explanation: Explanation, sheet: Path, overwrite: bool) -> None:
    from sruplift.explainsheet import draw_sheet
    from sruplift.image import from_pillow, write_image

    write_image(sheet, from_pillow(draw_sheet(explanation)), overwrite=overwrite)


def _table(explanation: Explanation) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from sruplift.explain import REACH_SHARE

    crop, window = explanation.crop, explanation.options.window
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(
            f"window {window.size}x{window.size} at {window.left},{window.top} of the result,"
            f" x{explanation.options.scale}\ncrop {crop.width}x{crop.height} at"
            f" {crop.left},{crop.top} of the input"
        ),
        caption=Text(
            "diffusion index: (1 - Gini) * 100 of the local attribution map, larger where more"
            f" pixels count; reach: pixels of the input around the window with"
            f" {100 * REACH_SHARE:g} % of the attributions"
        ),
        pad_edge=False,
    )
    table.add_column("network", no_wrap=True)
    for column in ("diffusion index", "Gini", "reach"):
        table.add_column(column, justify="right", no_wrap=True)
    for network in explanation.networks:
        found = network.attribution
        name = f"{network.model} (sha256 {network.weights.sha256[:12]}…)"
        cells = (f"{found.diffusion_index:.3f}", f"{found.gini:.5f}", str(network.reach))
        table.add_row(Text(name), *cells)
    return table


def _write_json(explanation: Explanation, photo: Path, sheet: Path, name: str) -> None:
    from sruplift import __version__
    from sruplift.explain import explanation_as_dict

    data = {
        "sruplift": __version__,
        "input": str(photo),
        "output": str(sheet),
        **explanation_as_dict(explanation),
    }
    write_text(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n", name)
