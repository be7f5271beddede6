"""What an earlier run has done already, by its report, and need not be done again."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sruplift.files import EXISTS, Failure, Job, Skipped
from sruplift.report import absolute, read_begun, read_report, sha256_of

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class History:
    """What a report says of outputs; they are known by their absolute paths.

    ``records`` has the last line of each that was written, ``written`` also those that a killed run
    may have written without a line.
    """

    records: Mapping[str, Record]
    written: frozenset[str]

    def then(self, later: History) -> History:
        """Both, of which ``later`` knows better."""
        return History({**self.records, **later.records}, self.written | later.written)

    def wrote(self, job: Job) -> bool:
        """Whether a file at the destination is one that the report's runs wrote."""
        return absolute(job.destination) in self.written

    def covers(self, job: Job, parameters: Mapping[str, Any]) -> Record | None:
        """The line by which ``job`` is done: same content, parameters and result; or None."""
        record = self.records.get(absolute(job.destination))
        if record is None or record["parameters"] != parameters:
            return None
        try:
            if job.destination.stat().st_size != record["output_bytes"]:
                return None
        except OSError:
            return None
        same_input = sha256_of(job.source) == record["input_sha256"]
        same = same_input and sha256_of(job.destination) == record["output_sha256"]
        return record if same else None


def read_history(path: Path) -> History:
    """The history that the report at ``path`` tells; an empty one if there is no such file.

    Raises:
        UsageError: the file cannot be read or is something else than a report.
    """
    # Skipped lines that repeat a "done" one count as that: it may be in another report.
    records = {
        str(record["output"]): record
        for record in read_report(path)
        if record["input_sha256"] and record["output_sha256"]
    }
    return History(records, frozenset(records) | read_begun(path))


def without_done(
    jobs: Iterable[Job | Failure],
    history: History,
    parameters: Mapping[str, Any],
    progress: Callable[[], None] = lambda: None,
) -> list[Job | Failure | Skipped]:
    """``jobs``, of which those that are done are skipped; others may replace what the report wrote.

    ``progress`` is called after each.
    """
    items: list[Job | Failure | Skipped] = []
    for job in jobs:
        items.append(_looked_up(job, history, parameters) if isinstance(job, Job) else job)
        progress()
    return items


def without_existing(items: Iterable[Job | Failure | Skipped]) -> list[Job | Failure | Skipped]:
    """``items``, of which those whose output exists, or will when it is their turn, are skipped."""
    return [_unless_exists(each) if isinstance(each, Job) else each for each in items]


def _unless_exists(job: Job) -> Job | Skipped:
    if job.replace:
        return job
    if os.path.lexists(job.destination):
        return Skipped(job.source, job.destination, EXISTS)
    return dataclasses.replace(job, skip=True)


def _looked_up(job: Job, history: History, parameters: Mapping[str, Any]) -> Job | Skipped:
    record = history.covers(job, parameters)
    if record is not None:
        return Skipped(job.source, job.destination, "done by an earlier run", record)
    return dataclasses.replace(job, replace=True) if history.wrote(job) else job
