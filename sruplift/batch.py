"""Many files at once: what is asked for, what of it is left to do, and the account of it.

Steps: ``plan_batch`` (names only), ``left_to_do`` (what earlier runs did), ``prepare`` (folders),
``run_batch`` (the work).
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sruplift.errors import UsageError
from sruplift.files import Failure, Job, Skipped, identity, is_folder, reason, shown
from sruplift.inputs import gather, read_list
from sruplift.leftovers import remove_leftovers
from sruplift.outputs import Naming, make_folders, plan_jobs
from sruplift.pipes import PIPE
from sruplift.report import Report, check_report, parameters_of
from sruplift.resume import read_history, without_done, without_existing

if TYPE_CHECKING:
    from sruplift.upscale import UpscaleResult
    from sruplift.upscaler import UpscaleOptions, Upscaler

Item = Job | Failure | Skipped


@dataclass(frozen=True)
class BatchOptions:
    """Which files go in and out, as a person writes it. "-" is stdin or stdout.

    Args:
        naming: how results are called.
        inputs: files, folders, patterns; or "-" alone.
        from_file: a list of more inputs.
        recursive: folders mean the images of their subfolders too.
        output: a file or a folder; one that ends in a slash need not exist. None is beside each
            input.
        overwrite: replace files that exist.
        skip_existing: leave out inputs whose output exists.
        report: the report to append to.
        resume: the report that says what is done; it is appended to if ``report`` is None, which
            otherwise says so, too.

    Raises:
        UsageError: options that contradict each other, or nothing to do.
    """

    naming: Naming
    inputs: tuple[str, ...] = ()
    from_file: str | None = None
    recursive: bool = False
    output: str | None = None
    overwrite: bool = False
    skip_existing: bool = False
    report: str | None = None
    resume: str | None = None

    def __post_init__(self) -> None:
        for name in ("output", "from_file", "report", "resume"):
            if getattr(self, name) == "":
                raise UsageError(f"--{name.replace('_', '-')} is empty: name a file")
        if not self.inputs and self.from_file is None:
            raise UsageError(
                "there is no input: name images or folders, or a list with --from-file"
            )
        if self.overwrite and self.skip_existing:
            raise UsageError("--overwrite and --skip-existing contradict each other")
        if self.resume == PIPE:
            raise UsageError("--resume needs a file: what was written to stdout cannot be read")
        if self.piped and (
            len(self.inputs) != 1
            or self.from_file is not None
            or self.skip_existing
            or self.report is not None
            or self.resume is not None
        ):
            raise UsageError("- means one image through a pipe: no others, no report, no skipping")

    @property
    def piped(self) -> bool:
        """Whether one image comes from stdin or goes to stdout."""
        return PIPE in self.inputs or self.output == PIPE

    @property
    def folder(self) -> Path | None:
        """Where ``output`` points to, if anywhere."""
        return None if self.output is None else Path(self.output)

    @property
    def into_folder(self) -> bool:
        """Whether ``output`` is a folder, as its name alone tells."""
        return self.output is not None and self.output.endswith(("/", os.sep))

    @property
    def lists(self) -> list[Path]:
        """The files that name inputs, or tell of them."""
        names = (self.from_file, self.report, self.resume)
        return [Path(name) for name in names if name not in (None, PIPE)]

    @property
    def report_path(self) -> Path | None:
        """The report's file, unless there is none or it goes to stdout."""
        name = self.report or self.resume
        return None if name in (None, PIPE) else Path(str(name))


def plan_batch(options: BatchOptions) -> list[Job | Failure]:
    """A job for every image that is meant, a failure for what is none. Opens no image.

    Raises:
        UsageError: from ``plan_jobs``; a list or a report that cannot be used.
    """
    folder = options.folder
    avoid = folder if folder is not None and is_folder(folder) else None
    listed = [] if options.from_file is None else _listed(options.from_file)
    found = gather(options.inputs, listed, recursive=options.recursive, avoid=avoid)
    jobs = plan_jobs(found, folder, options.naming, into_folder=options.into_folder)
    if options.report_path is not None:
        check_report(options.report_path)
    kept = {identity(path): path for path in options.lists}
    if kept:
        outputs = {identity(job.destination) for job in jobs if isinstance(job, Job)}
        for path in (kept[each] for each in kept.keys() & outputs):
            kind = "list of inputs" if path == Path(options.from_file or PIPE) else "report"
            raise UsageError(f"{shown(path)} would be both the {kind} and an output")
    if options.overwrite:
        jobs = [dataclasses.replace(j, replace=True) if isinstance(j, Job) else j for j in jobs]
    return jobs


def left_to_do(
    jobs: Sequence[Job | Failure], options: BatchOptions, parameters: Mapping[str, Any] | None
) -> list[Item]:
    """``jobs``, those left out that ``options`` say; ``parameters`` as in the report, for --resume.

    Raises:
        UsageError: the report to resume cannot be read.
    """
    items: list[Item] = list(jobs)
    if options.resume is not None:
        history = read_history(Path(options.resume))
        if options.report not in (None, PIPE, options.resume):
            # What an earlier run of this kind wrote is there.
            history = history.then(read_history(Path(str(options.report))))
        items = without_done(jobs, history, parameters or {})
    return without_existing(items) if options.skip_existing else items


def pixel_parameters(options: UpscaleOptions) -> dict[str, Any]:
    """What determines the pixels, for the report; reads no weights but to check them.

    Raises:
        UsageError: there is no such network.
        WeightsError: the weights cannot be found, downloaded or verified.
    """
    from sruplift.upscaler import native_scales
    from sruplift.weights import find_weights

    model, weights = options.model, options.weights
    used = {scale: find_weights(model, scale, weights).sha256 for scale in native_scales(options)}
    return parameters_of(options, used)


def prepare(items: Sequence[Item], options: BatchOptions) -> list[Item]:
    """Make the folders for results, and clean them of what killed runs left.

    Raises:
        ImageError: the folder for results cannot be made.
    """
    if options.folder is not None:
        items = make_folders(items, options.folder)
    remove_leftovers(item.destination.parent for item in items if isinstance(item, Job))
    return list(items)


def _listed(name: str) -> list[str]:
    try:
        data = sys.stdin.buffer.read() if name == PIPE else Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read list {shown(Path(name))}: {reason(error)}") from error
    try:
        names = read_list(data)
    except UsageError as error:
        raise UsageError(f"cannot read list {shown(Path(name))}: {error}") from error
    if not names:
        raise UsageError(f"list {shown(Path(name))} is empty")
    return names


def run_batch(
    items: Sequence[Item],
    upscaler: Upscaler | None,
    report: Report | None = None,
    progress: Callable[[Path, float], None] | None = None,
) -> Iterator[UpscaleResult | Failure | Skipped]:
    """What became of each item, in order; each has its line in the report before it is yielded.

    Args:
        items: jobs to do; failures and what is skipped are passed on.
        upscaler: may be None if there is no job.
        report: where to write lines.
        progress: is told the input and the share of it that is done, from 0 to 1.

    Raises:
        ReportError: a line cannot be written.
    """
    results: Iterator[UpscaleResult | Failure | Skipped] = iter(())
    if upscaler is not None:
        from sruplift.upscale import upscale_files

        jobs = [item for item in items if isinstance(item, Job)]
        results = upscale_files(_begun(jobs, report), upscaler, progress)
    for item in items:
        outcome = next(results) if isinstance(item, Job) else item
        if report is not None:
            report.add(item, outcome)
        yield outcome


def _begun(jobs: Iterable[Job], report: Report | None) -> Iterator[Job]:
    for job in jobs:
        if report is not None:
            report.begin(job)
        yield job


class Tally:
    """Counts a batch of ``total`` inputs; ``str(tally)`` is the sentence about it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = self.failed = self.skipped = 0
        self._started = time.monotonic()

    def count(self, outcome: UpscaleResult | Failure | Skipped) -> None:
        """One more input is finished."""
        if isinstance(outcome, Failure):
            self.failed += 1
        elif isinstance(outcome, Skipped):
            self.skipped += 1
        else:
            self.done += 1

    @property
    def finished(self) -> int:
        """How many inputs are done, failed or skipped."""
        return self.done + self.failed + self.skipped

    def __str__(self) -> str:
        parts = [f"{self.done} done"]
        left = self.total - self.finished
        for count, name in ((self.failed, "failed"), (self.skipped, "skipped"), (left, "left")):
            if count:
                parts.append(f"{count} {name}")
        return f"{', '.join(parts)} in {time.monotonic() - self._started:.1f} s"
