"""Where commands that measure put their results: tables on the screen, files, stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sruplift.errors import SrupliftError, UsageError
from sruplift.files import READABLE, identity, shown

if TYPE_CHECKING:
    from rich.table import Table

# Options whose file may be a picture.
PICTURES = ("--plot",)


def check_files(files: Mapping[str, str | None], inputs: Iterable[str | Path] = ()) -> None:
    """Say what is wrong with the paths now and not after minutes of work.

    ``files`` are names by the option that they were given with; "-" is stdout, None no file.
    ``inputs`` are read, and not to be replaced.

    Raises:
        UsageError: two on stdout or in one file, a folder, no folder to write it in, an input, or a
            picture's name for what is none.
    """
    on_stdout = [option for option, name in files.items() if name == "-"]
    if len(on_stdout) > 1:
        raise UsageError(f"only one of {' and '.join(on_stdout)} can be -, which is stdout")
    taken: dict[object, str] = {}
    for option, name in files.items():
        if name is None or name == "-":
            continue
        path = Path(name)
        other = taken.setdefault(identity(path), option)
        if other != option and not _is_special(path):
            raise UsageError(f"{other} and {option} name one file, {path}: name two")
        if path.is_dir():
            raise UsageError(f"{option} {path} is a folder: name a file in it")
        check_is_no_input(path, inputs)
        if option not in PICTURES and path.suffix.lower() in READABLE:
            raise UsageError(f"{option} {path} is named like a picture, which it would not be")
        folder = _target(path).parent
        if not folder.is_dir():
            raise UsageError(f"{option} {path} cannot be written: there is no folder {folder}")
        if not _is_special(path) and not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"{option} {path} cannot be written: the folder is read-only for you")


def check_is_no_input(path: Path, inputs: Iterable[str | Path]) -> None:
    """Refuse to write over what is read.

    Raises:
        UsageError: ``path`` is one of ``inputs``, by whatever name.
    """
    if identity(path) in {identity(Path(each)) for each in inputs}:
        raise UsageError(f"{shown(path)} is an input and would be overwritten")


def write_text(text: str, name: str) -> None:
    """Write ``text`` as ``write_data`` does, or to stdout if the name is "-".

    What is not UTF-8 in the name of an image is written as an escape.
    """
    if name == "-":
        sys.stdout.write(text)
    else:
        write_data(text.encode("utf-8", "backslashreplace"), Path(name))


def write_data(data: bytes, path: Path) -> None:
    """Write ``data`` to the file in one step; to a pipe or a device, and through a link.

    Raises:
        SrupliftError: it cannot be written.
    """
    if not _is_special(path):
        from sruplift.manifest import write_atomically

        write_atomically(_target(path), data)
        return
    try:
        path.write_bytes(data)
    except OSError as error:
        raise SrupliftError(f"cannot write {path}: {error.strerror or error}") from error


def _target(path: Path) -> Path:
    """Where a link leads, or the path itself; of links in a circle it is one of them."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _is_special(path: Path) -> bool:
    """Whether it is there and no file, which another file could replace."""
    return path.exists() and not path.is_file()


def print_tables(tables: Iterable[Table], *, to_stderr: bool) -> None:
    """Print ``tables``; on stderr if stdout carries data."""
    from rich.console import Console

    console = Console(stderr=to_stderr)
    if not console.is_terminal:
        # In a pipe or a file Rich assumes 80 columns and breaks what does not fit.
        console.width = 140
    for table in tables:
        console.print(table)
