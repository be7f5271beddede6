"""What the modules that deal with files share: suffixes, jobs, failures, how to name a path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sruplift.errors import SrupliftError, UsageError

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

# How results are called where nothing else is asked for.
TEMPLATE = "{stem}_{model}_{size}{suffix}"
# Why an input is skipped that has an output already.
EXISTS = "the output exists"


@dataclass(frozen=True)
class Found:
    """An image among the inputs.

    ``root`` is the folder under which it was found; None: it was named itself, or by a pattern.
    ``named``: it was asked for by its own name, so that nothing may leave it out.
    """

    path: Path
    root: Path | None = None
    named: bool = True


@dataclass(frozen=True)
class Job:
    """One image to read and where its result goes.

    If a file is there already, or appears meanwhile, ``replace`` replaces it, ``skip`` leaves it
    and the job is skipped; else it is a failure.
    """

    source: Path
    destination: Path
    replace: bool = False
    skip: bool = False


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


def identity(path: Path) -> str:
    """One text for all names of one file."""
    return os.path.normcase(os.path.realpath(path))


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder; one that the system will not look at is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file, likewise."""
    try:
        return path.is_file()
    except OSError:
        return False


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
