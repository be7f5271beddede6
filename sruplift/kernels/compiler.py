"""Compile C files once for this machine, with the compiler that it has."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sruplift.errors import CompiledFolderError, CompilerError

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-shared", "-fPIC", "-fopenmp")
# Seconds; it takes five or so.
PATIENCE = 120


def build(sources: Path, folder: Path, check: Callable[[Path], None]) -> Path:
    """The shared library made of the C files in ``sources``, in ``folder``, which keeps it.

    Its name depends on the sources, the compiler, the flags, the user, the C library and the
    processor. It appears complete and checked or not at all, so that several processes may build it
    at once; one that is damaged is made anew.

    Raises:
        CompiledFolderError: the folder cannot be used.
        CompilerError: there is no compiler, or it fails.
        Exception: what ``check`` raises, which sees a new library before it is kept.
    """
    compiler = find_compiler()
    flags = (*FLAGS, "-march=native" if platform.machine() == "x86_64" else "-mcpu=native")
    try:
        texts = {path.name: path.read_text("utf-8") for path in sorted(sources.glob("*.[ch]"))}
        libc, user = platform.libc_ver(), os.geteuid()
        identity = (texts, compiler, _stamp(compiler[0]), flags, libc, user, processor())
        key = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
        made = folder / f"kernels-{key}.so"
        if _is_whole(made):
            return made
        folder.mkdir(parents=True, exist_ok=True)
        # On NFS what is loaded lives on under another name, in the folder, until the process ends.
        with tempfile.TemporaryDirectory(
            dir=folder, prefix="building-", ignore_cleanup_errors=True
        ) as temporary:
            _require_usable(folder, Path(temporary))
            # What the name was made from, whatever happens to the sources meanwhile.
            for name, text in texts.items():
                (Path(temporary) / name).write_text(text, "utf-8")
            result = Path(temporary) / made.name
            _compile(compiler, flags, Path(temporary), result)
            _seal(result)
            _require_loadable(compiler, result)
            check(result)
            _keep(result, made)
    except (OSError, ValueError) as error:
        raise CompiledFolderError(f"compiled code cannot be kept in {folder}: {error}") from error
    return made


def private_folder() -> Path:
    """A folder for temporary files that nobody else may use, for where there is no other.

    Raises:
        CompiledFolderError: it cannot be made, or may be somebody else's.
    """
    user = os.geteuid()
    folder = Path(tempfile.gettempdir()) / f"sruplift-{user}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        raise CompiledFolderError(f"{folder} cannot be made: {error}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != user or status.st_mode & 0o077:
        raise CompiledFolderError(f"{folder} is not this user's alone")
    return folder


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


def _require_usable(folder: Path, inside: Path) -> None:
    """Refuse, before anything is compiled, where libraries may not be loaded from, or be others'.

    ``inside`` is a new folder in ``folder``.
    """
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        raise CompiledFolderError(f"code in {folder} may not be run (it is mounted noexec)")
    probe = inside / "probe"
    probe.touch()
    probe.chmod(0o700)
    if not _is_own(probe.stat()):
        raise CompiledFolderError(f"files in {folder} are not this user's alone to write")


def _seal(library: Path) -> None:
    """Add the digest of what it holds; loaders do not read what follows it."""
    library.chmod(0o700)
    with library.open("r+b") as file:
        digest = hashlib.sha256(file.read()).digest()
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())  # or what the name stands for could be lost with the power


def _keep(result: Path, made: Path) -> None:
    """Give it its name, and leave alone what another process has made meanwhile and may use."""
    try:
        os.link(result, made)
    except OSError:  # there is one, or there are no links here
        if not _is_whole(made):
            result.replace(made)


def _is_whole(path: Path) -> bool:
    """Whether it is there as ``_seal`` left it, written by nobody else who shares the cache."""
    try:
        status, content = path.stat(), path.read_bytes()
    except FileNotFoundError:
        return False
    size = hashlib.sha256().digest_size
    return _is_own(status) and hashlib.sha256(content[:-size]).digest() == content[-size:]


def _is_own(status: os.stat_result) -> bool:
    """Whether nobody else has written it."""
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _stamp(path: str) -> tuple[int, int]:
    """A compiler that was replaced is another one."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def _compile(
    compiler: tuple[str, ...], flags: tuple[str, ...], sources: Path, result: Path
) -> None:
    """Make ``result``, of all files at the same time.

    Raises:
        CompilerError: the compiler fails, or makes nothing.
    """
    ends = time.monotonic() + PATIENCE
    files = sorted(sources.glob("*.c"))
    objects = [str(file.with_suffix(".o")) for file in files]
    only = tuple(flag for flag in flags if flag != "-shared")
    parts = zip(files, objects, strict=True)
    _run([[*compiler, *only, "-c", str(file), "-o", part] for file, part in parts], ends)
    said = _run([[*compiler, *flags, *objects, "-o", str(result)]], ends)
    if not result.exists():
        raise _failed(compiler[0], said, 0)


def _run(commands: Sequence[Sequence[str]], ends: float) -> str:
    """All at once, until ``ends``; what they said.

    Raises:
        CompilerError: one fails, or takes too long.
    """
    with contextlib.ExitStack() as stack:
        left: list[subprocess.Popen[str]] = []
        every_word = ""
        try:
            for command in commands:
                left.append(stack.enter_context(_start(command)))
            while left:
                _, said = left[0].communicate(timeout=max(ends - time.monotonic(), 0))
                if code := left.pop(0).returncode:
                    raise _failed(commands[0][0], said, code)
                every_word += said
        except BaseException as error:
            # With what they have started themselves; also if somebody interrupts.
            for running in left:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                patience = f"{commands[0][0]} takes longer than {PATIENCE} seconds"
                raise CompilerError(patience) from error
            raise
    return every_word


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise CompilerError(f"{command[0]} cannot be started: {error}") from error


def _failed(compiler: str, said: str, code: int) -> CompilerError:
    lines = said.strip().splitlines()
    errors = [line for line in lines if "error" in line] or lines
    problem = errors[0][:300] if errors else f"exit code {code}"
    return CompilerError(f"{compiler} cannot compile the kernels: {problem}")


def _require_loadable(compiler: tuple[str, ...], result: Path) -> None:
    try:
        # Some compilers leave it to this moment to find out that there is no OpenMP.
        ctypes.CDLL(str(result))
    except OSError as error:
        raise CompilerError(f"what {compiler[0]} compiled cannot be loaded: {error}") from error
