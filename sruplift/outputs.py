"""Where results go: their names and folders, and that none takes another file's place.

All of it happens before the first image is opened, so that names that clash cost no work.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import string
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from sruplift.errors import ImageError, SrupliftWarning, UsageError, unknown_name
from sruplift.files import (
    TEMPLATE,
    WRITABLE,
    Failure,
    Found,
    Job,
    Skipped,
    check_suffix,
    identity,
    is_folder,
    reason,
    shown,
)
from sruplift.manifest import read_manifest

# What `sruplift explain` makes of one image with one or several networks.
ATTRIBUTION = "{stem}_{models}_x{scale}_lam.png"
Item = Job | Failure | Skipped
# Sizes as ``sizes.Target.label`` writes them.
_NUMBER = r"\d+(?:\.\d+)?"
_SIZES = rf"(?:x{_NUMBER}|\d+x\d+|\d+(?:w|h|max)|{_NUMBER}mp)"
FIELDS = ("stem", "suffix", "model", "size", "scale", "parent", "index")


@dataclass(frozen=True)
class Naming:
    """How results are called.

    Args:
        model: the network's name.
        scale: how many times larger; None if each image has its own.
        suffix: of the results, such as ".png"; None keeps the input's where it can be written.
        template: a format string of ``FIELDS``: ``stem`` of the input, ``suffix`` of the result,
            ``parent``, the name of the input's folder, and ``index``, its number from 1 on.
        label: ``size`` in the template; "x4" for a scale of 4 if it is not given.

    Raises:
        UsageError: a suffix that cannot be written, or a template that is none.
    """

    model: str
    scale: float | None
    suffix: str | None = None
    template: str = TEMPLATE
    label: str | None = None

    def __post_init__(self) -> None:
        if self.suffix is not None:
            check_suffix(self.suffix)
        try:
            parts = list(string.Formatter().parse(self.template))
        except ValueError as error:
            raise self._wrong(str(error)) from error
        for _, field, spec, conversion in parts:
            if field is not None and field not in FIELDS:
                raise self._wrong(unknown_name("field", field, FIELDS))
            if field == "scale" and self.scale is None:
                raise self._wrong("there is no {scale} where each image has its own; use {size}")
            if conversion or (spec and "{" in spec):
                raise self._wrong("a field has a name and at most a format such as {index:03}")

    @property
    def numbered(self) -> bool:
        """Whether the names depend on the inputs' numbers."""
        return any(field == "index" for _, field, *_ in string.Formatter().parse(self.template))

    def name(self, source: Path, index: int = 1) -> str:
        """``photo.jpg`` -> ``photo_pan_x4.jpg``; a suffix that cannot be written is ``.png``.

        Raises:
            UsageError: what the template gives is not the name of an image.
        """
        suffix = self.suffix
        if suffix is None:
            suffix = source.suffix if source.suffix.lower() in WRITABLE else ".png"
        values = {
            "stem": source.stem,
            "suffix": suffix,
            "model": self.model,
            "size": self.label or f"x{_plain(self.scale)}",
            "scale": _plain(self.scale),
            "parent": _parent(source),
            "index": index,
        }
        try:
            name = self.template.format(**values)
        except ValueError as error:
            raise self._wrong(str(error)) from error
        separators = [each for each in (os.sep, os.altsep, "\0") if each and each in name]
        if separators or name in ("", os.curdir, os.pardir):
            raise self._wrong(f"{name!r} for {shown(source)} is not the name of a file")
        self.check(Path(name))
        return name

    def check(self, path: Path) -> None:
        """Refuse a name whose suffix cannot be written or is not that of the format asked for."""
        check_suffix(path.suffix, path)
        if self.suffix is not None and WRITABLE[path.suffix.lower()] != WRITABLE[self.suffix]:
            raise UsageError(f"--format {self.suffix[1:]} contradicts the name {shown(path)}")

    def _wrong(self, why: str) -> UsageError:
        return UsageError(f"--output-template {self.template!r}: {why}")


def plan_jobs(
    found: Sequence[Found | Failure],
    output: Path | None,
    naming: Naming,
    *,
    into_folder: bool = False,
) -> list[Job | Failure]:
    """What to do with the images that were found, in their order.

    Args:
        found: from ``inputs.gather``.
        output: a file for one image, or a folder, in which the folders of what was found below
            another folder are mirrored; None is beside each input.
        naming: how results are called, but for one that ``output`` names.
        into_folder: ``output`` is a folder even if it does not exist yet.

    Returns:
        A job for every image and the failures that were given. An image in a folder that is
        another image's result is left out: an earlier run wrote it there. So is, with a warning,
        what has the name of such a result of another network or size, where results go into
        its folder.

    Raises:
        UsageError: two inputs would have the same output, an output is an input, or a suffix
            cannot be written.
    """
    images = [each for each in found if isinstance(each, Found)]
    if not images:
        return [each for each in found if isinstance(each, Failure)]
    several = len(found) > 1 or images[0].root is not None
    folder = output is not None and (into_folder or several or is_folder(output))
    if output is not None:
        _check_output(output, naming, folder, into_folder)
    fixed = None if folder else output
    jobs = _named(found, output, naming, fixed)
    if not naming.numbered:  # With numbers, another image's result may be a photo all the same.
        found = _without_other_results(_without_own_results(found, jobs), output, naming)
        jobs = _named(found, output, naming, fixed)
    check_clashes([job for job in jobs if isinstance(job, Job)])
    return [_checked_length(job) for job in jobs]


def _named(
    found: Iterable[Found | Failure], output: Path | None, naming: Naming, fixed: Path | None
) -> list[Job | Failure]:
    jobs: list[Job | Failure] = []
    index = 0
    for each in found:
        if isinstance(each, Failure):
            jobs.append(each)
            continue
        index += 1
        folder = each.path.parent
        if output is not None:
            inner = folder.relative_to(each.root) if each.root is not None else Path()
            folder = output / inner
        jobs.append(Job(each.path, fixed or folder / naming.name(each.path, index)))
    return jobs


def _check_output(output: Path, naming: Naming, folder: bool, into_folder: bool) -> None:
    exists = os.path.lexists(output)
    if folder and exists and not is_folder(output):
        raise UsageError(f"{shown(output)} is a file: several images need a folder")
    if folder and not exists and not into_folder and output.suffix.lower() in WRITABLE:
        raise UsageError(
            f"{shown(output)} is the name of one image, and there are several: name a folder"
            f" ({shown(output)}/ if it is to be called so)"
        )
    if folder:
        return
    if naming.template != TEMPLATE:
        raise UsageError(f"--output-template needs a folder for --output, not {shown(output)}")
    if not output.suffix:
        raise UsageError(
            f"{shown(output)} has no suffix that names a format (valid: {', '.join(WRITABLE)}): for"
            f" a folder write {shown(output)}/"
        )
    naming.check(output)


def _without_own_results(
    found: Iterable[Found | Failure], jobs: Iterable[Job | Failure]
) -> list[Found | Failure]:
    """Leave out what a folder holds only because an earlier run wrote it there."""
    results = {identity(job.destination): job.source for job in jobs if isinstance(job, Job)}
    return [
        each
        for each in found
        # An image that would be its own result is the one to refuse, not to leave out.
        if isinstance(each, Failure)
        or each.named
        or results.get(identity(each.path), each.path) == each.path
    ]


def _without_other_results(
    found: Sequence[Found | Failure], output: Path | None, naming: Naming
) -> list[Found | Failure]:
    """Leave out, and say so, what runs with another network or size seem to have left in a folder.

    Else every run there would enlarge the results of all runs before.
    """
    images = [each for each in found if isinstance(each, Found)]
    is_beside = cache(partial(_is_beside, output))  # Of a folder: links are followed once.
    beside = {e.path for e in images if not e.named and is_beside(e.path.parent, e.root)}
    if not beside:
        return list(found)
    templates = (TEMPLATE, naming.template, ATTRIBUTION)
    patterns = [_of_results(template, naming.model) for template in templates]
    stems = {(each.path.parent, each.path.stem) for each in images}

    def origin(path: Path) -> str | None:
        stem = _stem_of(path.name, patterns)
        while stem and (path.parent, stem) not in stems:
            stem = _stem_of(stem + path.suffix, patterns)
        return stem

    origins = {path: stem for path in beside if (stem := origin(path)) is not None}
    if origins:
        path = min(origins)
        warnings.warn(
            f"{len(origins)} of the images are left out as results of earlier runs by their names:"
            f" {shown(path)}, for one, of {origins[path]} (name a file to enlarge it all the same)",
            SrupliftWarning,
            stacklevel=2,
        )
    return [each for each in found if isinstance(each, Failure) or each.path not in origins]


def _is_beside(output: Path | None, folder: Path, root: Path | None) -> bool:
    """Whether results of images in ``folder``, found below ``root``, are written into it."""
    if output is None:
        return True
    inner = folder.relative_to(root) if root is not None else Path()
    return identity(output / inner) == identity(folder)


def _of_results(template: str, model: str) -> re.Pattern[str] | None:
    """What results are called, whatever the network and size; None if names cannot tell."""
    parts = list(string.Formatter().parse(template))
    fields = {field for _, field, *_ in parts}
    # A size alone may be a number that a camera wrote, or a thumbnail's.
    if "stem" not in fields or not fields & {"model", "models"}:
        return None
    models = "|".join(map(re.escape, {model, *read_manifest().model_names()}))
    of_field = {
        "model": f"(?:{models})",
        "models": f"(?:{models})(?:_(?:{models}))*",
        "size": _SIZES,
        "scale": _NUMBER,
        "suffix": r"\.[^.]+",
        "parent": ".+",
    }
    pattern = ""
    for literal, field, *_ in parts:
        pattern += re.escape(literal)
        if field == "stem":
            several = "?" if "models" in fields else ""
            pattern += "(?P=stem)" if "?P<stem>" in pattern else f"(?P<stem>.+{several})"
        elif field is not None:
            pattern += of_field[field]
    return re.compile(pattern, re.DOTALL)


def _stem_of(name: str, patterns: Iterable[re.Pattern[str] | None]) -> str | None:
    """The stem that a result of this name was made from."""
    for pattern in patterns:
        match = pattern.fullmatch(name) if pattern is not None else None
        if match is not None:
            return match["stem"]
    return None


def check_clashes(jobs: Sequence[Job]) -> None:
    """Refuse two jobs with one destination, and any that overwrites an input.

    Raises:
        UsageError: names them.
    """
    sources = {identity(job.source) for job in jobs}
    taken: dict[str, list[Job]] = {}
    for job in jobs:
        name = identity(job.destination)
        if name in sources:
            raise UsageError(f"{shown(job.destination)} is an input and would be overwritten")
        alike = taken.setdefault(_folded(name), [])
        for other in alike:
            if _are_one(Path(identity(other.destination)), Path(name)):
                raise UsageError(
                    f"{shown(other.source)} and {shown(job.source)} would both be written "
                    f"to {shown(job.destination)}: tell them apart by --output-template, with"
                    " {parent} or {index}, or enlarge one of them by itself, with -o"
                )
        alike.append(job)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


def check_sheet(sheet: Path, jobs: Iterable[Item], others: Iterable[Path] = ()) -> None:
    """Refuse a sheet that would take the place of an input, of a result, or of ``others``.

    Raises:
        UsageError: names it; or the sheet's is no name of a picture that can be written.
    """
    check_suffix(sheet.suffix, sheet)
    kept = [(path, "a list or a report") for path in others]
    for job in jobs:
        if isinstance(job, Job):
            kept += [(job.source, "an input"), (job.destination, "the result")]
    for path, kind in kept:
        if is_same(path, sheet):
            raise UsageError(f"--compare {shown(sheet)} is {kind} and would be overwritten")


def is_same(path: Path, other: Path) -> bool:
    """Whether two paths are one place, also where a folder takes their names for the same."""
    first, second = identity(path), identity(other)
    return _folded(first) == _folded(second) and _are_one(Path(first), Path(second))


def _are_one(first: Path, second: Path) -> bool:
    """Whether paths that differ at most in case or in the form of their accents are one file."""
    if first == second:
        return True
    folder = Path(os.path.commonpath([first, second]))
    one, other = (path.relative_to(folder).parts[0] for path in (first, second))
    while not is_folder(folder):
        folder = folder.parent
    return mixes_up(folder, one, other)


def mixes_up(folder: Path, one: str, other: str) -> bool:
    """Whether ``folder`` takes two names for the same: it is asked by making a file.

    A folder in which no file can be made is taken for one that does.
    """
    start = f".sruplift-{secrets.token_hex(8)}-"
    try:
        (folder / (start + one)).touch(exist_ok=False)
        return os.path.lexists(folder / (start + other))
    except OSError:
        return True
    finally:
        with contextlib.suppress(OSError):
            (folder / (start + one)).unlink()


def _checked_length(job: Job | Failure) -> Job | Failure:
    """A failure where the system does not even look at the destination's name."""
    if isinstance(job, Failure):
        return job
    try:
        job.destination.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            text = f"cannot write {shown(job.destination)}: {reason(error)}"
            return Failure(job.source, ImageError(text))
    return job


def make_folders(items: Iterable[Item], output: Path) -> list[Item]:
    """``items``, their folders at and below ``output`` made; a failure where one cannot be.

    Raises:
        ImageError: ``output`` itself cannot be made.
    """
    return [
        _with_folder(item, output) if isinstance(item, Job) and item.destination != output else item
        for item in items
    ]


def _with_folder(job: Job, output: Path) -> Job | Failure:
    folder = job.destination.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        failure = ImageError(f"cannot make folder {shown(folder)}: {reason(error)}")
        if not is_folder(output):
            raise failure from error
        return Failure(job.source, failure)
    return job


def _parent(source: Path) -> str:
    return Path(os.path.abspath(source)).parent.name  # noqa: PTH100 - resolve() follows links.


def _plain(scale: float | None) -> float | None:
    """2 for 2.0: so a person writes it."""
    return int(scale) if scale is not None and scale == int(scale) else scale
