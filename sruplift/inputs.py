"""Which images are meant: names, patterns, folders, lists of names. Opens no image."""

from __future__ import annotations

import codecs
import dataclasses
import fnmatch
import glob
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sruplift.errors import ImageError, UsageError
from sruplift.files import READABLE, Failure, Found, is_folder, reason, shown

ANY_DEPTH = "**"
ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def gather(
    inputs: Sequence[str],
    listed: Sequence[str] = (),
    *,
    recursive: bool = False,
    avoid: Path | None = None,
    suffixes: Iterable[str] = READABLE,
) -> list[Found | Failure]:
    """The images that ``inputs`` and ``listed`` mean, in their order; each once.

    - A name that exists is that file, whatever characters it has.
    - A folder means its images, by suffix and in the order of their names; hidden ones are left
      out. Links to folders are followed, to each folder once, so that circles end.
    - What does not exist and has ``*``, ``?`` or ``[]`` is a pattern as in a shell; ``**`` is any
      number of folders. One that ends in a wildcard means images only, by suffix.

    Args:
        inputs: what a person wrote.
        listed: what a program wrote: none of it is a pattern.
        recursive: folders mean the images of their subfolders too.
        avoid: the folder for results. Where it lies within a folder or below a pattern that is
            searched, what is in it is no input.
        suffixes: of images, in small letters.

    Returns:
        A failure for every input without images and for every folder that cannot be read. A name
        that is no file is found all the same: reading it will tell what is wrong with it.

    Raises:
        UsageError: an empty name.
    """
    search = _Search(recursive, avoid, frozenset(suffixes))
    found: dict[str, Found | Failure] = {}
    for text, may_match in [(text, True) for text in inputs] + [(text, False) for text in listed]:
        for each in _meant(text, search, may_match):
            key = _entry(each.path if isinstance(each, Found) else each.source)
            first = found.setdefault(key, each)
            if isinstance(first, Found) and isinstance(each, Found) and each.named:
                found[key] = dataclasses.replace(first, named=True)
    return list(found.values())


def read_list(data: bytes) -> list[str]:
    """The names in a list: between NULs if there are any, else one a line; empty ones are none.

    What begins with the mark of UTF-16, as lists of Windows do, is read as that.

    Raises:
        UsageError: it is UTF-16 without a mark, or damaged.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            lines = data.decode("utf-16").split("\n")
        except UnicodeDecodeError as error:
            raise UsageError("it begins as UTF-16 and is not: save it as UTF-8") from error
        return [name for line in lines if (name := line.removesuffix("\r"))]
    if b"\0" in data:
        names = data.split(b"\0")
        # Every other byte of Latin letters in UTF-16 is 0: "." would be a name, this folder's.
        letters = [name for name in names if len(name) <= 1]
        if 2 * len(letters) > len(names) and {b".", b"\n"} & set(letters):
            raise UsageError("it seems to be UTF-16: save it as UTF-8")
    else:
        names = [line.removesuffix(b"\r") for line in _without_mark(data).split(b"\n")]
    return [os.fsdecode(name) for name in names if name]


def _without_mark(data: bytes) -> bytes:
    """Editors on Windows begin UTF-8 with a byte order mark."""
    return data.removeprefix(b"\xef\xbb\xbf")


class _Search(NamedTuple):
    """How folders and patterns are searched: the arguments of ``gather``."""

    recursive: bool
    avoid: Path | None
    suffixes: frozenset[str]

    def wants(self, name: str) -> bool:
        """Whether it is an image's."""
        return os.path.splitext(name)[1].lower() in self.suffixes  # noqa: PTH122


def _meant(text: str, search: _Search, may_match: bool) -> Sequence[Found | Failure]:
    if not text:
        raise UsageError("an input is empty: name an image or a folder")
    path = Path(text)
    if is_folder(path):
        return _images(path, search)
    if os.path.lexists(path):
        return [Found(path)]
    if ADDRESS.match(text):
        return [Failure(path, ImageError(f"{text} is an address: download it first"))]
    if not may_match or not glob.has_magic(text):
        return [Found(path)]
    deep = ANY_DEPTH in path.parts
    found = _deep_matches(path, search) if deep else _matches(text, search)
    nothing = f"there is no file {shown(path)}, and none matches it as a pattern"
    return found or [Failure(path, ImageError(nothing))]


def _matches(pattern: str, search: _Search) -> list[Found | Failure]:
    """The files that match, by name, and the images of the folders that do."""
    if search.avoid is not None and _within(_literal_part(pattern), search.avoid):
        search = search._replace(avoid=None)  # It was asked for by its name.
    found: list[Found | Failure] = []
    for path in _expanded(pattern):
        if search.avoid is not None and _within(path, search.avoid):
            continue
        if is_folder(path):
            found += _images(path, search)
        elif not _means_images(pattern) or search.wants(path.name):
            found.append(Found(path, named=False))
    return found


def _deep_matches(pattern: Path, search: _Search) -> list[Found | Failure]:
    """The files that match a pattern with ``**``, each below the folder where that begins."""
    at = pattern.parts.index(ANY_DEPTH)
    start, rest = str(Path(*pattern.parts[:at])), pattern.parts[at:]
    found: list[Found | Failure] = []
    for root in _expanded(start) if glob.has_magic(start) else [Path(start)]:
        for each in _walk(root, True, search.avoid):
            if isinstance(each, Failure):
                found.append(each)
            elif _means_images(str(pattern)) and not search.wants(each.name):
                continue
            elif _fits(each.relative_to(root).parts, rest):
                found.append(Found(each, root, named=False))
    return found


def _expanded(pattern: str) -> list[Path]:
    # Path.glob would find hidden files.
    return [Path(name) for name in sorted(glob.glob(pattern))]  # noqa: PTH207


def _means_images(pattern: str) -> bool:
    return pattern[-1] in "*?]"


def _literal_part(pattern: str) -> Path:
    """The folder that a pattern names before its first wildcard."""
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether names from the outer folder to the file match a pattern for each."""
    if not pattern:
        return not parts
    if pattern[0] == ANY_DEPTH:
        return any(_fits(parts[skip:], pattern[1:]) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatch(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _images(folder: Path, search: _Search) -> list[Found | Failure]:
    """The images of a folder, by name."""
    found: list[Found | Failure] = []
    for each in _walk(folder, search.recursive, search.avoid):
        if isinstance(each, Failure):
            found.append(each)
        elif search.wants(each.name):
            found.append(Found(each, folder, named=False))
    return found or [Failure(folder, ImageError(f"no images in folder {shown(folder)}"))]


def _walk(root: Path, recursive: bool, avoid: Path | None) -> list[Path | Failure]:
    """The files of a folder and of those below it, by name, without hidden ones.

    Every folder is entered once: as itself if it lies below ``root``, else by its first link.
    """
    entered = set() if avoid is None else {_number(avoid)}
    found: list[Path | Failure] = []
    folders, links = [root], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        number = _number(folder)
        if number in entered and folder is not root:
            continue
        entered.add(number)
        try:
            files, inner, linked = _listed(folder)
        except OSError as error:
            text = f"cannot read folder {shown(folder)}: {reason(error)}"
            found.append(Failure(folder, ImageError(text)))
            continue
        found += files
        if recursive:
            folders += inner
            links += linked
    return sorted(found, key=lambda each: each.source if isinstance(each, Failure) else each)


def _listed(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """What a folder has and does not hide: files, folders, links to folders."""
    files, folders, links = list[Path](), list[Path](), list[Path]()
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            # os.path, not the entry: it calls a circle of links no folder and no file.
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_symlink() and os.path.isdir(path):  # noqa: PTH112
                links.append(path)
            elif os.path.isfile(path):  # noqa: PTH113
                files.append(path)
    return files, folders, links


def _number(folder: Path) -> tuple[int, int] | str:
    """What tells a folder from all others, whatever it is called."""
    try:
        status = folder.stat()
    except OSError:
        return str(folder)
    return status.st_dev, status.st_ino


def _within(path: Path, folder: Path) -> bool:
    """Whether ``path`` is ``folder`` or below it."""
    inner, outer = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return inner.is_relative_to(outer)


def _entry(path: Path) -> str:
    """One text for every way to name the same entry of a folder; links stay two."""
    return str(Path(os.path.realpath(path.parent)) / path.name)
