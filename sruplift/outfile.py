"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sruplift.errors import ExistsError, ImageError
from sruplift.files import Job, check_suffix, is_folder, reason, shown
from sruplift.leftovers import temporary_path


@contextmanager
def new_file(path: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; afterwards the file is renamed to ``path``.

    It gets the permissions of a file that it replaces.

    Raises:
        ImageError: it cannot be written, or ``path`` exists by now and may not be replaced.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        check_destination(path, overwrite)  # It may have appeared meanwhile.
        with contextlib.suppress(OSError):  # There is none, mostly.
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        temporary.replace(path)
    except OSError as error:
        raise ImageError(f"cannot write {shown(path)}: {reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_destination(path: Path, overwrite: bool) -> None:
    """Refuse early what could not be written late.

    Raises:
        ExistsError: the file exists and may not be replaced.
        ImageError: its folder cannot be written to.
        UsageError: the suffix is not one of a format that can be written.
    """
    check_suffix(path.suffix, path)
    if is_folder(path):
        raise ImageError(f"cannot write {shown(path)}: it is a folder")
    if not overwrite and os.path.lexists(path):
        raise ExistsError(f"{shown(path)} exists (--overwrite replaces it)")
    if not is_folder(path.parent):
        raise ImageError(f"cannot write {shown(path)}: there is no folder {shown(path.parent)}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ImageError(f"cannot write {shown(path)}: the folder is read-only")


def check_outputs(job: Job, overwrite: bool, sheet: str | Path | None) -> None:
    """``check_destination`` of a job's result, and of the sheet that is replaced together with it.

    Raises:
        SrupliftError: what that raises.
    """
    for path in (job.destination, sheet):
        if path is not None:
            check_destination(Path(path), overwrite or job.replace)
