"""``sruplift batch``: folders and buckets of images through Ray Data."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING, Any

import typer

from sruplift.cli import options
from sruplift.files import TEMPLATE

if TYPE_CHECKING:
    from sruplift.cluster.job import Pool, Totals
    from sruplift.cluster.planning import ClusterOptions


def command(
    source: options.InputAddress,
    output: options.OutputAddress,
    workers: options.Workers = None,
    cores_per_worker: options.CoresPerWorker = None,
    address: options.Address = None,
    image_column: options.ImageColumn = None,
    output_template: options.BatchTemplate = TEMPLATE,
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
    max_pixels: options.MaxPixels = None,
    quality: options.Quality = None,
    image_format: options.Format = None,
    self_ensemble: options.SelfEnsemble = False,
    alpha: options.Alpha = "bleed",
    background: options.Background = "white",
    provenance: options.Provenance = True,
) -> None:
    """Enlarge many images on many cores, GPUs or machines, with Ray (sruplift[ray]).

    Results and a report in JSON lines go to OUTPUT. The same command again does what is missing.
    Exit code 0 all done or skipped, 1 some failed, 2 usage, 130 interrupted, 143 terminated.
    """
    from sruplift.cli.enlarging import asked_naming, asked_target, terminable

    target = asked_target(scale, width, height, max_side, megapixels, only_if_smaller)
    naming = asked_naming(model, target, image_format, output_template)
    chosen: dict[str, Any] = {
        "model": model,
        **dataclasses.asdict(target),
        "weights": _everywhere(weights),
        "tile_size": options.auto_or_number(tile, "--tile"),
        "overlap": options.auto_or_number(overlap, "--overlap"),
        "device": device,
        "precision": precision,
        "compile_mode": compile_mode,
        "backend": backend,
        "overwrite": overwrite,
        "quality": quality,
        "self_ensemble": self_ensemble,
        "alpha": alpha,
        "background": background,
        "provenance": provenance,
    }
    if max_pixels is not None:
        chosen["max_pixels"] = max_pixels

    from sruplift.cluster.job import Pool, import_ray

    import_ray(alone=address is None)  # What is missing is said before anything else.

    from sruplift.cluster.planning import ClusterOptions
    from sruplift.upscaler import UpscaleOptions

    upscale = UpscaleOptions(**chosen)
    batch = ClusterOptions(source, output, naming, upscale, skip_existing, image_column)
    with terminable():
        totals = _run(batch, Pool(workers, cores_per_worker, address))
    if totals is None or totals.failed:
        raise typer.Exit(1)


def _everywhere(weights: str | None) -> str | None:
    """A file's absolute path: workers may be in other folders."""
    if weights is None or weights.startswith("hf://"):
        return weights
    return os.path.abspath(weights)  # noqa: PTH100 - resolve() follows links.


def _run(batch: ClusterOptions, pool: Pool) -> Totals | None:
    """Do all that is left and tell how it went on stderr."""
    from sruplift.cli.teller import Teller
    from sruplift.cluster.job import run_job

    teller = Teller()
    totals, started = None, time.monotonic()
    try:
        with teller.bar(None, "listing") as show:
            for number, (plan, totals) in enumerate(run_job(batch, pool)):
                name = f"{totals.done} done, {totals.failed} failed"
                show(number, name, len(plan.partitions))
                for error in totals.errors:
                    teller.say(f"sruplift: {error}")
    finally:  # Also for somebody who interrupts.
        if totals is not None:
            teller.say(_sentence(totals, time.monotonic() - started))
    return totals


def _sentence(totals: Totals, seconds: float) -> str:
    parts = [f"{totals.done} done"]
    for count, name in ((totals.failed, "failed"), (totals.skipped, "skipped")):
        if count:
            parts.append(f"{count} {name}")
    return f"{', '.join(parts)} in {seconds:.1f} s"
