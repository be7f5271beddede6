"""``sruplift upscale``: pictures in, larger pictures out. ``enlarging`` does it."""

from __future__ import annotations

from typing import Any

import typer

from sruplift.cli import options
from sruplift.files import TEMPLATE


def command(
    inputs: options.Inputs = None,
    from_file: options.FromFile = None,
    recursive: options.Recursive = False,
    output: options.Output = None,
    output_template: options.OutputTemplate = TEMPLATE,
    model: options.Model = "pan",
    scale: options.AnyScale = None,
    width: options.Width = None,
    height: options.Height = None,
    max_side: options.MaxSide = None,
    megapixels: options.Megapixels = None,
    only_if_smaller: options.OnlyIfSmaller = False,
    weights: options.Weights = None,
    tile: options.Tile = "auto",
    overlap: options.Overlap = "auto",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    compile_mode: options.Compile = "auto",
    backend: options.Backend = "torch",
    overwrite: options.Overwrite = False,
    skip_existing: options.SkipExisting = False,
    report: options.ReportFile = None,
    resume: options.Resume = None,
    max_pixels: options.MaxPixels = None,
    quality: options.Quality = None,
    image_format: options.Format = None,
    verify_seams: options.VerifySeams = False,
    self_ensemble: options.SelfEnsemble = False,
    alpha: options.Alpha = "bleed",
    background: options.Background = "white",
    provenance: options.Provenance = True,
    compare: options.Compare = None,
    dry_run: options.DryRun = False,
) -> None:
    """Enlarge images.

    Exit code 0 all done or skipped, 1 some failed, 2 usage, 130 interrupted, 143 terminated.
    """
    import dataclasses

    from sruplift.batch import BatchOptions
    from sruplift.cli.enlarging import asked_naming, asked_target, enlarge, terminable

    target = asked_target(scale, width, height, max_side, megapixels, only_if_smaller)
    batch = BatchOptions(
        naming=asked_naming(model, target, image_format, output_template),
        inputs=tuple(inputs or ()),
        from_file=from_file,
        recursive=recursive,
        output=output,
        overwrite=overwrite,
        skip_existing=skip_existing,
        report=report,
        resume=resume,
    )
    chosen: dict[str, Any] = {
        "model": model,
        **dataclasses.asdict(target),
        "weights": weights,
        "tile_size": options.auto_or_number(tile, "--tile"),
        "overlap": options.auto_or_number(overlap, "--overlap"),
        "device": device,
        "precision": precision,
        "compile_mode": compile_mode,
        "backend": backend,
        "overwrite": overwrite,
        "quality": quality,
        "verify_seams": verify_seams,
        "self_ensemble": self_ensemble,
        "alpha": alpha,
        "background": background,
        "provenance": provenance,
        "compare": compare,
    }
    if max_pixels is not None:
        chosen["max_pixels"] = max_pixels
    with terminable():
        well = enlarge(batch, chosen, dry_run=dry_run)
    if not well:
        raise typer.Exit(1)
