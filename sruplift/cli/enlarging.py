"""What ``sruplift upscale`` does once its options are read, and tells of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from sruplift.batch import (
    BatchOptions,
    Item,
    Tally,
    left_to_do,
    pixel_parameters,
    plan_batch,
    prepare,
    run_batch,
)
from sruplift.cli.teller import Teller
from sruplift.errors import UsageError
from sruplift.files import TEMPLATE, WRITABLE, Failure, Found, Job, Skipped, shown
from sruplift.outputs import Naming, check_sheet, plan_jobs
from sruplift.pipes import PIPE, STDIN, STDOUT, check_stdout, receive, send
from sruplift.report import Report
from sruplift.sizes import DEFAULT_SCALE, Target

if TYPE_CHECKING:
    from sruplift.estimate import Estimate
    from sruplift.upscale import UpscaleResult
    from sruplift.upscaler import Upscaler

TERMINATED = 128 + 15  # As a shell tells that SIGTERM ended a program.


def asked_target(
    scale: float | None,
    width: int | None,
    height: int | None,
    max_side: int | None,
    megapixels: float | None,
    only_if_smaller: bool,
) -> Target:
    """The size that the options ask for; x4 if they ask for none."""
    target = Target(scale, width, height, max_side, megapixels, only_if_smaller)
    if target == Target(only_if_smaller=only_if_smaller):
        target = dataclasses.replace(target, scale=DEFAULT_SCALE)
    return target


def asked_naming(model: str, target: Target, image_format: str | None, template: str) -> Naming:
    """How the options call results."""
    suffix = f".{image_format.lower().lstrip('.')}" if image_format else None
    return Naming(model, target.scale, suffix, template, target.label)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the program as Ctrl-C does, in order, but with its own exit code."""

    def stop(_: int, __: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():
        yield  # Elsewhere Python lets nobody handle signals.
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def enlarge(batch: BatchOptions, chosen: dict[str, Any], *, dry_run: bool) -> bool:
    """Do what is asked for, or say what that is; whether all went well.

    ``chosen`` are the fields of ``UpscaleOptions``.
    """
    teller = Teller()
    if dry_run:
        return _tell(batch, chosen, teller)
    return _pipe(batch, chosen, teller) if batch.piped else _batch(batch, chosen, teller)


def _tell(batch: BatchOptions, chosen: dict[str, Any], teller: Teller) -> bool:
    """Say on stdout what would be done; whether all inputs can be read."""
    from sruplift.estimate import Estimate, estimates

    if batch.piped:
        raise UsageError("--dry-run needs files: what comes through a pipe is not known yet")
    items, upscaler, _ = _plan(batch, chosen, teller)
    count, seconds, well = 0, 0.0, True
    for each in estimates(items, upscaler, batch.folder):
        if isinstance(each, Estimate):
            count += 1
            seconds += each.seconds
            typer.echo(_estimate_line(each))
        else:
            well = well and not isinstance(each, Failure)
            for line in _lines(each):
                teller.say(line)
    typer.echo(f"{count} to do, about {seconds:.0f} s")
    return well


def _estimate_line(each: Estimate) -> str:
    (height, width), (new_height, new_width) = each.input_size, each.output_size
    steps = " then ".join(f"x{scale}" for scale in each.scales) or "no network"
    tiles = "1 tile" if each.tiles == 1 else f"{each.tiles} tiles"
    return (
        f"{shown(each.job.source)} {width}x{height} -> {shown(each.job.destination)}"
        f" {new_width}x{new_height}, {steps}, {tiles}, about {each.seconds:.1f} s and"
        f" {each.memory / 1e9:.1f} GB"
    )


def _plan(
    batch: BatchOptions, chosen: dict[str, Any], teller: Teller
) -> tuple[list[Item], Upscaler | None, dict[str, Any] | None]:
    """What is left to do, with what, and the parameters for the report if there is one."""
    jobs = plan_batch(batch)
    if chosen["compare"] is not None and len(jobs) != 1:
        raise UsageError(f"--compare is for one image, not {len(jobs)}")
    if chosen["compare"] is not None:
        check_sheet(Path(chosen["compare"]), jobs, batch.lists)
    _say_what_quality_is_for(chosen["quality"], jobs, teller)
    reported = batch.report is not None or batch.resume is not None
    upscaler, parameters = None, None
    if reported and any(isinstance(job, Job) for job in jobs):
        upscaler = _load(chosen, teller)
        parameters = pixel_parameters(upscaler.options)
    items = left_to_do(jobs, batch, parameters)
    sheet = chosen["compare"]
    if sheet is not None and isinstance(items[0], Skipped) and not os.path.lexists(sheet):
        teller.say(f"sruplift: warning: {sheet} is not made: its image is skipped")
    if upscaler is None and any(isinstance(item, Job) for item in items):
        upscaler = _load(chosen, teller)
    return items, upscaler, parameters


def _batch(batch: BatchOptions, chosen: dict[str, Any], teller: Teller) -> bool:
    """Do all that is meant; whether all went well."""
    items, upscaler, parameters = _plan(batch, chosen, teller)
    items = prepare(items, batch)
    if batch.report is None and batch.resume is None:
        return _run(items, upscaler, None, teller)
    with Report(batch.report_path, parameters) as report:
        return _run(items, upscaler, report, teller)


def _say_what_quality_is_for(quality: int | None, jobs: Sequence[Item], teller: Teller) -> None:
    """Warn of a quality that no result has."""
    kinds = {WRITABLE[job.destination.suffix.lower()] for job in jobs if isinstance(job, Job)}
    if quality is None or not kinds:
        return

    from sruplift.image import QUALITY

    if not kinds & QUALITY.keys():
        teller.say(
            f"sruplift: warning: --quality is for {', '.join(QUALITY)}: it changes nothing in"
            f" {', '.join(sorted(kinds))}"
        )


def _load(chosen: dict[str, Any], teller: Teller) -> Upscaler:
    with teller.waiting(f"Loading {chosen['model']}"):
        from sruplift.upscaler import Upscaler

        return Upscaler(**chosen)


def _pipe(batch: BatchOptions, chosen: dict[str, Any], teller: Teller) -> bool:
    """One image from stdin or to stdout; whether it went well."""
    (name,) = batch.inputs
    into_pipe = batch.output in (None, PIPE)
    if into_pipe:
        check_stdout()
        if batch.naming.template != TEMPLATE:
            raise UsageError("--output-template is for files, not for stdout: --format is for both")
    with tempfile.TemporaryDirectory(prefix="sruplift-") as temporary:
        folder = Path(temporary) / "stdin"  # Which a template may ask for.
        folder.mkdir()
        source = receive(folder) if name == PIPE else Path(name)
        naming = dataclasses.replace(batch.naming, template="stdout{suffix}")
        job: Item
        if into_pipe:
            job = Job(source, folder / naming.name(source))
        else:
            (job,) = plan_jobs(
                [Found(source)], batch.folder, batch.naming, into_folder=batch.into_folder
            )
        if chosen["compare"] is not None:
            check_sheet(Path(chosen["compare"]), [job])
        _say_what_quality_is_for(chosen["quality"], [job], teller)
        (job,) = prepare([job], batch) if not into_pipe else [job]
        upscaler = _load(chosen, teller) if isinstance(job, Job) else None
        (outcome,) = run_batch([job], upscaler)
        for line in _lines(_without_temporary_names(outcome, job, folder)):
            teller.say(line)
        if into_pipe and isinstance(job, Job) and not isinstance(outcome, Failure | Skipped):
            send(job.destination)
    return not isinstance(outcome, Failure)


def _without_temporary_names(
    outcome: UpscaleResult | Failure | Skipped, job: Item, folder: Path
) -> UpscaleResult | Failure | Skipped:
    """``outcome`` as a person knows it: of stdin and stdout."""
    names = {job.source: STDIN}
    if not isinstance(job, Failure):
        names[job.destination] = STDOUT
    names = {path: name for path, name in names.items() if path.parent == folder}
    if isinstance(outcome, Failure):
        text = str(outcome.error)
        for path, name in names.items():
            text = text.replace(shown(path), str(name))
        return Failure(outcome.source, type(outcome.error)(text))
    return dataclasses.replace(
        outcome,
        source=names.get(outcome.source, outcome.source),
        destination=names.get(outcome.destination, outcome.destination),
    )


def _run(
    items: Sequence[Item], upscaler: Upscaler | None, report: Report | None, teller: Teller
) -> bool:
    """Do ``items`` and tell how each went; whether all went well. No upscaler: nothing to do."""
    tally = Tally(len(items))
    try:
        with teller.bar(len(items)) as show:

            def progress(source: Path, share: float) -> None:
                show(tally.finished + share, shown(Path(source.name)))

            for outcome in run_batch(items, upscaler, report, progress):
                tally.count(outcome)
                show(tally.finished, None)
                # Of many that are skipped, the number says enough.
                if len(items) == 1 or not isinstance(outcome, Skipped):
                    for line in _lines(outcome):
                        teller.say(line)
    finally:  # Also for somebody who interrupts.
        if len(items) > 1:
            teller.say(str(tally))
    return tally.failed == 0


def _lines(result: UpscaleResult | Failure | Skipped) -> list[str]:
    """What a person is told about one input."""
    if isinstance(result, Failure):
        return [f"sruplift: {result.error}"]
    if isinstance(result, Skipped):
        return [f"{shown(result.source)} -> {shown(result.destination)}: skipped, {result.why}"]
    before, after = (
        f"{width}x{height}" for height, width in (result.input_size, result.output_size)
    )
    names = f"{shown(result.source)} {before} -> {shown(result.destination)} {after}"
    warnings = [f"sruplift: warning: {shown(result.source)}: {note}" for note in result.notes]
    seams = [] if result.seams is None else [f"{shown(result.source)}: {result.seams}"]
    summary = f"{names}, {result.device}, {result.precision}, {result.seconds:.1f} s"
    return [*warnings, *seams, summary]
