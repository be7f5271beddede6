"""Where commands that measure put their results: tables on the screen, files, stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sruplift.errors import UsageError
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
        UsageError: two on stdout, a folder, no folder to write it in, an input, or a picture's name
            for what is none.
    """
    on_stdout = [option for option, name in files.items() if name == "-"]
    if len(on_stdout) > 1:
        raise UsageError(f"only one of {' and '.join(on_stdout)} can be -, which is stdout")
    for option, name in files.items():
        if name is None or name == "-":
            continue
        path = Path(name)
        if path.is_dir():
            raise UsageError(f"{option} {path} is a folder: name a file in it")
        check_is_no_input(path, inputs)
        if option not in PICTURES and path.suffix.lower() in READABLE:
            raise UsageError(f"{option} {path} is named like a picture, which it would not be")
        if not path.parent.is_dir():
            raise UsageError(f"{option} {path} cannot be written: there is no folder {path.parent}")


def check_is_no_input(path: Path, inputs: Iterable[str | Path]) -> None:
    """Refuse to write over what is read.

    Raises:
        UsageError: ``path`` is one of ``inputs``, by whatever name.
    """
    if identity(path) in {identity(Path(each)) for each in inputs}:
        raise UsageError(f"{shown(path)} is an input and would be overwritten")


def write_text(text: str, name: str) -> None:
    """Write ``text`` to the file in one step, or to stdout if it is "-"."""
    if name == "-":
        sys.stdout.write(text)
        return
    from sruplift.manifest import write_atomically

    write_atomically(Path(name), text.encode("utf-8"))


def print_tables(tables: Iterable[Table], *, to_stderr: bool) -> None:
    """Print ``tables``; on stderr if stdout carries data."""
    from rich.console import Console

    console = Console(stderr=to_stderr)
    if not console.is_terminal:
        # In a pipe or a file Rich assumes 80 columns and breaks what does not fit.
        console.width = 140
    for table in tables:
        console.print(table)
