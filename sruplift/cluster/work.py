"""One partition: its images fetched, enlarged as ``sruplift upscale`` does, put where they belong.

Fetching, network and putting overlap. Whoever is killed leaves whole outputs and their lines; the
next attempt does the rest. An image that kills its process again and again is given up.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sruplift.cluster.parts import Part
from sruplift.cluster.places import find_place
from sruplift.cluster.planning import ClusterOptions, Partition
from sruplift.cluster.sources import PARQUET, Member, rows, safe, tar_members
from sruplift.errors import ImageError, SrupliftError
from sruplift.files import EXISTS, Failure, Job, Skipped, shown
from sruplift.leftovers import remove_leftovers
from sruplift.pipes import suffix_of
from sruplift.report import record_of, sha256_of

if TYPE_CHECKING:
    from sruplift.upscale import UpscaleResult
    from sruplift.upscaler import Upscaler

# Images that are fetched ahead, and results that wait to be put.
AHEAD = 2
# After so many attempts without a further line, images go one at a time, none read ahead ...
CAREFUL = 2
# ... and after so many the first that is left is given up: it is the one that kills.
GIVE_UP = 5
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """How a partition went: counts, and a sentence for each failure."""

    done: int
    failed: int
    skipped: int
    errors: tuple[str, ...]


@dataclass(frozen=True)
class _Staged:
    """An image that is ready for the network, or what became of it without.

    ``output`` is the address of its result; ``files`` are copies, to be deleted afterwards.
    """

    member: Member
    item: Job | Failure | Skipped
    output: str | None = None
    name: str | None = None
    input_sha256: str | None = None
    files: tuple[Path, ...] = ()


def do_partition(
    partition: Partition,
    options: ClusterOptions,
    parameters: Mapping[str, Any],
    upscaler: Upscaler,
    scratch: Path | None = None,
) -> Outcome:
    """Do what an earlier attempt has not; every image has its line when this returns.

    Args:
        partition: from ``planning.make_plan``.
        options: those of the plan.
        parameters: for the report.
        upscaler: with ``options.upscale``.
        scratch: where copies may lie meanwhile; None is the system's folder for such.

    Raises:
        ReportError: the report cannot be read or written.
    """
    with tempfile.TemporaryDirectory(prefix="sruplift-", dir=scratch) as folder:
        attempt = _Attempt(partition, options, parameters, Path(folder))
        attempt.run(upscaler)
        return attempt.outcome()


class _Attempt:
    """Steps of ``do_partition`` that share the partition."""

    def __init__(
        self,
        partition: Partition,
        options: ClusterOptions,
        parameters: Mapping[str, Any],
        folder: Path,
    ) -> None:
        self.partition, self.options, self.parameters = partition, options, parameters
        self.source, self.target = find_place(options.input), find_place(options.output)
        self.folder = folder
        self.part = Part(self.target, partition.name)
        self.finished = self.part.finished
        self.part.begin(partition.begun, partition.taken)
        self.again = len(self.part.attempts) > 1
        self.stalled = self.part.stalled()
        self._cleaned: set[Path] = set()
        # Whose each result is: two images of a container may have names that differ in suffix.
        self._owners = dict(partition.made)
        done = (record for record in self.part.records if record["status"] == "done")
        self._owners |= {str(record["output"]): str(record["input"]) for record in done}

    def run(self, upscaler: Upscaler) -> None:
        # One at a time, lest an image be blamed for what one that is read ahead of it does.
        careful = self.stalled >= CAREFUL
        staged = self.staged() if careful else _ahead(self.staged())
        done = _enlarged(staged, upscaler, careful)
        for _ in _through(self.finish, done):
            pass
        self.part.end()

    def outcome(self) -> Outcome:
        statuses = [record["status"] for record in self.part.records]
        errors = tuple(str(record["error"]) for record in self.part.records if record["error"])
        done, failed, skipped = (statuses.count(name) for name in ("done", "failed", "skipped"))
        return Outcome(done, failed, skipped, errors)

    # ---- Before the network

    def staged(self) -> Iterator[_Staged]:
        """The images that are left, one after the other."""
        # Whatever killed the process: the first that is left is what it was at.
        suspect = self.stalled >= GIVE_UP
        try:
            for number, member in enumerate(self._members()):
                if member.uri in self.partition.done or member.uri in self.finished:
                    continue
                if suspect:
                    why = f"{member.uri}: given up, {self.stalled} processes were killed at it"
                    yield _Staged(member, Failure(Path(member.uri), ImageError(why)))
                else:
                    yield self._stage(member, number)
                suspect = False
        except SrupliftError as error:  # The rest of a container cannot be read.
            entry = self.partition.container
            if entry is None or entry.uri in self.finished:
                return
            whole = Member(entry.uri, entry.name, entry.version)
            yield _Staged(whole, Failure(Path(entry.uri), error))

    def _members(self) -> Iterator[Member]:
        fs, entry = self.source.fs, self.partition.container
        if entry is None:
            images = self.partition.images
            return (Member(each.uri, each.name, each.version, each.path) for each in images)
        if entry.kind == PARQUET:
            group, first = self.partition.group, self.partition.first
            return rows(fs, entry, self.options.image_column, group, first)
        return tar_members(fs, entry)

    def _stage(self, member: Member, number: int) -> _Staged:
        files: list[Path] = []
        item: Job | Failure | Skipped
        try:
            if not safe(member.name):
                raise ImageError(f"{member.uri}: its name leads out of the folder for results")
            source, name = self._fetched(member, number, files)
            output = self.options.output_name(name, member.path or "")
            self._require_own(member, self.target.uri_of(output))
            item = self._item(source, output, number, files)
        except SrupliftError as error:
            item = Failure(Path(member.uri), error)
            return _Staged(member, item, files=tuple(files))
        address = self.target.uri_of(output)
        sha256 = sha256_of(source) if isinstance(item, Job) else None
        return _Staged(member, item, address, name, sha256, tuple(files))

    def _require_own(self, member: Member, address: str) -> None:
        owner = self._owners.setdefault(address, member.uri)
        if owner != member.uri:
            raise ImageError(f"{owner} and {member.uri} would both be written to {address}")

    def _fetched(self, member: Member, number: int, files: list[Path]) -> tuple[Path, str]:
        """The image as a file of this machine, and its name with a suffix."""
        if member.path is not None and self.source.is_local:
            return Path(member.path), member.name
        copy = self.folder / f"{number}{Path(member.name).suffix}"
        files.append(copy)
        member.save(self.source.fs, copy)
        if copy.suffix:
            return copy, member.name
        named = copy.rename(copy.with_suffix(suffix_of(copy)))
        files.append(named)
        return named, member.name + named.suffix

    def _item(self, source: Path, output: str, number: int, files: list[Path]) -> Job | Skipped:
        address = self.target.uri_of(output)
        if address in self.partition.taken:
            if self.options.skip_existing:
                return Skipped(source, Path(address), EXISTS)
            raise ImageError(f"{address} exists (--overwrite replaces it)")
        if not self.target.is_local:
            copy = self.folder / f"{number}-result{Path(output).suffix}"
            files.append(copy)
            return Job(source, copy)
        destination = Path(address)
        self.target.make_folder_of(output)
        if self.again and destination.parent not in self._cleaned:
            self._cleaned.add(destination.parent)
            remove_leftovers([destination.parent])
        # What is there since the plan was made, an attempt before this one has written.
        replace = self.again or address in self.partition.ours
        return Job(source, destination, replace, self.options.skip_existing)

    # ---- After it

    def finish(self, pair: tuple[_Staged, UpscaleResult | Failure | Skipped]) -> None:
        """Put the result where it belongs, then write its line."""
        staged, result = pair
        try:
            record = self._record(staged, result)
            if isinstance(staged.item, Job) and record["status"] == "done":
                record = self._put(staged, record)
            self.part.add(record)
        finally:
            for file in staged.files:
                file.unlink(missing_ok=True)

    def _put(self, staged: _Staged, record: dict[str, Any]) -> dict[str, Any]:
        """Copy the result into a store; the line of a failure if that cannot be."""
        if self.target.is_local or not isinstance(staged.item, Job) or staged.output is None:
            return record
        name = staged.output.removeprefix(self.target.uri_of().rstrip("/") + "/")
        try:
            self.target.put(staged.item.destination, name)
        except ImageError as error:
            return self._record(staged, Failure(Path(staged.member.uri), error))
        return record

    def _record(self, staged: _Staged, result: UpscaleResult | Failure | Skipped) -> dict[str, Any]:
        """The line, with addresses in place of the names of copies."""
        item, member = staged.item, staged.member
        record = record_of(item, result, self.parameters, staged.input_sha256)
        names = {}
        if not isinstance(item, Failure):
            names[shown(item.source)] = member.uri
            names[shown(item.destination)] = str(staged.output)
        for key in ("error", "notes"):
            record[key] = _replaced(record[key], names)
        version = {"input_version": member.version, "input_name": staged.name or member.name}
        return {**record, "input": member.uri, "output": staged.output, **version}


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    """A sentence, or a list of them, with other names."""
    if isinstance(value, list):
        return [_replaced(each, names) for each in value]
    if isinstance(value, str):
        for name, other in names.items():
            value = value.replace(name, other)
    return value


def _enlarged(
    staged: Iterator[_Staged], upscaler: Upscaler, careful: bool
) -> Iterator[tuple[_Staged, UpscaleResult | Failure | Skipped]]:
    from sruplift.upscale import upscale_files

    if careful:
        for each in staged:
            (result,) = upscale_files([each.item], upscaler)
            yield each, result
        return
    begun: deque[_Staged] = deque()

    def items() -> Iterator[Job | Failure | Skipped]:
        for each in staged:
            begun.append(each)
            yield each.item

    for result in upscale_files(items(), upscaler):
        yield begun.popleft(), result


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """``items``, of which a thread makes the next ones meanwhile."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        pending = deque(pool.submit(next, items, end) for _ in range(AHEAD))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]


def _through(step: Callable[[T], None], items: Iterator[T]) -> Iterator[None]:
    """``step`` with each, in a thread, in order."""
    with ThreadPoolExecutor(1) as pool, contextlib.closing(items):  # type: ignore[type-var]
        pending: deque[Future[None]] = deque()
        for item in items:
            pending.append(pool.submit(step, item))
            if len(pending) > AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
