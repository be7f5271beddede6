"""Which files go in and which come out: suffixes, folders, output names. Reads no image.

All of it happens before the first image is opened, so that names that clash cost no work.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sruplift.errors import ImageError, SrupliftError, UsageError

# Suffix -> Pillow's name of the format.
WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".gif": "GIF",
}
READABLE = {**WRITABLE, ".bmp": "BMP", ".heic": "HEIF", ".heif": "HEIF"}


@dataclass(frozen=True)
class Job:
    """One image to read and where its result goes."""

    source: Path
    destination: Path


@dataclass(frozen=True)
class Failure:
    """An input that was not done, and the error that says why in one sentence."""

    source: Path
    error: SrupliftError


@dataclass(frozen=True)
class Skipped:
    """An input that needs no work, and why; ``record`` is the line of the report that says so."""

    source: Path
    destination: Path
    why: str
    record: Mapping[str, Any] | None = None


def shown(path: Path) -> str:
    """``path`` for a sentence: quoted where its own characters would break the line."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def reason(error: OSError) -> str:
    """What the system says about ``error``, without numbers and names."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder; one that the system will not look at is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def plan_jobs(
    inputs: Sequence[Path],
    output: Path | None,
    *,
    model: str,
    scale: int,
    suffix: str | None = None,
    into_folder: bool = False,
) -> list[Job | Failure]:
    """What to do with ``inputs``, in their order.

    Args:
        inputs: image files, and folders whose images (by suffix, not those of subfolders) are
            meant.
        output: a file for one input file, or a folder; ``None`` is beside each input.
        model: goes into the output's name, ``photo_pan_x4.png``.
        scale: goes into the output's name.
        suffix: of the outputs, such as ".png"; ``None`` keeps the input's where it can be written.
        into_folder: ``output`` is a folder even if it does not exist yet.

    Returns:
        A job for every image; a failure for an input that is not there or a folder without images.

    Raises:
        UsageError: two inputs would have the same output, an output is an input, or a suffix
            cannot be written.
    """
    if suffix is not None:
        check_suffix(suffix)
    several = len(inputs) != 1 or is_folder(inputs[0])
    folder = output is not None and (into_folder or several or is_folder(output))
    if output is not None:
        _check_output(output, suffix, folder)
    found = dict.fromkeys(each for path in inputs for each in _images(path))
    jobs: list[Job | Failure] = []
    for each in found:
        if isinstance(each, Failure):
            jobs.append(each)
        elif output is None:
            jobs.append(Job(each, each.parent / output_name(each, model, scale, suffix)))
        else:
            name = output_name(each, model, scale, suffix)
            jobs.append(Job(each, output / name if folder else output))
    return _checked(_without_own_results(jobs, inputs))


def _check_output(output: Path, suffix: str | None, folder: bool) -> None:
    if folder and os.path.lexists(output) and not is_folder(output):
        raise UsageError(f"{shown(output)} is a file: several images need a folder")
    if folder:
        return
    check_suffix(output.suffix, output)
    if suffix is not None and WRITABLE[output.suffix.lower()] != WRITABLE[suffix]:
        raise UsageError(f"--format {suffix[1:]} contradicts the name {shown(output)}")


def output_name(source: Path, model: str, scale: int, suffix: str | None = None) -> str:
    """``photo.jpg`` -> ``photo_pan_x4.jpg``; a suffix that cannot be written becomes ``.png``."""
    if suffix is None:
        suffix = source.suffix if source.suffix.lower() in WRITABLE else ".png"
    return f"{source.stem}_{model}_x{scale}{suffix}"


def check_suffix(suffix: str, path: Path | None = None) -> None:
    """Refuse a suffix that no image can be written with.

    Raises:
        UsageError: with the list of those that can.
    """
    if suffix.lower() not in WRITABLE:
        what = f"{shown(path)}: " if path else ""
        raise UsageError(
            f"{what}cannot write {repr(suffix) if suffix else 'suffixless'} images "
            f"(valid: {', '.join(WRITABLE)})"
        )


def _images(path: Path) -> Iterable[Path | Failure]:
    """``path`` itself, or the images of a folder, by name."""
    if not is_folder(path):
        return [path]
    try:
        files = sorted(each for each in path.iterdir() if each.suffix.lower() in READABLE)
    except OSError as error:
        return [Failure(path, ImageError(f"cannot read folder {shown(path)}: {reason(error)}"))]
    images = [each for each in files if each.is_file() and not each.name.startswith(".")]
    return images or [Failure(path, ImageError(f"no images in folder {shown(path)}"))]


def _without_own_results(jobs: list[Job | Failure], inputs: Sequence[Path]) -> list[Job | Failure]:
    """Leave out what a folder holds only because an earlier run wrote it there."""
    named = {_identity(path) for path in inputs}
    results = {_identity(job.destination) for job in jobs if isinstance(job, Job)}
    return [
        job
        for job in jobs
        if _identity(job.source) in named or _identity(job.source) not in results
    ]


def _checked(jobs: list[Job | Failure]) -> list[Job | Failure]:
    """``jobs``, if no two have the same destination and none overwrites an input."""
    work = [job for job in jobs if isinstance(job, Job)]
    sources = {_identity(job.source) for job in work}
    taken: dict[str, Path] = {}
    for job in work:
        name = _identity(job.destination)
        if name in taken:
            raise UsageError(
                f"{shown(taken[name])} and {shown(job.source)} would both be written "
                f"to {shown(job.destination)}: enlarge one of them by itself, with -o"
            )
        if name in sources:
            raise UsageError(f"{shown(job.destination)} is an input and would be overwritten")
        taken[name] = job.source
    return jobs


def _identity(path: Path) -> str:
    """One text for all names of one file."""
    return os.path.normcase(os.path.realpath(path))
