"""A PNG's chunks: whether it has all its pixels (Pillow shows black for those it lacks), and how
large it says that they are.

Sections are those of the PNG specification, third edition.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIECE = 1024**2
_INDEXED = b"\3"
# Samples a pixel by colour type (11.2.1).
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Of each pass of an interlaced picture: its first column and row, the steps to the next (8.1).
PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


@dataclass
class _Pixels:
    """The compressed pixels of a picture or a frame: ``missing`` bytes have not come out yet."""

    missing: int
    inflater: Any = field(default_factory=zlib.decompressobj)

    def feed(self, data: bytes) -> None:
        while data and self.missing > 0 and not self.inflater.eof:
            self.missing -= len(self.inflater.decompress(data, PIECE))
            data = self.inflater.unconsumed_tail


def damage(file: BinaryIO) -> str | None:
    """What is wrong with the pixels of all pictures in ``file``; None: nothing, or it is no PNG.

    The file stays where it is.
    """
    place = file.tell()
    try:
        file.seek(0)
        return _damage(file) if file.read(8) == SIGNATURE else None
    except zlib.error as error:
        return str(error)
    finally:
        file.seek(place)


def drop_png_resolution(file: BinaryIO) -> None:
    """Let a finished PNG say of its pixels that they are square, and not how large (11.3.4.3)."""
    file.seek(len(SIGNATURE))
    for name, _ in _chunks(file):
        if name == b"IDAT":
            return
        if name == b"pHYs":
            square = struct.pack(">IIB", 1, 1, 0)
            file.write(square + struct.pack(">I", zlib.crc32(name + square)))
            return


def _damage(file: BinaryIO) -> str | None:
    layout = frame = b""
    pixels, begins, palette = _Pixels(0), True, False
    for name, length in _chunks(file):
        if name == b"IHDR":
            layout = file.read(13)
            frame = layout[:8]
        elif name == b"fcTL":
            frame, begins = file.read(26)[4:12], True
        elif name == b"PLTE":
            palette = True
        elif name in (b"IDAT", b"fdAT"):
            if layout[9:10] == _INDEXED and not palette:
                return "it has no palette"
            if begins and pixels.missing > 0:
                break
            if begins:
                pixels, begins = _Pixels(_size(layout, frame)), False
            if not _take(file, name, length, pixels):
                return f"wrong checksum in {name.decode()}"
    return "a part of its pixels is missing" if pixels.missing > 0 else None


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Name and length of each chunk, the file at the beginning of its content."""
    while len(start := file.read(8)) == 8:
        length, name = int.from_bytes(start[:4], "big"), start[4:]
        following = file.tell() + length + 4
        yield name, length
        file.seek(following)


def _take(file: BinaryIO, name: bytes, length: int, pixels: _Pixels) -> bool:
    """Inflate a chunk; whether its checksum is right. Of one that ends early that is not known."""
    checksum = zlib.crc32(name)
    if name == b"fdAT":  # It begins with its number (11.3.6.3).
        number = file.read(4)
        checksum, length = zlib.crc32(number, checksum), length - 4
    while length > 0:
        piece = file.read(min(length, PIECE))
        if not piece:
            return True
        checksum, length = zlib.crc32(piece, checksum), length - len(piece)
        pixels.feed(piece)
    stored = file.read(4)
    return len(stored) < 4 or int.from_bytes(stored, "big") == checksum


def _size(layout: bytes, frame: bytes) -> int:
    """Bytes of a picture before compression; 0 of a header that says nothing a decoder takes."""
    if len(layout) < 13 or len(frame) < 8:
        return 0
    width, height = int.from_bytes(frame[:4], "big"), int.from_bytes(frame[4:], "big")
    bits = layout[8] * SAMPLES.get(layout[9], 0)
    passes = PASSES if layout[12] else ((0, 0, 1, 1),)
    size = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            size += rows * (1 + -(-columns * bits // 8))  # A byte for the filter begins each row.
    return size
