"""Folders of this machine and of stores, by their addresses, through fsspec.

What is written is whole under its name or absent: a put into an object store is so by itself, all
others get a temporary name first.
"""

from __future__ import annotations

import itertools
import os
import posixpath
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sruplift.errors import ImageError, SrupliftError, UsageError
from sruplift.files import reason
from sruplift.leftovers import temporary_path

# Stores in which a half-written object is never seen.
ATOMIC = frozenset(
    ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "r2", "memory")
)
# What stores tell of a version of a file, the surest first.
_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "mtime",
    "LastModified",
    "updated",
    "created",
)
Info = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """A file or folder and what is below it. ``root`` is what the file system ``fs`` calls it."""

    fs: Any
    root: str

    @property
    def is_local(self) -> bool:
        """Whether it is in this machine's own file system."""
        return "file" in _protocols(self.fs)

    def path_of(self, name: str) -> str:
        """What ``fs`` calls ``name``, a relative path with slashes."""
        return posixpath.join(self.root, name) if name else self.root

    def uri_of(self, name: str = "") -> str:
        """The address that a person knows it by: an absolute path on this machine."""
        return uri(self.fs, self.path_of(name))

    def files(self) -> dict[str, Info]:
        """All files below by their relative names, hidden ones too; what fsspec tells of each.

        On this machine also what lies behind links to folders.

        Raises:
            SrupliftError: the store does not answer.
        """
        self.fs.invalidate_cache()  # Another process may have written since.
        try:
            if self.is_local:
                found = dict(self._local_files())
            else:
                found = self.fs.find(self.root, detail=True)
        except FileNotFoundError:
            return {}
        # Stores have errors of their own, of any kind.
        except Exception as error:
            raise SrupliftError(f"cannot list {self.uri_of()}: {said(error)}") from error
        return {
            posixpath.relpath(path, self.root): info
            for path, info in found.items()
            if path != self.root
        }

    def _local_files(self) -> Iterator[tuple[str, Info]]:
        """Paths, and what fsspec tells of them: its own search does not enter links.

        What cannot be looked into below is passed over, as that search does.
        """

        def refuse(error: OSError) -> None:
            absent = isinstance(error, FileNotFoundError | NotADirectoryError)
            if error.filename == self.root and not absent:
                raise error

        for folder, folders, names in os.walk(self.root, onerror=refuse, followlinks=True):
            if _goes_in_circles(Path(folder), Path(self.root)):
                folders.clear()
                continue
            for name in names:
                path = Path(folder, name).as_posix()
                try:
                    yield path, self.fs.info(path)
                except OSError:  # It has gone meanwhile, or is a link to nothing.
                    if Path(path).is_symlink():
                        yield path, {"size": None, "type": "link"}

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            ImageError: it cannot be read.
        """
        data = self._asked("read", name, lambda: self.fs.cat_file(self.path_of(name)))
        return bytes(data)

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """The contents of files, fetched side by side where the store can do that.

        Raises:
            ImageError: one of them cannot be read.
        """
        paths = [self.path_of(name) for name in names]
        if not paths:
            return []
        # Not `cat`, to which brackets in a folder's name are a pattern.
        whole: list[None] = [None] * len(paths)
        found = self._asked("read", names[0], lambda: self.fs.cat_ranges(paths, whole, whole))
        for name, data in zip(names, found, strict=True):
            if isinstance(data, BaseException):
                raise ImageError(f"cannot read {self.uri_of(name)}: {said(data)}") from data
        return [bytes(data) for data in found]

    def write(self, name: str, data: bytes) -> None:
        """A file with this content, in place of any other.

        Raises:
            ImageError: it cannot be written.
        """
        self._asked("write", name, lambda: self._write(self.path_of(name), data))

    def put(self, file: Path, name: str) -> None:
        """A copy of a file of this machine, in place of any other.

        Raises:
            ImageError: it cannot be written.
        """
        self._asked("write", name, lambda: self._put(str(file), self.path_of(name)))

    def fetch(self, name: str, file: Path) -> None:
        """Copy to a file of this machine.

        Raises:
            ImageError: it cannot be read.
        """
        fetch(self.fs, self.path_of(name), file)

    def remove(self, name: str) -> None:
        """Delete a file, if there is one.

        Raises:
            ImageError: it cannot be deleted.
        """
        try:
            self._asked("delete", name, lambda: self.fs.rm_file(self.path_of(name)))
        except ImageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise

    def make_folder_of(self, name: str) -> None:
        """Make the folder that ``name`` is in, where folders are more than parts of names.

        Raises:
            ImageError: it cannot be made.
        """
        folder = posixpath.dirname(self.path_of(name))
        self._asked("write", name, lambda: self.fs.makedirs(folder, exist_ok=True))

    def _write(self, path: str, data: bytes) -> None:
        self._under_a_temporary_name(path, lambda under: self.fs.pipe_file(under, data))

    def _put(self, file: str, path: str) -> None:
        self._under_a_temporary_name(path, lambda under: self.fs.put_file(file, under))

    def _under_a_temporary_name(self, path: str, store: Callable[[str], object]) -> None:
        if not ATOMIC.isdisjoint(_protocols(self.fs)):
            store(path)
            return
        folder = posixpath.dirname(path)
        self.fs.makedirs(folder, exist_ok=True)
        under = posixpath.join(folder, f".sruplift-{secrets.token_hex(8)}.part")
        if self.is_local:
            under = str(temporary_path(Path(path)))
        try:
            store(under)
            if self.is_local:
                Path(under).replace(path)
            else:
                self.fs.mv(under, path)
        except BaseException:
            if self.fs.exists(under):
                self.fs.rm_file(under)
            raise

    def _asked(self, what: str, name: str, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except Exception as error:  # Stores have errors of their own, of any kind.
            raise ImageError(f"cannot {what} {self.uri_of(name)}: {said(error)}") from error


def find_place(address: str) -> Place:
    """The place that a person names: a path, or an address such as ``s3://bucket/photos``.

    Raises:
        UsageError: nothing can be there, or the package for such addresses is missing.
    """
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    if not address:
        raise UsageError("an address is empty: name a folder or a bucket")
    if "://" not in address:
        return Place(LocalFileSystem(), os.path.abspath(address))  # noqa: PTH100 - no links.
    protocol = address.partition("://")[0]
    try:
        fs, root = url_to_fs(address)
    except ImportError as error:
        raise UsageError(f"{protocol}:// needs another package: {said(error)}") from error
    except Exception as error:  # Of any kind, as the store's own package has it.
        raise UsageError(f"cannot use {address}: {said(error)}") from error
    return Place(fs, root.rstrip("/") or "/")


def fetch(fs: Any, path: str, file: Path) -> None:
    """Copy ``path`` of a store to a file of this machine.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        fs.get_file(path, str(file))
    except Exception as error:  # Stores have errors of their own, of any kind.
        raise ImageError(f"cannot read {uri(fs, path)}: {said(error)}") from error


def uri(fs: Any, path: str) -> str:
    """The address of ``path``; a plain path on this machine."""
    return path if "file" in _protocols(fs) else str(fs.unstrip_protocol(path))


def version_of(info: Info) -> str:
    """What changes when the file does, as far as its store tells; "" if it does not."""
    told = next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")
    size = info.get("size")
    return "" if size is None else f"{size} {told}".strip()


def said(error: BaseException) -> str:
    """The words of any error, in one line."""
    text = reason(error) if isinstance(error, OSError) else str(error)
    return " ".join(text.split()) or type(error).__name__


def _goes_in_circles(folder: Path, root: Path) -> bool:
    """Whether ``folder`` is a link to one that it lies in, from ``root`` on."""
    if not folder.is_symlink() or folder == root:
        return False
    above = itertools.takewhile(lambda each: each != root.parent, folder.parents)
    return folder.resolve() in {each.resolve() for each in above}


def _protocols(fs: Any) -> set[str]:
    names = fs.protocol
    return {names} if isinstance(names, str) else set(names)
