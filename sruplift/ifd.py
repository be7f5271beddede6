"""The directories of a TIFF, and of EXIF, which is one: read, changed and written. No pixels.

What is not changed stays where it is, byte for byte: a camera's maker note has offsets of its own,
which are wrong once it is moved. Layout: TIFF 6.0, section 2; BigTIFF; EXIF 2.32, section 4.6.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

EXIF, GPS, INTEROP = 34665, 34853, 40965
# Tags whose value is where another directory lies.
POINTERS = (EXIF, GPS, INTEROP)
SHORT, LONG, RATIONAL, UNDEFINED, LONG8 = 3, 4, 5, 7, 16
# Bytes of a value, and of what is turned with the byte order, by the kind's number.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
SIZES |= {16: 8, 17: 8, 18: 8, 129: 1}  # 129 is EXIF 3.0's UTF-8.
UNITS = SIZES | {5: 4, 10: 4}
# EXIF has two more levels of directories below the first.
DEPTH = 2
MOST_ENTRIES = 4096
# Values of more bytes than this in one file are no metadata.
MOST_BYTES = 64 * 1024**2
PREFIX = b"Exif\0\0"
# The keyword of ImageMagick's EXIF, of PNGs from before they could hold it.
RAW_EXIF = "Raw profile type exif"
LONGEST_INLINE = 8
LARGEST_FILE = 2**62


@dataclass(frozen=True)
class Entry:
    """``count`` values of one of TIFF's kinds; ``data`` is little-endian whatever the file is."""

    kind: int
    count: int
    data: bytes


Directory: TypeAlias = "dict[int, Entry | Directory]"


def short(value: int) -> Entry:
    """One number below 65,536."""
    return Entry(SHORT, 1, struct.pack("<H", value))


def long(value: int) -> Entry:
    """One number below 2**32."""
    return Entry(LONG, 1, struct.pack("<I", value))


def rational(value: float) -> Entry:
    """One number below 2**32, with four decimals if it is small enough for them."""
    parts = 10_000 if value * 10_000 < 2**32 - 1 else 1
    return Entry(RATIONAL, 1, struct.pack("<II", round(value * parts), parts))


def number(entry: Entry | Directory | None) -> float | None:
    """The one number of an entry of the kinds above."""
    if not isinstance(entry, Entry) or entry.count != 1:
        return None
    if entry.kind == RATIONAL:
        above, below = struct.unpack("<II", entry.data)
        return above / below if below else None
    return int.from_bytes(entry.data, "little") if entry.kind in (SHORT, LONG) else None


def read_directory(file: BinaryIO, skip: Collection[int] = ()) -> Directory:
    """The first directory in ``file`` and those it points to, less the tags in ``skip``.

    A value that lies outside the file or is of no known kind is left out.

    Raises:
        ValueError: there is no directory.
    """
    return _Tiff(file).directory(skip)


def read_exif(exif: bytes) -> Directory:
    """``read_directory`` of EXIF data, with or without their prefix.

    Raises:
        ValueError: there is no directory.
    """
    return read_directory(io.BytesIO(exif.removeprefix(PREFIX)))


def exif_of_text(text: str) -> bytes:
    """ImageMagick's text "Raw profile type exif": hexadecimal behind three lines.

    Raises:
        ValueError: it is damaged.
    """
    return bytes.fromhex("".join(text.split("\n")[3:]))


def make_exif(directory: Directory) -> bytes:
    """EXIF data of ``directory``, little-endian."""
    file = io.BytesIO(b"II*\0" + struct.pack("<I", 8) + b"\1\0" + bytes(16))
    rewrite(file, directory, drop=(0,))
    return PREFIX + file.getvalue()


def change_exif(
    exif: bytes, new: Mapping[int, Entry | Directory], drop: Collection[int] = ()
) -> bytes:
    """``exif`` with the first directory changed as ``rewrite`` does.

    Raises:
        ValueError: there is no directory.
    """
    file = io.BytesIO(exif.removeprefix(PREFIX))
    rewrite(file, new, drop)
    return PREFIX + file.getvalue()


def rewrite(
    file: BinaryIO,
    new: Mapping[int, Entry | Directory],
    drop: Collection[int] = (),
    within: int | None = None,
) -> None:
    """Change the first directory in ``file``: ``new`` replaces or adds tags, ``drop`` go.

    It stays at its place if there is room, else it goes to the end of the file. It is the last of
    its chain then: what followed it (pages, thumbnails) is no longer found.

    Args:
        file: open for reading and writing.
        new: values, or directories that the tag shall point to.
        drop: tags.
        within: change the directory that this tag of the first one points to instead, in which
            ``new`` replaces what is there, with values of at most four bytes, and adds nothing.
            If there is none, nothing happens.

    Raises:
        ValueError: there is no directory, or the file would be larger than its offsets can say.
    """
    tiff = _Tiff(file)
    at = tiff.first if within is None else tiff.pointed(tiff.first, within)
    if at is None:
        return
    try:
        old = tiff.table(at)
    except ValueError:
        if within is None:
            raise
        return
    if within is not None:
        new = {tag: value for tag, value in new.items() if tag in old.entries}
    kept = {tag: raw for tag, raw in old.entries.items() if tag not in new and tag not in drop}
    short_values = all(isinstance(v, Entry) and len(v.data) <= tiff.inline for v in new.values())
    in_place = short_values and len(kept) + len(new) <= len(old.entries)
    end = tiff.file.seek(0, io.SEEK_END)
    where = at if in_place else end + end % 2
    try:
        block = tiff.block(where, kept, new, old.following if within else 0)
        tiff.write(where, block.ljust(old.length, b"\0") if in_place else block)
        if not in_place:
            tiff.write(tiff.pointer, tiff.packed(tiff.offset, where))
    except struct.error as error:
        raise ValueError("the file is too large for another directory") from error


def without_thumbnail(exif: bytes) -> bytes:
    """``exif`` without the second directory and the small picture that it describes.

    Raises:
        ValueError: there is no directory.
    """
    data = bytearray(exif.removeprefix(PREFIX))
    tiff = _Tiff(io.BytesIO(data))
    first = tiff.table(tiff.first)
    if not first.following:
        return exif
    _erase(data, tiff.first + first.length - tiff.inline, tiff.inline)
    with contextlib.suppress(ValueError):
        second = tiff.table(first.following)
        for tags in ((513, 514), (273, 279)):
            start, length = (tiff.number(second.entries.get(tag)) for tag in tags)
            if start and length:
                _erase(data, start, length)
        if first.following != tiff.first:
            _erase(data, first.following, second.length)
    return PREFIX + bytes(data)


def _erase(data: bytearray, start: int, length: int) -> None:
    """Overwrite with zeros; cut off what was the end."""
    if start + length > len(data):
        return
    data[start : start + length] = bytes(length)
    if start + length == len(data) and length > LONGEST_INLINE:
        del data[start:]


@dataclass(frozen=True)
class _Table:
    """A directory's raw ``entries`` by tag, where the next lies, and its bytes in the file."""

    entries: dict[int, bytes]
    following: int
    length: int


class _Tiff:
    """A file with a TIFF's header, classic or BigTIFF, of either byte order."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        head = self.read(0, 16)
        self.order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        version = self.number_of(head[2:4]) if self.order else 0
        if version not in (42, 43):
            raise ValueError("it has no TIFF header")
        self.big = version == 43
        # struct's letters of the number of entries and of an offset.
        self.number_letter, self.offset = ("Q", "Q") if self.big else ("H", "I")
        # Bytes of that number, of an entry, and of a value that needs no offset.
        self.head, self.size, self.inline = (8, 20, 8) if self.big else (2, 12, 4)
        self.pointer = self.inline  # Where the header says where the first directory lies.
        self.first = self.number_of(head[self.pointer : self.pointer + self.inline])
        self.left = MOST_BYTES

    def read(self, at: int, length: int) -> bytes:
        if at > LARGEST_FILE:
            return b""
        self.file.seek(at)
        return self.file.read(length)

    def write(self, at: int, data: bytes) -> None:
        self.file.seek(at)
        self.file.write(data)

    def packed(self, letters: str, *values: int) -> bytes:
        return struct.pack(self.order + letters, *values)

    def number_of(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self.order == "<" else "big")

    def length(self, count: int) -> int:
        """Bytes of a directory of ``count`` entries."""
        return self.head + count * self.size + self.inline

    def table(self, at: int) -> _Table:
        """The directory at ``at``."""
        head = self.read(at, self.head)
        count = self.number_of(head)
        if at < LONGEST_INLINE or len(head) < self.head or count > MOST_ENTRIES:
            raise ValueError("it has no directory")
        end = count * self.size
        data = self.read(at + self.head, end + self.inline)
        if len(data) < end:
            raise ValueError("it has no whole directory")
        raw = [data[start : start + self.size] for start in range(0, end, self.size)]
        entries = {self.number_of(each[:2]): each for each in raw}
        return _Table(entries, self.number_of(data[end:]), self.length(count))

    def directory(self, skip: Collection[int], at: int | None = None, depth: int = 0) -> Directory:
        table = self.table(self.first if at is None else at)
        result: Directory = {}
        for tag, raw in table.entries.items():
            if tag in skip:
                continue
            if tag not in POINTERS:
                value = self.value(raw)
                if value is not None:
                    result[tag] = value
            elif depth < DEPTH and (below := self.number(raw)):
                try:
                    result[tag] = self.directory((), below, depth + 1)
                except ValueError:
                    continue
        return result

    def value(self, raw: bytes) -> Entry | None:
        """An entry's values, if they are of a known kind and lie in the file."""
        kind, count = self.number_of(raw[2:4]), self.number_of(raw[4 : -self.inline])
        if kind not in SIZES or (size := SIZES[kind] * count) > self.left:
            return None
        data = raw[-self.inline :][:size]
        if size > self.inline:
            data = self.read(self.number_of(raw[-self.inline :]), size)
            self.left -= size
        return Entry(kind, count, self.turned(kind, data)) if len(data) == size else None

    def number(self, raw: bytes | None) -> int | None:
        """The one number of an entry."""
        value = self.value(raw) if raw else None
        return None if value is None or value.count != 1 else int.from_bytes(value.data, "little")

    def pointed(self, at: int, tag: int) -> int | None:
        """Where the directory lies that ``tag`` of the one at ``at`` points to."""
        return self.number(self.table(at).entries.get(tag))

    def turned(self, kind: int, data: bytes) -> bytes:
        """``data`` from this file's byte order to little-endian, or back."""
        unit = UNITS[kind]
        if self.order == "<" or unit == 1:
            return data
        return b"".join(data[i : i + unit][::-1] for i in range(0, len(data), unit))

    def block(
        self,
        at: int,
        raw: Mapping[int, bytes],
        values: Mapping[int, Entry | Directory],
        following: int = 0,
    ) -> bytes:
        """A directory to be written at ``at``, with what its ``values`` need behind it."""
        tags = sorted({*raw, *values})
        table = self.packed(self.number_letter, len(tags))
        behind = b""
        for tag in tags:
            if tag in raw:
                table += raw[tag]
                continue
            value, where = values[tag], at + self.length(len(tags)) + len(behind)
            if isinstance(value, dict):
                kind, count, data = (LONG8 if self.big else LONG), 1, b""
                behind += self.block(where, {}, value)
            else:
                kind, count, data = value.kind, value.count, self.turned(value.kind, value.data)
            field = data.ljust(self.inline, b"\0")
            if len(data) > self.inline or isinstance(value, dict):
                field = self.packed(self.offset, where)
                behind += data
            behind += bytes(len(behind) % 2)
            table += self.packed("HH" + self.offset, tag, kind, count) + field
        return table + self.packed(self.offset, following) + behind
