"""One image from stdin, one to stdout: through files, which readers and writers need."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

from sruplift.errors import ImageError, UsageError
from sruplift.files import WRITABLE, reason

PIPE = "-"
STDIN, STDOUT = Path("stdin"), Path("stdout")
HEAD = 4096
# How the formats that can be read begin; those of MPEG's family have a length before it.
BEGINNINGS = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"II", b"MM", b"GIF8", b"BM")


def receive(folder: Path) -> Path:
    """What stdin holds as a new file in ``folder``, with the suffix of its format.

    What cannot be told, or cannot be written, is called ".png". Of what cannot be an image only
    the beginning is read: it may have no end.

    Raises:
        ImageError: there is no room for it.
        UsageError: stdin is a terminal.
    """
    if sys.stdin is None:
        raise UsageError("- is stdin, and that is closed: nothing can be read from it")
    if sys.stdin.isatty():
        raise UsageError("- is stdin, and that is a terminal: nothing can be read from it")
    path = folder / STDIN
    try:
        with path.open("wb") as file:
            head = sys.stdin.buffer.read(HEAD)
            file.write(head)
            if _may_be_an_image(head):
                shutil.copyfileobj(sys.stdin.buffer, file)
    except OSError as error:
        raise ImageError(f"cannot read stdin: {reason(error)}") from error
    return path.rename(path.with_suffix(suffix_of(path)))


def check_stdout() -> None:
    """Refuse to write an image to a terminal.

    Raises:
        UsageError: stdout is one, or closed.
    """
    if sys.stdout is None:
        raise UsageError("-o - is stdout, and that is closed: name a file")
    if sys.stdout.isatty():
        raise UsageError("-o - is stdout, and that is a terminal: name a file, or use a pipe")


def send(path: Path) -> None:
    """The file's content to stdout.

    Raises:
        BrokenPipeError: the reader went away.
        ImageError: it cannot be written.
    """
    try:
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ImageError(f"cannot write stdout: {reason(error)}") from error


def _may_be_an_image(head: bytes) -> bool:
    return head.startswith(BEGINNINGS) or head[4:8] == b"ftyp"


def suffix_of(path: Path) -> str:
    """The suffix of the format that a file's content has; ".png" if that cannot be told."""
    from PIL import Image as Pillow

    with warnings.catch_warnings():  # Whoever reads the image will say what is wrong with it.
        warnings.simplefilter("ignore")
        try:
            with Pillow.open(path, formats=tuple(dict.fromkeys(WRITABLE.values()))) as picture:
                kind = picture.format
        except Exception:  # Decoders raise nearly everything.
            return ".png"
    kind = "JPEG" if kind == "MPO" else kind  # A camera's JPEG with a preview behind it.
    return next((suffix for suffix, name in WRITABLE.items() if name == kind), ".png")
