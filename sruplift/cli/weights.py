"""``sruplift weights``: import, verify, release and publish weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sruplift.cli.outputs import check_is_no_input
from sruplift.errors import UsageError, WeightsError

app = typer.Typer(
    help="Import, verify, release and publish weights.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE", help=".pth, .pt or .safetensors.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Default: FILE with the suffix .safetensors."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The network; told from the file if absent.")
    ] = None,
    scale: Annotated[
        int | None, typer.Option("--scale", "-s", help="The scale; told from the file if absent.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Convert a checkpoint of the authors' code to safetensors that `--weights` takes."""
    from sruplift.weights import import_checkpoint

    if source.is_dir():
        raise WeightsError(f"{source} is a folder, not a file of weights")
    output = output or source.with_suffix(".safetensors")
    if output.suffix.lower() != ".safetensors":
        raise UsageError(f"-o {output}: name a file that ends in .safetensors")
    check_is_no_input(output, [source])
    if output.exists() and not overwrite:
        raise WeightsError(f"{output} exists: name another with -o, or replace it with --overwrite")
    made = import_checkpoint(source, output, model, scale)
    typer.echo(f"{output}: {made.model} x{made.scale}, sha256 {made.sha256}", err=True)


@app.command()
def verify() -> None:
    """Check every bundled and cached file of released weights against its sha256."""
    from sruplift.inventory import local_files
    from sruplift.manifest import read_manifest

    manifest = read_manifest()
    damaged = []
    for entry in manifest.weights:
        files = local_files(manifest, entry)
        if not files:
            typer.echo(f"not here  {entry.file}")
        for file in files:
            intact = file.is_intact()
            typer.echo(f"{'ok' if intact else 'DAMAGED':<8}  {file.source:<7}  {file.path}")
            if not intact:
                damaged.append(str(file.path))
    if damaged:
        raise WeightsError(f"not what was released: {', '.join(damaged)}")


@app.command()
def pack(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="A training run's folder, or its weights.")
    ],
    training_data: Annotated[str, typer.Option(help="One sentence: which images.")],
    command: Annotated[str, typer.Option(help="The command that trained the weights.")],
    config: Annotated[
        str | None, typer.Option(help="The training config's name; default: MODEL_xSCALE.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="In all runs together; default: what the file says.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Default: what the file says.")] = None,
    licence: Annotated[str, typer.Option(help="The licence of the weights.")] = "Apache-2.0",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the weights that the package has.")
    ] = False,
) -> None:
    """Make trained weights part of the package: an fp16 file and its entry in the manifest.

    For releases: all commands use what the package has. `--weights FILE` uses yours without.
    """
    from sruplift.release import Provenance, pack

    facts = Provenance(training_data, command, licence, config, iterations, device)
    entry = pack(source, facts, overwrite=overwrite)
    typer.echo(f"{entry.bundled_path}: {entry.size:,} bytes, sha256 {entry.sha256}", err=True)


@app.command()
def record(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT…", help="Made by `sruplift eval --json`.")
    ],
    command: Annotated[
        str | None, typer.Option(help="The command that measured; default: as the reports say.")
    ] = None,
) -> None:
    """Enter measurements of the packed weights in the manifest."""
    from sruplift.release import record

    for entry in record(reports, command):
        means = ", ".join(f"{name} {m.psnr_y:.2f} dB" for name, m in entry.metrics.items())
        typer.echo(f"{entry.model} x{entry.scale}: {means}", err=True)


@app.command()
def card(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="One network alone; default: all.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR|-", help="Where README.md goes.")
    ] = Path("-"),
    repo: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="The repository on the Hub that the card is for."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Write the model card of the released weights, as the Hugging Face Hub reads it."""
    from sruplift.cards import CARD_NAME, render_card
    from sruplift.manifest import read_manifest, write_atomically

    text = render_card(read_manifest(), model=model, repo=repo)
    if str(output) == "-":
        typer.echo(text, nl=False)
        return
    path = output / CARD_NAME
    if path.exists() and not overwrite:
        raise WeightsError(f"{path} exists: name another with -o, or replace it with --overwrite")
    if not output.is_dir():
        raise WeightsError(f"there is no folder {output}")
    write_atomically(path, text.encode("utf-8"))
    typer.echo(str(path), err=True)


@app.command()
def push(
    repo: Annotated[
        str, typer.Option(metavar="OWNER/NAME", help="The repository; made if it is missing.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make the new repository private.")
    ] = False,
    revision: Annotated[str, typer.Option(help="The branch; other than main it must exist.")] = (
        "main"
    ),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and list the files; send nothing.")
    ] = False,
) -> None:
    """Publish the released weights, their manifest and card on the Hugging Face Hub.

    One commit, whose revision is printed. The token is that of HF_TOKEN or `hf auth login`.
    """
    from sruplift.publish import collect, push

    uploads = collect(repo)
    total = f"{len(uploads)} files, {sum(len(upload.content) for upload in uploads):,} bytes"
    if dry_run:
        for upload in uploads:
            typer.echo(f"{upload.sha256}  {len(upload.content):>10}  {upload.name}")
        typer.echo(f"{total}, would go to {repo}@{revision}; nothing was sent", err=True)
        return
    pushed = push(repo, uploads, private=private, revision=revision)
    state = "are there now" if pushed.new else "were there already: no new commit"
    typer.echo(f"{repo}@{revision}: {total}, {state}", err=True)
    typer.echo(pushed.commit)
