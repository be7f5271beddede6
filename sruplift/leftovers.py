"""Temporary names of files that are being written, and what is left of them after a kill.

A name says which process writes the file: `.sruplift-HOST-PID-RANDOM.part`. HOST stands for the
machine and its table of processes (a container has its own), where alone PID means something.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

# Files of other machines, and of versions that did not name the process, are left alone for a day.
LONG_AGO = 24 * 60 * 60
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAME = re.compile(r"\.sruplift-(?:([0-9a-f]{8})-(\d+)-[0-9a-f]{16}|.+)\.part")


def temporary_path(path: Path) -> Path:
    """A name beside ``path`` to write it under, before it is renamed."""
    return path.with_name(f".sruplift-{_host()}-{os.getpid()}-{secrets.token_hex(8)}.part")


def remove_leftovers(folders: Iterable[Path]) -> list[Path]:
    """Delete what killed processes left in ``folders``; returns what was deleted.

    A file is deleted if the process that its name tells is gone from this machine, or if nobody
    wrote to it for a day and that cannot be told. What cannot be deleted stays.
    """
    removed = []
    for folder in dict.fromkeys(folders):
        with contextlib.suppress(OSError):
            # One pass before any deletion: the order of a changing folder is nobody's promise.
            for file in [each for each in folder.iterdir() if _is_left_over(each)]:
                with contextlib.suppress(OSError):
                    file.unlink()
                    removed.append(file)
    return removed


def _is_left_over(path: Path) -> bool:
    match = _NAME.fullmatch(path.name)
    if match is None:
        return False
    if match[1] == _host() and os.name == "posix":
        return not _is_running(int(match[2]))
    try:
        return time.time() - path.lstat().st_mtime > LONG_AGO
    except OSError:
        return False


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # Sends nothing.
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # Somebody else's process, or none that could be: better left alone.
    return True


def _host() -> str:
    """Eight digits for this machine and its table of processes.

    Copies of a machine have one name, but none was started when another was.
    """
    processes = started = ""
    with contextlib.suppress(OSError):
        processes = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - it is no path.
        started = _BOOT.read_text().strip()
    return f"{zlib.crc32(f'{platform.node()} {processes} {started}'.encode()):08x}"
