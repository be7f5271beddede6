"""Unpacking tarballs that somebody else made."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from sruplift.errors import DatasetError

# The largest tarball, Urban100, unpacks to 135 MB.
MAX_EXTRACTED_BYTES = 1 << 30
MAX_MEMBERS = 10_000


class DamagedArchiveError(DatasetError):
    """A tarball that cannot be unpacked because of what is, or is not, in it."""


def extract_flat(tarball: Path, destination: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack files of a gzipped tar into the new folder ``destination``, all or nothing.

    Nothing in the tar decides where a file goes: the files whose own names are ``wanted`` are
    written flat. The tar is refused as a whole when it has links, devices, sparse files, paths
    that lead elsewhere, two wanted files of one name, more than ``MAX_MEMBERS``
    or more than ``MAX_EXTRACTED_BYTES`` in it.

    Raises:
        DamagedArchiveError: the tar is damaged or refused.
        DatasetError: ``destination`` cannot be written.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
    except OSError as error:
        raise DatasetError(f"cannot write to {destination.parent}: {error.strerror}") from error
    try:
        _extract(tarball, temporary, wanted)
        temporary.chmod(0o755)  # mkdtemp makes folders that only their owner can enter
        _rename_unless_there(temporary, destination)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise DamagedArchiveError(f"cannot unpack {tarball}: {reason(error, tarball)}") from error
    except OSError as error:
        raise DatasetError(f"cannot unpack {tarball}: {reason(error, tarball)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename_unless_there(temporary: Path, destination: Path) -> None:
    """Another process may have unpacked the same tar in the meantime: its folder is as good."""
    try:
        temporary.rename(destination)
    except OSError:
        if not destination.is_dir():
            raise


def _extract(tarball: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    with tarball.open("rb") as file, gzip.GzipFile(fileobj=file) as unzipped:
        reader = _LimitedReader(unzipped)
        # A stream, so that a tar is read once and from the front, whatever it says of itself.
        with tarfile.open(fileobj=reader, mode="r|") as archive:
            for name, content in _wanted_files(archive, wanted):
                with (folder / name).open("xb") as out:
                    shutil.copyfileobj(content, out)
        # A tar ends before its file does; gzip's checksum comes last.
        while reader.read(1 << 16):
            pass


def _wanted_files(
    archive: tarfile.TarFile, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each. Raises ``TarError`` for what has no place in there."""
    names: set[str] = set()
    for count, member in enumerate(archive, start=1):
        if count > MAX_MEMBERS:
            raise tarfile.TarError(f"it has more than {MAX_MEMBERS} members")
        _check_member(member)
        name = PurePosixPath(member.name).name
        if not (member.isfile() and wanted(name)):
            continue
        if name.lower() in names:
            raise tarfile.TarError(f"two of its files are called {name}")
        names.add(name.lower())
        content = archive.extractfile(member)
        assert content is not None
        yield name, content


def _check_member(member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or set(member.name) & set("\\:\0"):
        raise tarfile.TarError(f"{member.name!r} leads out of its folder")
    # A sparse file is a few bytes here and any size on the disk.
    if member.issparse() or not (member.isfile() or member.isdir()):
        raise tarfile.TarError(f"{member.name!r} is neither a plain file nor a folder")


class _LimitedReader(io.RawIOBase):
    """Reads from ``source`` until more than ``MAX_EXTRACTED_BYTES`` came out: then it is a bomb."""

    def __init__(self, source: gzip.GzipFile) -> None:
        super().__init__()
        self._source = source
        self._left = MAX_EXTRACTED_BYTES

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise tarfile.TarError(f"it unpacks to more than {MAX_EXTRACTED_BYTES >> 20} MiB")
        return data


def reason(error: BaseException, path: Path) -> str:
    """What went wrong, in one clause, without repeating the path."""
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return text.splitlines()[0].replace(f" {str(path)!r}", "").rstrip(".")
