"""PNGs and TIFFs made by hand, with pixels that are known without any decoder.

``png`` writes what Willem van Schaik's PngSuite has and what Pillow does not write: every colour
type and depth, interlacing, all filters, transparent colours, any chunks in any order.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sruplift.png import PASSES, SAMPLES, SIGNATURE

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = SAMPLES
# Every colour type with each of its depths (PNG specification, third edition, table 11.1).
KINDS = (
    *((GREY, depth) for depth in (1, 2, 4, 8, 16)),
    *((PALETTE, depth) for depth in (1, 2, 4, 8)),
    *((colour, depth) for colour in (RGB, GREY_ALPHA, RGB_ALPHA) for depth in (8, 16)),
)


@dataclass(frozen=True, eq=False)
class Drawing:
    """``samples`` (H, W, C) of ``depth`` bits and what they mean."""

    colour: int
    depth: int
    samples: NDArray[np.int64]
    palette: NDArray[np.uint8] | None = None
    # Of a palette: alpha of its first colours; else the one colour that is not there.
    transparency: tuple[int, ...] = ()

    @property
    def pixels(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """What a reader must make of it, (H, W, 1 to 4)."""
        if self.palette is not None:
            alpha = np.full((len(self.palette), 1), 255)
            alpha[: len(self.transparency), 0] = self.transparency
            table = np.hstack([self.palette, alpha]) if self.transparency else self.palette
            return table[self.samples[..., 0]].astype(np.uint8)
        most = 2**self.depth - 1
        top, dtype = (65_535, np.uint16) if self.depth == 16 else (255, np.uint8)
        values = self.samples * top // most
        if self.transparency:
            there = (self.samples != np.array(self.transparency)).any(2, keepdims=True)
            values = np.concatenate([values, there * top], axis=2)
        return values.astype(dtype)


def drawing(
    colour: int, depth: int, height: int, width: int, *, transparent: bool = False, seed: int = 0
) -> Drawing:
    """Random samples; ``transparent``: with a tRNS chunk, whose colour occurs."""
    random = np.random.default_rng([seed, colour, depth, height, width])
    samples = random.integers(0, 2**depth, (height, width, SAMPLES[colour]))
    palette, hidden = None, ()
    if colour == PALETTE:
        palette = random.integers(0, 256, (2**depth, 3), dtype=np.uint8)
        hidden = tuple(random.integers(0, 256, 2**depth - 1).tolist()) if transparent else ()
    elif transparent:
        hidden = tuple(samples[height // 2, width // 2].tolist())
    return Drawing(colour, depth, samples, palette, hidden)


def chunk(name: bytes, data: bytes = b"", checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(name + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png(
    drawn: Drawing,
    *,
    interlace: bool = False,
    filters: Sequence[int] = (0,),
    level: int = 6,
    before: bytes = b"",
    between: bytes = b"",
    after: bytes = b"",
    idat: int | None = None,
    header: bytes | None = None,
) -> bytes:
    """The file.

    Args:
        drawn: what it shows.
        interlace: Adam7.
        filters: of the rows, in turn.
        level: of compression.
        before: chunks before the palette.
        between: chunks between palette and pixels.
        after: chunks behind the pixels.
        idat: bytes in a chunk of pixels, all in one by default.
        header: in place of the right IHDR chunk.
    """
    height, width, _ = drawn.samples.shape
    layout = struct.pack(">IIBBBBB", width, height, drawn.depth, drawn.colour, 0, 0, interlace)
    packed = zlib.compress(rows(drawn, interlace=interlace, filters=filters), level)
    step = idat or len(packed)
    pieces = [packed[start : start + step] for start in range(0, len(packed), step)]
    colours = chunk(b"PLTE", drawn.palette.tobytes()) if drawn.palette is not None else b""
    form = f"{len(drawn.transparency)}{'B' if drawn.colour == PALETTE else 'H'}"
    hidden = struct.pack(f">{form}", *drawn.transparency)
    return b"".join(
        (
            SIGNATURE,
            chunk(b"IHDR", layout) if header is None else header,
            before,
            colours,
            chunk(b"tRNS", hidden) if hidden else b"",
            between,
            *(chunk(b"IDAT", piece) for piece in pieces),
            after,
            chunk(b"IEND"),
        )
    )


def rows(drawn: Drawing, *, interlace: bool = False, filters: Sequence[int] = (0,)) -> bytes:
    """The filtered rows before compression."""
    passes = PASSES if interlace else ((0, 0, 1, 1),)
    bits = drawn.depth * SAMPLES[drawn.colour]
    result = b""
    for left, top, across, down in passes:
        part = drawn.samples[top::down, left::across]
        if not part.size:
            continue
        above = np.zeros(-(-part.shape[1] * bits // 8), np.int64)
        for index, row in enumerate(part):
            packed = _packed(row.ravel(), drawn.depth)
            kind = filters[index % len(filters)]
            result += bytes([kind]) + _filtered(packed, above, max(1, bits // 8), kind)
            above = packed
    return result


def _packed(values: NDArray[np.int64], depth: int) -> NDArray[np.int64]:
    """Samples as bytes, the first in the highest bits."""
    bits = (values[:, None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.ravel().astype(np.uint8)).astype(np.int64)


def _filtered(row: NDArray[np.int64], above: NDArray[np.int64], step: int, kind: int) -> bytes:
    """One row (9.2): none, sub, up, average, Paeth."""
    left = np.concatenate([np.zeros(step, np.int64), row])[: len(row)]
    corner = np.concatenate([np.zeros(step, np.int64), above])[: len(row)]
    estimate = left + above - corner
    distances = np.abs(np.stack([left, above, corner]) - estimate)
    nearest = np.choose(distances.argmin(0), [left, above, corner])
    guess = [np.zeros_like(row), left, above, (left + above) // 2, nearest][kind]
    return ((row - guess) % 256).astype(np.uint8).tobytes()


def tiff(
    samples: NDArray[np.uint8] | NDArray[np.uint16],
    photometric: int,
    *,
    extra: Sequence[int] = (),
    compressed: bool = False,
    rows_per_strip: int | None = None,
    left_out: int = 0,
    cyclic: bool = False,
) -> bytes:
    """A little-endian TIFF of (H, W, C).

    Args:
        samples: as they are to be stored.
        photometric: the meaning of the first channels (TIFF 6.0, section 8).
        extra: the meaning of the others: 0 unknown, 1 and 2 alpha.
        compressed: by deflate.
        rows_per_strip: all rows by default.
        left_out: strips at the end that are missing.
        cyclic: the directory says that it is its own successor.
    """
    height, width, channels = samples.shape
    step = rows_per_strip or height
    strips = [samples[top : top + step].tobytes() for top in range(0, height, step)]
    strips = [zlib.compress(strip) if compressed else strip for strip in strips]
    strips = strips[: len(strips) - left_out]
    sizes = [len(strip) for strip in strips]
    offsets = [8 + sum(sizes[:index]) for index in range(len(sizes))]
    tags: list[tuple[int, str, Sequence[int]]] = [
        (256, "I", [width]),
        (257, "I", [height]),
        (258, "H", [samples.itemsize * 8] * channels),
        (259, "H", [8 if compressed else 1]),
        (262, "H", [photometric]),
        (273, "I", offsets),
        (277, "H", [channels]),
        (278, "I", [step]),
        (279, "I", sizes),
        *([(338, "H", extra)] if extra else []),
    ]
    place = 8 + sum(sizes)
    behind, directory = b"", struct.pack("<H", len(tags))
    for tag, form, values in tags:
        data = struct.pack(f"<{len(values)}{form}", *values)
        if len(data) > 4:
            data, behind = (
                struct.pack("<I", place + 2 + 12 * len(tags) + 4 + len(behind)),
                behind + data,
            )
        directory += struct.pack("<HHI", tag, {"H": 3, "I": 4}[form], len(values)) + data.ljust(
            4, b"\0"
        )
    directory += struct.pack("<I", place if cyclic else 0)
    return b"II*\0" + struct.pack("<I", place) + b"".join(strips) + directory + behind
