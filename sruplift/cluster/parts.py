"""The report of a batch on a cluster: a file of JSON lines for each partition of each run.

The files lie in ``OUTPUT/_report``: ``part-RUN-PARTITION.jsonl``, both numbers counted up. A line
has the keys of ``sruplift.report`` and two more, by which a later run tells what is done:

- ``input_version``: size and time or tag of the input's file, as its store tells them.
- ``input_name``: the input's name relative to the folder that was given.

``input`` and ``output`` are addresses; an image in a container has the container's and, after a #,
its name or the number of its row. A file is written anew, whole, with each line: stores cannot
append. ``part-….begun`` says what a partition has begun; it is gone when that is done. After a run
to the end no input has two lines but one that was done before and fails now.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sruplift.cluster.places import Place
from sruplift.errors import ImageError, ReportError
from sruplift.files import EXISTS
from sruplift.report import KEYS, line_of

FOLDER = "_report"
# Why an image is skipped for which a result was there already.
MORE_KEYS = ("input_version", "input_name")
_PART = re.compile(r"part-(\d+)-\d+\.(jsonl|begun)")
Record = Mapping[str, Any]


def part_name(run: int, number: int) -> str:
    """The name of a partition; of run 1 on."""
    return f"part-{run:05}-{number:05}"


class Part:
    """The lines of one partition, and the note of what it has begun.

    A partition that is begun again, because the process that did it was killed, finds them there.

    Raises:
        ReportError: they cannot be read or written.
    """

    def __init__(self, place: Place, name: str) -> None:
        self._place = place
        self._lines, self._note = f"{FOLDER}/{name}.jsonl", f"{FOLDER}/{name}.begun"
        self.records: list[Record] = _records(self._read(self._lines))
        self.attempts: list[int] = _begun(self._read(self._note)).get("attempts", [])

    @property
    def finished(self) -> set[str]:
        """The inputs that have their line."""
        return {str(record["input"]) for record in self.records}

    def begin(self, inputs: Iterable[str], taken: Iterable[str]) -> None:
        """Note that the results of ``inputs`` will be ours, but for the outputs ``taken``."""
        self.attempts.append(len(self.records))
        note = {"inputs": list(inputs), "taken": sorted(taken), "attempts": self.attempts}
        self._write(self._note, line_of(note))

    def stalled(self) -> int:
        """How many attempts before this one ended without a further line."""
        *before, now = self.attempts
        return sum(1 for count in before if count == now)

    def add(self, record: Record) -> None:
        """One more line."""
        self.records.append(record)
        self._write(self._lines, _text(self.records))

    def end(self) -> None:
        """All is done: what was begun needs no note."""
        try:
            self._place.remove(self._note)
        except ImageError as error:
            raise ReportError(str(error)) from error

    def _read(self, name: str) -> bytes:
        try:
            return self._place.read(name)
        except ImageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return b""
            raise ReportError(str(error)) from error

    def _write(self, name: str, data: bytes) -> None:
        _write(self._place, name, data)


@dataclass(frozen=True)
class History:
    """What the reports of earlier runs say.

    ``records`` has the lines of what was done or skipped, by input, newest last; ``written`` the
    outputs; ``begun``, by input or container, the outputs that were somebody else's when it was
    begun.
    """

    run: int = 0
    records: Mapping[str, list[Record]] = field(default_factory=dict)
    written: frozenset[str] = frozenset()
    begun: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def wrote(self, begun: str, output: str) -> bool:
        """Whether the file at ``output``, of the input or container ``begun``, is ours."""
        return output in self.written or (begun in self.begun and output not in self.begun[begun])

    def covers(
        self,
        source: str,
        version: str,
        output: str | None,
        parameters: Record,
        sizes: Mapping[str, int],
    ) -> bool:
        """Whether an image is done: same file, parameters and result.

        ``output`` None: where it is known from the line alone. ``sizes`` are those of all outputs
        that exist, bytes.
        """
        for record in reversed(self.records.get(source, [])):
            place = record["output"]
            if output not in (None, place) or record["parameters"] != parameters:
                continue
            if not version or record["input_version"] != version:
                continue
            if record["status"] == "skipped":
                # It was large enough: there is no output. Or somebody else's was there then.
                return place not in sizes and EXISTS not in (record["notes"] or ())
            return sizes.get(place) == record["output_bytes"]
        return False


def read_history(place: Place, files: Iterable[str]) -> History:
    """What the report below ``place`` says; ``files`` are the names of all files there.

    Raises:
        ReportError: it cannot be read.
    """
    names = sorted(name for name in _in_report(files) if name.endswith(".jsonl"))
    notes = sorted(name for name in _in_report(files) if name.endswith(".begun"))
    try:
        lines, begun_lines = place.read_all(names), place.read_all(notes)
    except ImageError as error:
        raise ReportError(str(error)) from error
    records: dict[str, list[Record]] = {}
    for record in (record for data in lines for record in _records(data)):
        if record["status"] != "failed":
            records.setdefault(str(record["input"]), []).append(record)
    begun: dict[str, frozenset[str]] = {}
    for note in map(_begun, begun_lines):
        taken = frozenset(note.get("taken", ()))
        for each in note.get("inputs", ()):
            begun[each] = begun.get(each, taken) & taken
    written = (r["output"] for each in records.values() for r in each if r["status"] == "done")
    return History(_last_run(files), records, frozenset(written), begun)


def tidy(place: Place, files: Iterable[str], run: int) -> None:
    """After the end of ``run``: no line that a later one replaces, no note of earlier runs.

    Raises:
        ReportError: the report cannot be read or written.
    """
    names = sorted(name for name in _in_report(files) if name.endswith(".jsonl"))
    try:
        parts = dict(zip(names, map(_records, place.read_all(names)), strict=True))
        for name, kept in _without_replaced(parts).items():
            if not kept:
                place.remove(name)
            elif len(kept) < len(parts[name]):
                _write(place, name, _text(kept))
        for name in _in_report(files):
            if name.endswith(".begun") and _run_of(name) <= run:
                place.remove(name)
    except ImageError as error:
        raise ReportError(str(error)) from error


def _without_replaced(parts: Mapping[str, list[Record]]) -> dict[str, list[Record]]:
    """The lines that none of a later part replaces: a success one of the same output, a failure
    any of the same input.
    """
    outputs, inputs = set[str](), set[str]()
    kept: dict[str, list[Record]] = {}
    for name in sorted(parts, reverse=True):
        kept[name] = [
            record
            for record in parts[name]
            if (record["input"] not in inputs)
            or (record["status"] != "failed" and record["output"] not in outputs)
        ]
        inputs |= {str(record["input"]) for record in parts[name]}
        outputs |= {str(r["output"]) for r in parts[name] if r["status"] != "failed"}
    return kept


def _in_report(files: Iterable[str]) -> list[str]:
    start = f"{FOLDER}/"
    return [n for n in files if n.startswith(start) and _PART.fullmatch(n.removeprefix(start))]


def _run_of(name: str) -> int:
    match = _PART.fullmatch(name.removeprefix(f"{FOLDER}/"))
    return int(match[1]) if match else 0


def _last_run(files: Iterable[str]) -> int:
    return max(map(_run_of, _in_report(files)), default=0)


def _records(data: bytes) -> list[Record]:
    records = list[Record]()
    for line in data.splitlines():
        value = _json(line)
        if all(key in value for key in (*KEYS, *MORE_KEYS)):
            records.append(value)
    return records


def _begun(data: bytes) -> dict[str, Any]:
    return _json(data)


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _text(records: Iterable[Record]) -> bytes:
    return b"".join(line_of(record) for record in records)


def _write(place: Place, name: str, data: bytes) -> None:
    try:
        place.write(name, data)
    except ImageError as error:
        raise ReportError(f"the report: {error}") from error
