"""Compile C files once for this machine, with the compiler that it has."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from sruplift.errors import CompilerError

COMPILERS = ("cc", "gcc", "clang")
# For this processor; with OpenMP's threads where the compiler has them, else with one thread.
FLAGS = ("-O3", "-shared", "-fPIC")
# Seconds; it takes three.
PATIENCE = 120


def build(sources: Path, folder: Path) -> Path:
    """The shared library made of the C files in ``sources``, in ``folder``, which keeps it.

    Its name depends on the sources, the compiler, the flags and the processor. It appears complete
    or not at all, so that several processes may build it at once.

    Raises:
        CompilerError: there is no compiler, it fails, or the folder cannot be written.
    """
    compiler = find_compiler()
    native = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    variants = [(*FLAGS, native, "-fopenmp"), (*FLAGS, native)]
    texts = [path.read_text("utf-8") for path in sorted(sources.glob("*.[ch]"))]
    identity = (texts, compiler, _stamp(compiler[0]), variants, processor())
    key = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    made = folder / f"kernels-{key}.so"
    if made.exists():
        return made
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as temporary:
            result = Path(temporary) / made.name
            for flags in variants:
                problem = _compile(compiler, flags, sources, result)
                if problem is None:
                    break
            else:
                raise CompilerError(f"{compiler[0]} cannot compile the kernels: {problem}")
            result.replace(made)
    except OSError as error:
        raise CompilerError(f"compiled code cannot be kept in {folder}: {error}") from error
    return made


def find_compiler() -> tuple[str, ...]:
    """The C compiler's path and first arguments: ``CC``, else the first that is there.

    Raises:
        CompilerError: there is none, or the system is not one where its code can be loaded.
    """
    if os.name != "posix":
        raise CompilerError("compiled convolutions need Linux or macOS")
    asked = shlex.split(os.environ.get("CC", ""))
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


def _stamp(path: str) -> tuple[int, int]:
    """A compiler that was replaced is another one."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def _compile(
    compiler: tuple[str, ...], flags: tuple[str, ...], sources: Path, result: Path
) -> str | None:
    """What went wrong, in a line; None: nothing."""
    files = (str(path) for path in sorted(sources.glob("*.c")))
    command = [*compiler, *flags, *files, "-o", str(result)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode != 0 or not result.exists():
        lines = done.stderr.strip().splitlines()
        errors = [line for line in lines if "error" in line] or lines
        return errors[0][:300] if errors else f"exit code {done.returncode}"
    try:
        # Some compilers leave it to this moment to find out that there is no OpenMP.
        ctypes.CDLL(str(result))
    except OSError as error:
        return str(error)
    return None
