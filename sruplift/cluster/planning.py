"""What is left of a batch to do, cut into partitions. No image is opened, but Parquet's footers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sruplift.cluster.parts import FOLDER, History, part_name, read_history
from sruplift.cluster.places import Place, find_place
from sruplift.cluster.sources import PARQUET, TAR, Entry, find_entries, row_groups, row_uri, safe
from sruplift.errors import ImageError, SrupliftError, UsageError
from sruplift.files import Failure, Job
from sruplift.leftovers import remove_leftovers
from sruplift.outputs import Naming, check_clashes

if TYPE_CHECKING:
    from sruplift.upscaler import UpscaleOptions

# Images of a partition at most: what a killed worker does again is a few, but it reads the report.
LARGEST = 64
# Partitions for each worker at least, where there are enough images: none waits long for the last.
SHARES = 4


@dataclass(frozen=True)
class ClusterOptions:
    """Which images go in and out, and how.

    Args:
        input: a folder, a pattern, an image, a Parquet or tar file; a path or an address.
        output: the folder for results, a path or an address. The input's folders are mirrored.
        naming: how results are called; not by number, for a later run may count otherwise.
        upscale: what is done to each.
        skip_existing: leave out inputs whose output exists.
        image_column: of Parquet; None is ``sources.IMAGE_COLUMN``, or the only one of bytes.

    Raises:
        UsageError: options that contradict each other or cannot be meant.
    """

    input: str
    output: str
    naming: Naming
    upscale: UpscaleOptions
    skip_existing: bool = False
    image_column: str | None = None

    def __post_init__(self) -> None:
        if self.upscale.overwrite and self.skip_existing:
            raise UsageError("--overwrite and --skip-existing contradict each other")
        if self.naming.numbered:
            raise UsageError("--output-template: {index} may differ from run to run; use {stem}")
        if self.upscale.compare is not None or self.upscale.verify_seams:
            raise UsageError("sheets and seams are of sruplift upscale, not of batches")
        if self.upscale.device.startswith("cuda:"):
            raise UsageError("Ray gives each worker its GPU: say --device cuda, without a number")
        source, target = find_place(self.input), find_place(self.output)
        if (source.uri_of(), source.fs) == (target.uri_of(), target.fs):
            raise UsageError("the output is the input: name another folder for results")
        if target.is_local and Path(target.root).is_file():
            raise UsageError(f"{target.uri_of()} is a file: results need a folder")

    def output_name(self, name: str, path: str = "") -> str:
        """Where the result of the input ``name`` goes, relative to the output.

        ``path`` is all of the input's name, of which the template may ask for the folder.

        Raises:
            UsageError: what the template gives is not the name of an image.
        """
        whole = Path("/", path or name)
        return str(PurePosixPath(name).with_name(self.naming.name(whole)))


@dataclass(frozen=True)
class Partition:
    """Work for one process: images, or a container (a row group of it, of rows from ``first``).

    Attributes:
        name: of its part of the report.
        done: the images in a container that are not to be done.
        made: the outputs of those, and whose each is.
        taken: outputs that exist and are somebody else's.
        ours: outputs that exist and may be replaced.
    """

    name: str
    images: tuple[Entry, ...] = ()
    container: Entry | None = None
    group: int = 0
    first: int = 0
    done: frozenset[str] = frozenset()
    made: Mapping[str, str] = field(default_factory=dict)
    taken: frozenset[str] = frozenset()
    ours: frozenset[str] = frozenset()

    @property
    def begun(self) -> list[str]:
        """What is noted when it is begun."""
        return [self.container.uri] if self.container else [each.uri for each in self.images]


@dataclass(frozen=True)
class Plan:
    """``partitions`` to do, in run ``run``, what failed already, how many images are done.

    ``images`` are those to do as far as they can be counted: those of tar files cannot.
    """

    run: int
    partitions: tuple[Partition, ...]
    failures: tuple[Failure, ...] = ()
    skipped: int = 0
    images: int = 0


def make_plan(options: ClusterOptions, parameters: Mapping[str, Any], workers: int) -> Plan:
    """What is left to do for so many workers; ``parameters`` as in the report.

    Raises:
        UsageError: two inputs would have the same output, an output is an input, a column of
            Parquet is not there.
        SrupliftError: a store does not answer.
        ReportError: the report of earlier runs cannot be read.
    """
    source, target = find_place(options.input), find_place(options.output)
    files = target.files()
    _remove_leftovers(target, files)
    planner = _Planner(
        options,
        parameters,
        source,
        target,
        history=read_history(target, files),
        sizes={target.uri_of(n): int(info.get("size") or 0) for n, info in files.items()},
    )
    return planner.plan(find_entries(options.input, source, target), workers)


def _remove_leftovers(target: Place, files: Iterable[str]) -> None:
    """Of killed processes of this machine; those in a store cost a name each, never an image."""
    if target.is_local:
        parts = (Path(target.path_of(n)) for n in files if n.endswith(".part"))
        remove_leftovers(part.parent for part in parts)


class _Planner:
    """Steps of ``make_plan`` that share what is known of the past."""

    def __init__(
        self,
        options: ClusterOptions,
        parameters: Mapping[str, Any],
        source: Place,
        target: Place,
        history: History,
        sizes: Mapping[str, int],
    ) -> None:
        self.options, self.parameters = options, parameters
        self.source, self.target = source, target
        self.history, self.sizes = history, sizes
        self.failures: list[Failure] = []
        self.skipped = self.images = 0

    def plan(self, entries: Sequence[Entry | Failure], workers: int) -> Plan:
        self.failures += [each for each in entries if isinstance(each, Failure)]
        found = [each for each in entries if isinstance(each, Entry)]
        containers = [each for each in found if each.kind in (PARQUET, TAR)]
        images = self._named([each for each in found if each.kind not in (PARQUET, TAR)])
        self._check_names(images, containers)
        pieces = [*self._of_images(images, workers)]
        for each in containers:
            pieces += self._of_container(each)
        run = self.history.run + 1
        # Number 0 is the plan's own failures'.
        named = (
            Partition(part_name(run, number), **piece) for number, piece in enumerate(pieces, 1)
        )
        return Plan(run, tuple(named), tuple(self.failures), self.skipped, self.images)

    def _named(self, entries: Iterable[Entry]) -> dict[Entry, str]:
        """The images, and the names of their outputs; a failure for one that has none."""
        names: dict[Entry, str] = {}
        for each in entries:
            try:
                if not safe(each.name):
                    raise ImageError(f"{each.uri}: its name leads out of the folder for results")
                names[each] = self.options.output_name(each.name, each.path)
            except ImageError as error:
                self.failures.append(Failure(Path(each.uri), error))
        return names

    def _check_names(self, images: Mapping[Entry, str], containers: Sequence[Entry]) -> None:
        outputs = Counter(images.values())
        for each, name in images.items():
            if outputs[name] > 1:
                address = self.target.uri_of(name)
                raise UsageError(f"{each.uri} and another would both be written to {address}")
        if clash := {self.target.uri_of(name) for name in outputs} & {e.uri for e in images}:
            raise UsageError(f"{min(clash)} is an input and would be overwritten")
        if self.target.is_local and self.source.is_local:
            whole = ((Path(e.path), Path(self.target.path_of(n))) for e, n in images.items())
            check_clashes([Job(*paths) for paths in whole])
        if containers and "{stem" not in self.options.naming.template:
            raise UsageError(
                f"--output-template: the images in {containers[0].uri} need {{stem}} to have names"
                " of their own"
            )
        folders = Counter(each.folder for each in containers)
        folders += Counter({FOLDER: 1})
        for each in containers:
            mixed = any(name.startswith(f"{each.folder}/") for name in outputs)
            if folders[each.folder] > 1 or mixed:
                raise UsageError(
                    f"the images in {each.uri} and others would be written to"
                    f" {self.target.uri_of(each.folder)}: do it by itself"
                )

    def _of_images(self, images: Mapping[Entry, str], workers: int) -> Iterator[dict[str, Any]]:
        left: dict[Entry, str] = {}
        for each, name in images.items():
            output = self.target.uri_of(name)
            exists = self.options.skip_existing and output in self.sizes
            if exists or self._covers(each.uri, each, output):
                self.skipped += 1
            else:
                left[each] = output
        self.images += len(left)
        size = max(1, min(LARGEST, math.ceil(len(left) / (workers * SHARES))))
        entries = list(left)
        for start in range(0, len(entries), size):
            some = tuple(entries[start : start + size])
            there = [(each.uri, left[each]) for each in some if left[each] in self.sizes]
            yield {"images": some, **self._existing(there)}

    def _of_container(self, entry: Entry) -> Iterator[dict[str, Any]]:
        if not safe(entry.folder):
            error = ImageError(f"{entry.uri}: its name leads out of the folder for results")
            self.failures.append(Failure(Path(entry.uri), error))
            return
        start = self.target.uri_of(entry.folder) + "/"
        existing = self._existing([(entry.uri, o) for o in self.sizes if o.startswith(start)])
        if entry.kind == PARQUET:
            yield from self._of_parquet(entry, existing)
            return
        inside = f"{entry.uri}#"
        known = (each for each in self.history.records if each.startswith(inside))
        done = frozenset(each for each in known if self._covers(each, entry))
        self.skipped += len(done)
        yield {"container": entry, "done": done, "made": self._made(done), **existing}

    def _of_parquet(self, entry: Entry, existing: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            groups = row_groups(self.source.fs, entry, self.options.image_column)
        except UsageError:
            raise
        except SrupliftError as error:
            self.failures.append(Failure(Path(entry.uri), error))
            return
        first = 0
        for group, count in enumerate(groups):
            inputs = [row_uri(entry, row) for row in range(first, first + count)]
            done = frozenset(each for each in inputs if self._covers(each, entry))
            self.skipped += len(done)
            self.images += count - len(done)
            if len(done) < count:
                place = {"container": entry, "group": group, "first": first}
                yield {**place, "done": done, **existing}
            first += count

    def _covers(self, source: str, entry: Entry, output: str | None = None) -> bool:
        """Whether an image is done; without ``output``, one whose name its line alone knows."""
        if output is None:
            lines = self.history.records.get(source, [])
            names = (str(record["input_name"]) for record in lines)
            outputs = {self.target.uri_of(self.options.output_name(name)) for name in names}
        else:
            outputs = {output}
        facts = (self.parameters, self.sizes)
        return any(self.history.covers(source, entry.version, each, *facts) for each in outputs)

    def _made(self, done: Iterable[str]) -> dict[str, str]:
        """The outputs of images that are done, and whose each is."""
        lines = ((each, record) for each in done for record in self.history.records[each])
        return {str(r["output"]): each for each, r in lines if r["status"] == "done"}

    def _existing(self, pairs: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
        """Of outputs that exist, by input or container: whose they are."""
        overwrite = self.options.upscale.overwrite
        pairs = list(pairs)
        ours: set[str] = set()
        if not self.options.skip_existing:
            ours = {out for begun, out in pairs if overwrite or self.history.wrote(begun, out)}
        return {"ours": frozenset(ours), "taken": frozenset(out for _, out in pairs) - ours}
