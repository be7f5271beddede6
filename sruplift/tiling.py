"""Cut an image into overlapping tiles, run something on each, blend the results without seams.

All tiles of a plan have one shape, so that a compiled network is built once: where the tiles do
not divide the image they share more pixels, evenly. Of the pixels that two neighbours share, each
side throws away a halo (results there miss context) and a half-cosine ramp blends the rest. There
are ramps on interior sides only, so weights are positive everywhere and sum to one, and an image
border is never darkened.

A network that looks ``receptive_field`` pixels far needs that halo: with an overlap of twice as
much and no ramp the result is the whole image's. Measured with PAN's published x4 weights (it looks
36 pixels far), tiles of at most 200, against the whole image, worst of three or four photos:

| overlap | ramp | fp32: worst error of 255, values changed | bf16: worst level, values changed |
| --- | --- | --- | --- |
| 32 | 8 | 0.107, 0.01 % | |
| 40 | 8 | 0.012, 0.001 % | |
| 48 | 8 | 0.0004, 2 of a million | 2, 1.3 % |
| 64 | 8 | 0.0002, 1 of a million | 2, 0.3 % |
| 72 | 8 | | 1, 0.03 % |
| 72 | 0 | 0.0001, none | 0, none |
| 80 | 8 | 0.0001, 1 of a million | 1, 1 of a million |

In bf16 any lack of context, however small, tips some roundings inside the network.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from sruplift.errors import NumericalError, UsageError

# Width of a blend ramp, LR pixels; the rest of the overlap is halo. A wide ramp uses what lacks
# context: with overlap 48, ramps of 0, 8, 16 and 24 err by 0.0002, 0.0004, 0.0035 and 0.035 of 255.
RAMP = 8
# LR pixels that neighbours share where nobody knows how far a network looks.
DEFAULT_OVERLAP = 48

# LR pixels that a tile must not share: with one each an image would be thousands of tiles.
LEAST_OF_ITS_OWN = 8

TileFunction = Callable[[Tensor, tuple[int, int]], Tensor]


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in LR pixels: what it reads and which part of it is kept.

    ``start:stop`` is read. ``fade_in`` and ``fade_out`` are the (first, end) of the ramps towards
    its neighbours, empty at an image border; everything between their outer ends is kept.
    """

    start: int
    stop: int
    fade_in: tuple[int, int]
    fade_out: tuple[int, int]

    @property
    def kept(self) -> slice:
        """The positions that this tile writes, in image coordinates."""
        return slice(self.fade_in[0], self.fade_out[1])

    @property
    def is_whole(self) -> bool:
        """Whether nothing of this tile is blended along its axis."""
        return self.fade_in[0] == self.fade_in[1] and self.fade_out[0] == self.fade_out[1]


@dataclass(frozen=True)
class TilePlan:
    """Tiles of an image: every row of ``rows`` with every column of ``columns``."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def tile_shape(self) -> tuple[int, int]:
        """(height, width) of every tile, LR pixels."""
        row, column = self.rows[0], self.columns[0]
        return row.stop - row.start, column.stop - column.start

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


@dataclass(frozen=True)
class Rows:
    """An image (B, C, height, width) that is read some rows at a time, from top to bottom.

    ``read(start, stop)`` gives (B, C, stop - start, width), float32 in [0, 1], in main memory.
    """

    height: int
    width: int
    read: Callable[[int, int], Tensor]

    @classmethod
    def of(cls, image: Tensor) -> Rows:
        """The rows of a tensor."""
        height, width = image.shape[-2:]
        return cls(height, width, lambda start, stop: image[..., start:stop, :])


@dataclass(frozen=True)
class Band:
    """Finished rows of the result: ``pixels`` (B, C, rows, width) begin at output row ``top``."""

    top: int
    pixels: Tensor


def check_tile(tile_size: int | str, overlap: int | str) -> None:
    """Refuse a tile and an overlap, LR pixels or "auto", that cannot be meant.

    Raises:
        UsageError: a negative overlap, or one that leaves a tile next to nothing of its own.
    """
    shared = overlap if isinstance(overlap, int) else 0
    if shared < 0:
        raise UsageError(f"overlap must be at least 0, not {shared}")
    if isinstance(tile_size, int) and tile_size - shared < LEAST_OF_ITS_OWN:
        raise UsageError(
            f"a tile of {tile_size} is too small for an overlap of {shared}: it needs"
            f" {LEAST_OF_ITS_OWN} pixels of its own"
        )


def plan_tiles(
    height: int,
    width: int,
    tile_size: int | tuple[int, int] | None,
    overlap: int = DEFAULT_OVERLAP,
    ramp: int = RAMP,
    grid: int = 1,
) -> TilePlan:
    """Tiles for an image of ``height`` x ``width`` LR pixels.

    Args:
        height: LR rows, at least 1.
        width: LR columns, at least 1.
        tile_size: edge of a tile, or its (height, width), overlap included; an axis that is not
            longer is not cut. ``None`` is one tile, the whole image.
        overlap: LR pixels that neighbours share at least; less than the tile.
        ramp: how many of them are blended, at most half; the rest is halo.
        grid: tiles start at multiples of it; their edge shrinks by less than it for that.

    Raises:
        ValueError: an empty image, or an overlap that leaves a tile no pixel of its own.
    """
    if min(height, width) < 1:
        raise ValueError(f"an image has at least one pixel, not {height}x{width}")
    if tile_size is None:
        tile_size = (height, width)
    elif isinstance(tile_size, int):
        tile_size = (tile_size, tile_size)
    return TilePlan(
        rows=plan_axis(height, tile_size[0], overlap, ramp, grid),
        columns=plan_axis(width, tile_size[1], overlap, ramp, grid),
    )


def plan_axis(
    length: int, tile: int, overlap: int, ramp: int = RAMP, grid: int = 1
) -> tuple[Span, ...]:
    """Tiles along one axis: the fewest whose neighbours share ``overlap``, evenly spread.

    They are not longer than ``tile``, unless a grid leaves such tiles no step to go on by.
    """
    if length > tile > overlap:
        # The last tile ends where the image does, so its start is on the grid if this is on it.
        tile -= (tile - length) % grid
        # Tiles go on by one step of the grid at least.
        tile += max(0, math.ceil((grid - (tile - overlap)) / grid)) * grid
    if length <= tile:
        return (Span(0, length, (0, 0), (length, length)),)
    count = _count(length, tile, overlap, grid)
    free = (length - tile) // grid
    starts = [i * free // (count - 1) * grid for i in range(count)]
    stride = min(after - before for before, after in itertools.pairwise(starts))
    # A ramp wider than the stride would meet the next one, and three tiles would share a pixel.
    ramp = min(ramp, overlap // 2, stride)
    seams = [_centred(after, before + tile, ramp) for before, after in itertools.pairwise(starts)]
    fades_in = [(0, 0), *seams]
    fades_out = [*seams, (length, length)]
    return tuple(
        Span(start, start + tile, fade_in, fade_out)
        for start, fade_in, fade_out in zip(starts, fades_in, fades_out, strict=True)
    )


def even_tile(length: int, tile: int, overlap: int) -> int:
    """The smallest tile that covers ``length`` with as many tiles as ``tile`` needs."""
    if length <= tile:
        return length
    count = _count(length, tile, overlap)
    return math.ceil((length + (count - 1) * overlap) / count)


def _count(length: int, tile: int, overlap: int, grid: int = 1) -> int:
    """The number of tiles that an axis longer than ``tile`` needs."""
    stride = (tile - overlap) // grid
    if overlap < 0 or stride < 1:
        raise ValueError(f"an overlap of {overlap} does not fit a tile of {tile}")
    return math.ceil((length - tile) / grid / stride) + 1


def _centred(low: int, high: int, width: int) -> tuple[int, int]:
    """An interval of ``width`` in the middle of ``low:high``."""
    first = low + (high - low - width) // 2
    return first, first + width


def axis_window(span: Span, scale: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Blend weights of a tile's kept part, (kept * scale,), in (0, 1].

    The weights of neighbours sum to one: the falling ramp is one minus the rising one.
    """
    kept = span.kept
    window = torch.ones((kept.stop - kept.start) * scale, dtype=dtype, device="cpu")
    rising = _ramp((span.fade_in[1] - span.fade_in[0]) * scale, dtype)
    falling = 1 - _ramp((span.fade_out[1] - span.fade_out[0]) * scale, dtype)
    window[: len(rising)] = rising
    window[len(window) - len(falling) :] = falling
    return window


def _ramp(length: int, dtype: torch.dtype) -> Tensor:
    """Half a cosine from 0 to 1, sampled at pixel centres: never 0 and never 1."""
    return 0.5 - 0.5 * torch.cos(
        torch.pi * (torch.arange(length, dtype=dtype, device="cpu") + 0.5) / max(length, 1)
    )


def run_tiled(
    fn: TileFunction,
    image: Tensor | Rows,
    plan: TilePlan,
    scale: int,
    *,
    first_row: int = 0,
    in_flight: int = 1,
) -> Iterator[Band]:
    """``fn`` on every tile of ``image``; the blended result, in bands of finished rows.

    Only two rows of tiles are held at a time, and only a tile is given to ``fn``. What comes out
    does not depend on ``in_flight``.

    Args:
        fn: (B, C, h, w) and the (top, left) of these pixels in ``image`` -> (B, C', h * scale,
            w * scale).
        image: (B, C, H, W) of the plan's size, or its rows.
        plan: from ``plan_tiles``.
        scale: how many times larger the result is.
        first_row: the first output row that is wanted. Rows of tiles that do not reach it are
            skipped: what broke off in the middle goes on with another plan.
        in_flight: how many tiles are given to ``fn`` at a time, each in a thread; with 1 it is
            called from this one.

    Yields:
        Bands from top to bottom that cover rows ``first_row`` to the end, each row once. Let go of
        one before asking for the next: each is as large as a row of tiles.

    Raises:
        NumericalError: from ``fn``, with the tile's place added.
    """
    source = Rows.of(image) if isinstance(image, Tensor) else image
    rows = [row for row in plan.rows if row.kept.stop * scale > first_row]
    open_rows: Tensor | None = None  # What the row of tiles above leaves to blend with.
    with closing(_results(fn, _tiles(source, rows, plan.columns), in_flight)) as results:
        for row in rows:
            strip = _blended_row(results, row, plan.columns, scale)
            if open_rows is not None and open_rows.shape[-2]:
                strip[..., : open_rows.shape[-2], :] += open_rows
            finished = (row.fade_out[0] - row.kept.start) * scale
            # Copied, for the strip is much larger and need not live while the next one is made.
            open_rows = strip[..., finished:, :].clone()
            skip = max(first_row - row.kept.start * scale, 0)
            yield Band(row.kept.start * scale + skip, strip[..., skip:finished, :])
            del strip


def assemble(bands: Iterable[Band], height: int) -> Tensor:
    """Bands that cover output rows 0 to ``height`` as one image (B, C, height, width).

    Raises:
        ValueError: rows are missing, repeated or out of order.
    """
    result: Tensor | None = None
    done = 0
    for band in bands:
        rows = band.pixels.shape[-2]
        if band.top != done or done + rows > height:
            raise ValueError(f"expected row {done} of {height}, got {band.top}:{band.top + rows}")
        if rows == height:
            return band.pixels
        if result is None:
            result = band.pixels.new_empty((*band.pixels.shape[:2], height, band.pixels.shape[-1]))
        result[..., done : done + rows, :] = band.pixels
        done += rows
    if result is None or done != height:
        raise ValueError(f"only {done} of {height} rows")
    return result


_Tile = tuple[Tensor, Span, Span]


def _tiles(source: Rows, rows: Iterable[Span], columns: Iterable[Span]) -> Iterator[_Tile]:
    """Pixels, row and column of every tile; one row of tiles is read at a time."""
    for row in rows:
        pixels = source.read(row.start, row.stop)
        for column in columns:
            yield pixels[..., column.start : column.stop], row, column
        del pixels


def _results(
    fn: TileFunction, tiles: Iterable[_Tile], in_flight: int
) -> Generator[Tensor, None, None]:
    """What ``fn`` makes of each tile, in order."""
    if in_flight == 1:
        for tile in tiles:
            yield _run_tile(fn, *tile)
            del tile  # Its row's pixels need not live while the next row's are read.
        return
    pool = ThreadPoolExecutor(in_flight)
    pending: deque[Future[Tensor]] = deque()
    try:
        for tile in tiles:
            pending.append(pool.submit(_run_tile, fn, *tile))
            # One more than are worked on: nothing waits while the result of one is blended.
            if len(pending) > in_flight:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _blended_row(
    results: Iterator[Tensor], row: Span, columns: tuple[Span, ...], scale: int
) -> Tensor:
    """A row of tiles' ``results`` blended sideways, faded up and down: (B, C, kept rows, width)."""
    strip: Tensor | None = None
    for column in columns:
        kept = next(results)[..., _part(row, scale), _part(column, scale)]
        if len(columns) == 1 and row.is_whole:
            return kept
        if strip is None:
            strip = _strip_like(kept, columns[-1].stop * scale)
        to = slice(column.kept.start * scale, column.kept.stop * scale)
        _place(strip[..., to], kept, column, scale)
    assert strip is not None
    _fade(strip.movedim(-2, -1), row, scale)
    return strip


def _strip_like(kept: Tensor, width: int) -> Tensor:
    """An empty row of tiles, laid out in memory as ``kept`` is."""
    shape = (*kept.shape[:-1], width)
    last = kept.stride(1) == 1 and kept.shape[1] > 1
    order = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=kept.dtype, device=kept.device, memory_format=order)


def _place(target: Tensor, kept: Tensor, column: Span, scale: int) -> None:
    """Write a tile's kept part to its place, blended with its left neighbour's."""
    shared = (column.fade_in[1] - column.fade_in[0]) * scale
    target[..., shared:] = kept[..., shared:]
    if shared:
        rising = axis_window(column, scale, kept.dtype)[:shared]
        target[..., :shared] += kept[..., :shared] * rising
    _fade(target, column, scale, inwards=False)


def _fade(pixels: Tensor, span: Span, scale: int, *, inwards: bool = True) -> None:
    """Weigh the ramps at both ends of the last axis, or only the one at its end, in place."""
    window = axis_window(span, scale, pixels.dtype)
    first = (span.fade_in[1] - span.fade_in[0]) * scale
    last = (span.fade_out[1] - span.fade_out[0]) * scale
    if first and inwards:
        pixels[..., :first] *= window[:first]
    if last:
        pixels[..., -last:] *= window[-last:]


def _run_tile(fn: TileFunction, tile: Tensor, row: Span, column: Span) -> Tensor:
    try:
        return fn(tile, (row.start, column.start))
    except NumericalError as error:
        place = f"rows {row.start} to {row.stop - 1}, columns {column.start} to {column.stop - 1}"
        raise NumericalError(f"{error} (tile of {place})") from error


def _part(span: Span, scale: int) -> slice:
    """The kept part of a tile's result."""
    return slice((span.kept.start - span.start) * scale, (span.kept.stop - span.start) * scale)
