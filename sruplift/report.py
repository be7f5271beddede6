"""The report of a batch: JSON lines, one for each input as soon as it is finished.

A line has these keys, always all of them; what is not known is null:

- ``input``, ``output``: absolute paths.
- ``status``: "done", "skipped" or "failed"; ``error``: why it failed, one sentence.
- ``input_size``, ``output_size``: [width, height].
- ``seconds``, ``device``, ``precision``: how long it took, on what, in what.
- ``parameters``: what determines the pixels, as it was asked for, and the sha256 of the weights.
- ``input_sha256``, ``output_bytes``, ``output_sha256``: of the files.
- ``sruplift``: its version.
- ``notes``: sentences about what could not be kept, or why the input was skipped.

The line of an input that was skipped because an earlier line says that it is done repeats that
line, so that the last line of an output tells all about it.

What is begun is noted in ``REPORT.begun`` beside the report, with the report's size at that moment.
After a kill, a result that was finished a moment before and has no line behind that size is known
as ours. The file is gone after an orderly end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sruplift import __version__
from sruplift.errors import ReportError, UsageError
from sruplift.files import Failure, Job, Skipped, is_folder, reason, shown

if TYPE_CHECKING:
    from sruplift.upscale import UpscaleResult

KEYS = (
    *("input", "output", "status", "error", "input_size", "output_size", "seconds"),
    *("device", "precision", "parameters", "input_sha256", "output_bytes", "output_sha256"),
    *("sruplift", "notes"),
)
# Options that change no pixel, or that ``parameters`` has in another form. The device is none of
# them: what a GPU and a CPU make of the same picture differs by roundings.
NO_PARAMETERS = frozenset(
    ("weights", "device", "overwrite", "max_pixels", "verify_seams", "compare")
)
# What every line of a report begins with: nothing else is appended to, let alone cut.
_START = b'{"input":'


def parameters_of(options: Any, weights: Mapping[int, str]) -> dict[str, Any]:
    """What determines the pixels: all fields of ``UpscaleOptions`` but ``NO_PARAMETERS``.

    ``weights`` has the sha256 of those of every scale of the network's own that may be used.
    """
    fields = dataclasses.asdict(options).items()
    chosen = {name: value for name, value in fields if name not in NO_PARAMETERS}
    plain = json.loads(json.dumps(chosen, default=str))
    return {**plain, "weights_sha256": {f"x{scale}": weights[scale] for scale in sorted(weights)}}


class Report:
    """Writes the lines of one run; a context manager.

    Args:
        path: the file to append to; None is stdout.
        parameters: from ``parameters_of``.

    Raises:
        UsageError: the file cannot be written, or is something else than a report.
    """

    def __init__(self, path: Path | None, parameters: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.parameters = parameters
        self._inputs: dict[Path, str | None] = {}
        self._begun: set[str] = set()
        if path is None:
            return
        check_report(path)
        self._begun |= read_begun(path)
        try:
            for file in (path, begun_path(path)):
                _mend(file)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise UsageError(f"cannot write report {shown(path)}: {reason(error)}") from error

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.path is None:
            return
        self._file.close()
        if not self._begun:
            begun_path(self.path).unlink(missing_ok=True)

    def begin(self, job: Job) -> None:
        """Note what ``job`` reads before it does: a file that changes meanwhile is done again.

        Raises:
            ReportError: the note cannot be written.
        """
        self._inputs[job.destination] = sha256_of(job.source)
        # A file that is there and may not be replaced is somebody else's, and stays so.
        if self.path is None or not (job.replace or not os.path.lexists(job.destination)):
            return
        output = absolute(job.destination)
        self._begun.add(output)
        try:
            size = os.fstat(self._file.fileno()).st_size
            with begun_path(self.path).open("ab", buffering=0) as file:
                file.write(line_of({"output": output, "report_bytes": size}))
        except OSError as error:
            raise self._unwritable(error) from error

    def add(self, item: Job | Failure | Skipped, result: UpscaleResult | Failure | Skipped) -> None:
        """The line of ``item``.

        Raises:
            ReportError: it cannot be written.
        """
        sha256 = self._inputs.pop(item.destination, None) if isinstance(item, Job) else None
        record = record_of(item, result, self.parameters, sha256)
        self._write(line_of(record))
        self._begun.discard(str(record["output"]))

    def _write(self, line: bytes) -> None:
        """In one piece, so that neither a kill nor another process leaves half a line."""
        try:
            if self.path is None:
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
            elif self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> ReportError:
        where = "stdout" if self.path is None else shown(self.path)
        return ReportError(f"cannot write report {where}: {reason(error)}")


def record_of(
    item: Job | Failure | Skipped,
    result: UpscaleResult | Failure | Skipped,
    parameters: Mapping[str, Any] | None,
    input_sha256: str | None,
) -> dict[str, Any]:
    """What the report says of ``item``, with ``KEYS`` in their order."""
    record = dict.fromkeys(KEYS) | {"input": absolute(item.source), "notes": []}
    record |= {"sruplift": __version__, "parameters": parameters}
    if not isinstance(item, Failure):
        record["output"] = absolute(item.destination)
    if isinstance(item, Job):
        record["input_sha256"] = input_sha256
    if isinstance(result, Failure):
        record |= {"status": "failed", "error": str(result.error)}
    elif isinstance(result, Skipped):
        earlier = {**(result.record or {}), "input": record["input"]}
        record |= earlier | {"status": "skipped", "notes": [result.why]}
    else:
        record |= _done(result)
    return {key: record[key] for key in KEYS}


def _done(result: UpscaleResult) -> dict[str, Any]:
    # What is there no more has no size: a later run does it again.
    size = None
    with contextlib.suppress(OSError):
        size = result.destination.stat().st_size
    return {
        "status": "done",
        "input_size": result.input_size[::-1],
        "output_size": result.output_size[::-1],
        "seconds": round(result.seconds, 3),
        "device": result.device,
        "precision": result.precision,
        "output_bytes": size,
        "output_sha256": sha256_of(result.destination),
        "notes": list(result.notes),
    }


def check_report(path: Path) -> None:
    """Refuse a file that is no report, before anything is written to it.

    Raises:
        UsageError: it is a folder, unreadable, in no folder, or something else.
    """
    if is_folder(path):
        raise UsageError(f"report {shown(path)} is a folder: name a file in it")
    if not is_folder(path.parent):
        raise UsageError(f"report {shown(path)}: there is no folder {shown(path.parent)}")
    try:
        if not path.exists():
            return
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"report {shown(path)} is not a regular file")
        with path.open("rb") as file:
            start = file.read(len(_START))
    except OSError as error:
        raise UsageError(f"cannot read report {shown(path)}: {reason(error)}") from error
    if not _START.startswith(start):
        raise UsageError(f"{shown(path)} is not a report of sruplift: name another file")


def read_report(path: Path) -> list[dict[str, Any]]:
    """The lines of a report, oldest first; none if there is no file. Broken ones are left out.

    Raises:
        UsageError: the file cannot be read or is something else than a report.
    """
    check_report(path)
    return [record for _, record in _records(path)]


def read_begun(path: Path) -> set[str]:
    """The outputs that were begun for the report at ``path`` and have no line since."""
    last = {record["output"]: start for start, record in _records(path)}
    notes = [note for _, note in _parsed(begun_path(path)) if isinstance(note, dict)]
    return {
        note["output"]
        for note in notes
        if {"output", "report_bytes"} <= set(note)
        and last.get(note["output"], -1) < note["report_bytes"]
    }


def begun_path(path: Path) -> Path:
    """Where the report at ``path`` notes what is begun."""
    return path.with_name(f"{path.name}.begun")


def sha256_of(path: Path) -> str | None:
    """Of a regular file's content, in hexadecimal; None if it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None  # A pipe would wait for ever.
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole lines of a report, and the byte at which each begins."""
    for start, record in _parsed(path):
        if isinstance(record, dict) and all(key in record for key in KEYS):
            yield start, record


def _parsed(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"cannot read report {shown(path)}: {reason(error)}") from error
    start = 0
    for line in lines:
        with contextlib.suppress(ValueError):
            yield start, json.loads(line)
        start += len(line)


def _mend(path: Path) -> None:
    """End the file with a whole line: a killed process may have left a part of one."""
    data = path.read_bytes() if path.exists() else b""
    half = data[data.rfind(b"\n") + 1 :]
    if not half:
        return
    with path.open("r+b") as file:
        try:
            json.loads(half)
        except ValueError:
            file.truncate(len(data) - len(half))
        else:  # Only the end of the line is missing.
            file.seek(0, os.SEEK_END)
            file.write(b"\n")


def absolute(path: Path) -> str:
    """How the report calls a file."""
    return os.path.abspath(path)  # noqa: PTH100 - resolve() follows links.


def line_of(value: Any) -> bytes:
    """JSON in UTF-8; bytes of a name that are no UTF-8 as ``os.fsdecode`` and JSON write them."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
