"""What an input holds: image files, and containers of images (Parquet, WebDataset's tar)."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sruplift.cluster.places import Place, fetch, said, uri, version_of
from sruplift.errors import ImageError, SrupliftError, UsageError
from sruplift.files import READABLE, Failure, Found, is_folder
from sruplift.inputs import gather

PARQUET, TAR = ".parquet", ".tar"
CONTAINERS = (PARQUET, TAR)
# The column of images if none is named, as Hugging Face's data sets call it.
IMAGE_COLUMN = "image"
# Rows of a Parquet file that are in memory at once.
ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Entry:
    """A file of the input: an image or a container.

    ``path`` is what its file system calls it; ``name`` is relative to the input, with slashes;
    ``version`` is from ``places.version_of``.
    """

    uri: str
    path: str
    name: str
    version: str

    @property
    def kind(self) -> str:
        """Its suffix, in small letters."""
        return posixpath.splitext(self.name)[1].lower()

    @property
    def folder(self) -> str:
        """A container's name without suffix: the folder of its images' results."""
        return posixpath.splitext(self.name)[0]


@dataclass(frozen=True)
class Member:
    """An image: ``data`` if it came out of a container, else at ``path`` of the file system.

    ``name`` is that of an entry; a row of Parquet has none of the suffixes, for it has no name.
    """

    uri: str
    name: str
    version: str
    path: str | None = None
    data: bytes | None = None

    def save(self, fs: Any, file: Path) -> None:
        """Write the image to a file of this machine.

        Raises:
            ImageError: it cannot be read.
        """
        if self.path is not None:
            fetch(fs, self.path, file)
        elif self.data is None:
            raise ImageError(f"{self.uri}: there is no image in this row")
        else:
            file.write_bytes(self.data)


def find_entries(text: str, place: Place, avoid: Place) -> list[Entry | Failure]:
    """The images and containers that an input means, by name: a file, a folder with all that is
    below it, or a pattern. Hidden ones are left out, and what is below ``avoid``.

    Raises:
        SrupliftError: the store does not answer.
    """
    found = _local(place, avoid) if place.is_local else _stored(place, avoid)
    if not found:
        return [Failure(Path(text), ImageError(f"no images at {place.uri_of()}"))]
    return sorted(found, key=lambda each: each.uri if isinstance(each, Entry) else "")


def safe(name: str) -> bool:
    """Whether ``name`` stays below the folder that it is put in."""
    parts = name.split("/")
    return not (os.path.isabs(name) or {"", "..", "."} & set(parts) or "\0" in name)  # noqa: PTH117


def _local(place: Place, avoid: Place) -> list[Entry | Failure]:
    """As ``sruplift upscale --recursive`` finds images; and containers."""
    root, results = Path(place.root), Path(avoid.root) if avoid.is_local else None
    outside = results if results is not None and is_folder(results) else None
    suffixes = (*READABLE, *CONTAINERS)
    found = gather((place.root,), recursive=True, avoid=outside, suffixes=suffixes)
    base = _literal_part(place.root) if not is_folder(root) else place.root
    return [_local_entry(each, base) if isinstance(each, Found) else each for each in found]


def _local_entry(found: Found, base: str) -> Entry:
    path = str(found.path)
    version = ""
    with contextlib.suppress(OSError):  # Reading it will tell.
        status = found.path.stat()
        version = f"{status.st_size} {status.st_mtime_ns}"
    return Entry(path, path, found.path.relative_to(found.root or base).as_posix(), version)


def _stored(place: Place, avoid: Place) -> list[Entry | Failure]:
    fs, root = place.fs, place.root
    base = root
    try:
        if fs.isfile(root):
            found, base = {root: fs.info(root)}, posixpath.dirname(root)
        elif glob.has_magic(root):
            found, base = fs.glob(root, detail=True), _literal_part(root)
        else:
            found = fs.find(root, detail=True)
    except FileNotFoundError:
        return []
    except Exception as error:  # Stores have errors of their own, of any kind.
        raise SrupliftError(f"cannot list {place.uri_of()}: {said(error)}") from error
    below = avoid.root.rstrip("/") + "/" if type(avoid.fs) is type(fs) else None
    if below is not None and (base.rstrip("/") + "/").startswith(below):
        below = None  # It was asked for by its name.
    entries: list[Entry | Failure] = []
    for path, info in found.items():
        name = posixpath.relpath(path, base or "/")
        kind = posixpath.splitext(name)[1].lower()
        wanted = kind in READABLE or kind in CONTAINERS
        if not wanted or info.get("type") == "directory" or _hidden(Path(name)):
            continue
        if below is None or not path.startswith(below):
            entries.append(Entry(uri(fs, path), path, name, version_of(info)))
    return entries


def _literal_part(pattern: str) -> str:
    """The folder that a file is in, or that a pattern names before its first wildcard."""
    parts = posixpath.dirname(pattern).split("/")
    return "/".join(itertools.takewhile(lambda part: not glob.has_magic(part), parts)) or "/"


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") and part != ".." for part in path.parts)


# ---- What containers hold


def row_groups(fs: Any, entry: Entry, column: str | None) -> list[int]:
    """How many rows each row group of a Parquet file has.

    Raises:
        ImageError: the file cannot be read.
        UsageError: it has no such column, or pyarrow is missing.
    """
    with _parquet(fs, entry) as file:
        _column(file, entry, column)
        metadata = file.metadata
        return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


def row_uri(entry: Entry, row: int) -> str:
    """How the report calls a row."""
    return f"{entry.uri}#{row}"


def rows(fs: Any, entry: Entry, column: str | None, group: int, first: int) -> Iterator[Member]:
    """The images of one row group, of which the first is row ``first`` of the file.

    Raises:
        ImageError: the file cannot be read.
    """
    with _parquet(fs, entry) as file:
        name = _column(file, entry, column)
        batches = file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[name])
        row = first
        for batch in batches:
            for value in batch.column(0).to_pylist():
                data = value.get("bytes") if isinstance(value, dict) else value
                yield Member(
                    row_uri(entry, row), f"{entry.folder}/{row:08}", entry.version, data=data
                )
                row += 1


def tar_members(fs: Any, entry: Entry) -> Iterator[Member]:
    """The images of a tar file in their order; it is read once, from its beginning.

    Raises:
        ImageError: the file cannot be read, or only a part of it.
    """
    with (
        _readable(entry),
        fs.open(entry.path, "rb") as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        for info in archive:
            name = info.name.removeprefix("./")
            if not info.isfile() or posixpath.splitext(name)[1].lower() not in READABLE:
                continue
            if _hidden(Path(name)):
                continue
            file = archive.extractfile(info)
            data = file.read() if file is not None else None
            inside = f"{entry.folder}/{name}"
            yield Member(f"{entry.uri}#{name}", inside, entry.version, data=data)


@contextlib.contextmanager
def _parquet(fs: Any, entry: Entry) -> Iterator[Any]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError('Parquet needs pyarrow: pip install "sruplift[ray]"') from error
    with _readable(entry), fs.open(entry.path, "rb") as stream:
        yield parquet.ParquetFile(stream)


@contextlib.contextmanager
def _readable(entry: Entry) -> Iterator[None]:
    try:
        yield
    except SrupliftError:
        raise
    except Exception as error:  # Stores, pyarrow and tarfile have many kinds.
        raise ImageError(f"cannot read {entry.uri}: {said(error)}") from error


def _column(file: Any, entry: Entry, asked: str | None) -> str:
    """The column of images: the one asked for, ``IMAGE_COLUMN``, or the only one of bytes."""
    types = {field.name: str(field.type) for field in file.schema_arrow}
    binary = [name for name, kind in types.items() if "binary" in kind and "<" not in kind]
    wanted = asked or IMAGE_COLUMN
    if wanted not in types:
        if asked is None and len(binary) == 1:
            return binary[0]
        raise UsageError(
            f"{entry.uri} has no column {wanted!r}: name one with --image-column"
            f" ({', '.join(types)})"
        )
    # Hugging Face's have the bytes beside a path.
    if wanted not in binary and not re.match(r"struct<.*\bbytes: \w*binary", types[wanted]):
        raise UsageError(
            f"{entry.uri}: column {wanted!r} holds no images but {types[wanted]}: name another with"
            f" --image-column ({', '.join(types)})"
        )
    return wanted
