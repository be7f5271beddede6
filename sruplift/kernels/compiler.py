"""Compile C files once for this machine, with the compiler that it has."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from sruplift.errors import CompilerError

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-shared", "-fPIC", "-fopenmp")
# Seconds; it takes two or three.
PATIENCE = 60


def build(sources: Path, folder: Path, check: Callable[[Path], None]) -> Path:
    """The shared library made of the C files in ``sources``, in ``folder``, which keeps it.

    Its name depends on the sources, the compiler, the flags, the user, the C library and the
    processor. It appears complete and checked or not at all, so that several processes may build it
    at once.

    Raises:
        CompilerError: there is no compiler, it fails, or the folder cannot be used.
        Exception: what ``check`` raises, which sees a new library before it is kept.
    """
    compiler = find_compiler()
    flags = (*FLAGS, "-march=native" if platform.machine() == "x86_64" else "-mcpu=native")
    try:
        texts = [path.read_text("utf-8") for path in sorted(sources.glob("*.[ch]"))]
        libc, user = platform.libc_ver(), os.geteuid()
        identity = (texts, compiler, _stamp(compiler[0]), flags, libc, user, processor())
        key = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
        made = folder / f"kernels-{key}.so"
        if made.exists() and _is_ours(made):
            return made
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as temporary:
            result = Path(temporary) / made.name
            _compile(compiler, flags, sources, result)
            check(result)
            result.chmod(0o700)
            result.replace(made)
    except (OSError, ValueError) as error:
        raise CompilerError(f"compiled code cannot be kept in {folder}: {error}") from error
    return made


def find_compiler() -> tuple[str, ...]:
    """The C compiler's path and first arguments: ``CC``, else the first that is there.

    Raises:
        CompilerError: there is none, or this is not Linux, where alone it was tried.
    """
    if sys.platform != "linux":
        raise CompilerError("compiled kernels need Linux")
    try:
        asked = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise CompilerError(f"CC names no compiler: {error}") from error
    for name, *arguments in [asked] if asked else [[name] for name in COMPILERS]:
        if path := shutil.which(name):
            return (path, *arguments)
    names = asked[0] if asked else ", ".join(COMPILERS)
    raise CompilerError(f"there is no C compiler on this machine ({names})")


def processor() -> str:
    """What tells this processor's instructions from others'."""
    lines = []
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith(("model name", "flags", "Features", "CPU part")):
                lines.append(line)
            elif not line and lines:
                break  # the other cores
    except OSError:
        lines = [platform.processor()]
    return "\n".join([platform.machine(), *lines])


def _is_ours(path: Path) -> bool:
    """Whether nobody else can have written the code, in a cache that others share."""
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _stamp(path: str) -> tuple[int, int]:
    """A compiler that was replaced is another one."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def _compile(
    compiler: tuple[str, ...], flags: tuple[str, ...], sources: Path, result: Path
) -> None:
    """Make ``result``.

    Raises:
        CompilerError: the compiler fails, or what it makes cannot be loaded.
    """
    files = (str(path) for path in sorted(sources.glob("*.c")))
    command = [*compiler, *flags, *files, "-o", str(result)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CompilerError(f"{compiler[0]} takes longer than {PATIENCE} seconds") from error
    if done.returncode != 0 or not result.exists():
        lines = done.stderr.strip().splitlines()
        errors = [line for line in lines if "error" in line] or lines
        problem = errors[0][:300] if errors else f"exit code {done.returncode}"
        raise CompilerError(f"{compiler[0]} cannot compile the kernels: {problem}")
    try:
        # Some compilers leave it to this moment to find out that there is no OpenMP.
        ctypes.CDLL(str(result))
    except OSError as error:
        raise CompilerError(f"what {compiler[0]} compiled cannot be loaded: {error}") from error
