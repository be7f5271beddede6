"""A picture on its way through networks in strips: pixels to rows, bands to pixels.

Pictures are (H, W, C) tensors as arrays are laid out; rows and bands (1, C, h, W), float32, as
networks want them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sruplift.alpha import bleed, composite
from sruplift.errors import ImageError
from sruplift.resize import RowResizer, bicubic_rows, rows_needed
from sruplift.sizes import Route
from sruplift.store import new_array, release
from sruplift.tiling import Band, Rows

Progress = Callable[[float], None]
# Results further than this from [0, 1] are clipped to it, and worth a word.
WILD = 1.0
# Floating-point pixels this far out of range are a rounding, not another range.
TOLERANCE = 1e-3
# Transparent pixels are coloured in blocks of so many rows, with as many rows around them.
BLEED_BLOCK = 256
# Values are clipped, rounded and stored so many at a time.
PIECE = 2 * 1024**2
_INTEGERS: Sequence[torch.dtype] = (torch.uint8, torch.uint16)


@dataclass(frozen=True)
class Alpha:
    """Transparency: ``plane`` (H, W, 1) of the picture, ``rows`` of the result in [0, 1].

    ``constant``: its one value, if it has only one.
    """

    plane: Tensor
    rows: Callable[[int, int], Tensor]
    constant: float | None = None


class Work:
    """Shares of one progress for the runs of a route, by the pixels that each makes."""

    def __init__(self, way: Route, pixels: int, progress: Progress | None) -> None:
        self.progress = progress
        made, self.ends = pixels, [0]
        for scale in way.scales:
            made *= scale**2
            self.ends.append(self.ends[-1] + made)

    def of(self, index: int) -> Progress | None:
        """The progress of the run ``index``."""
        progress = self.progress
        if progress is None:
            return None
        start, end, total = self.ends[index], self.ends[index + 1], self.ends[-1]
        return lambda share: progress((start + share * (end - start)) / total)


class Finish:
    """Bands of float RGB to pixels of the result: clipped, with alpha, rounded once."""

    def __init__(
        self,
        result: Tensor,
        colours: int,
        alpha: Alpha | None,
        background: tuple[float, float, float] | None,
    ) -> None:
        self.result, self.colours, self.alpha = result, colours, alpha
        self.background = background
        self.worst = 0.0

    def take(self, bands: Iterator[Band]) -> None:
        """Store all of them."""
        for band in bands:
            self(band)
            del band

    def __call__(self, band: Band) -> None:
        """Store the pixels of ``band`` in the result."""
        rows = max(1, PIECE // (3 * band.pixels.shape[-1]))
        for first in range(0, band.pixels.shape[-2], rows):
            piece = band.pixels[..., first : first + rows, :]
            self._store(band.top + first, piece)
        _release(self.result)

    def _store(self, top: int, pixels: Tensor) -> None:
        low, high = pixels.aminmax()
        self.worst = max(self.worst, float(high) - 1, -float(low))
        pixels = pixels.clamp(0, 1)
        if self.colours == 1:
            pixels = pixels.mean(1, keepdim=True)
        bottom = top + pixels.shape[-2]
        if self.alpha is not None:
            alpha = self.alpha.rows(top, bottom)
            if self.background is None:
                pixels = torch.cat([pixels, alpha], 1)
            else:
                background = torch.tensor(self.background, device="cpu")
                colour = background[: self.result.shape[2], None, None]
                pixels = composite(pixels, alpha, colour)
        quantised = _quantised(pixels, self.result.dtype)
        self.result[top:bottom] = quantised[0].movedim(0, 2)

    def notes(self) -> tuple[str, ...]:
        """A sentence if the network's values were wild."""
        if self.worst <= WILD:
            return ()
        return (
            f"the network's values left the range 0 to 1 by up to {self.worst:.3g} and were "
            "clipped: the picture may be wrong, and another network's may not",
        )


def colour_rows(pixels: Tensor, alpha: Alpha | None) -> Rows:
    """Rows of (H, W, 1 or 3) as RGB for a network, hidden colours replaced by visible ones."""
    height, width = pixels.shape[:2]

    def plain(start: int, stop: int) -> Tensor:
        rows = unit_range(planes(pixels[start:stop])).expand(-1, 3, -1, -1)
        _release(pixels)
        return rows

    def bled(start: int, stop: int) -> Tensor:
        assert alpha is not None
        # In whole blocks, so that the same pixels are seen from wherever a strip begins.
        first = max(0, (start // BLEED_BLOCK - 1) * BLEED_BLOCK)
        last = min(height, (-(-stop // BLEED_BLOCK) + 1) * BLEED_BLOCK)
        visible = unit_range(planes(alpha.plane[first:last]))
        return bleed(plain(first, last), visible)[..., start - first : stop - first, :]

    see_through = alpha is not None and alpha.constant is None
    return Rows(height, width, bled if see_through else plain)


def stored(bands: Iterator[Band], height: int, width: int, folder: Path | None) -> Rows:
    """The result of one run, kept in float32 for the next."""
    kept = new_array((height, width, 3), np.float32, folder)
    for band in bands:
        rows = band.pixels.clamp(0, 1)[0].movedim(0, 2).numpy()
        kept[band.top : band.top + len(rows)] = rows
        release(kept)
        del band, rows

    def read(start: int, stop: int) -> Tensor:
        rows = torch.from_numpy(np.array(kept[start:stop])).movedim(2, 0)[None]
        release(kept)
        return rows

    return Rows(height, width, read)


def plain_bands(source: Rows) -> Iterator[Band]:
    """The picture as it is."""
    for top in range(0, source.height, BLEED_BLOCK):
        yield Band(top, source.read(top, min(top + BLEED_BLOCK, source.height)))


def resized_bands(bands: Iterator[Band], height: int, size: tuple[int, int]) -> Iterator[Band]:
    """Bands of an image of ``height`` rows, resized to ``size``."""
    resizer, top = RowResizer(height, size), 0
    for band in bands:
        rows = resizer.push(band.pixels)
        del band
        if rows.shape[-2]:
            yield Band(top, rows)
            top += rows.shape[-2]
        del rows


def resized_rows(plane: Tensor, size: tuple[int, int], start: int, stop: int) -> Tensor:
    """Rows of (H, W, 1) resized to ``size``, (1, 1, rows, width) in [0, 1]."""
    height = plane.shape[0]
    first, last = rows_needed(height, size[0], start, stop)
    rows = unit_range(planes(plane[first:last]))
    return bicubic_rows(rows, first, height, size, start, stop).clamp_(0, 1)


def constant_rows(value: float, rows: int, way: Route) -> Tensor:
    """So many rows of one value, (1, 1, rows, width)."""
    return torch.full((1, 1, rows, way.size[1]), value, dtype=torch.float32, device="cpu")


def as_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """The array's memory as a tensor; a copy where PyTorch cannot take it."""
    native = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    if not native.flags.writeable or any(stride < 0 for stride in native.strides):
        native = native.copy()
    return torch.from_numpy(native)


def new_tensor(shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None) -> Tensor:
    """An empty (H, W, C) tensor, mapped from a file where ``new_array`` would."""
    if dtype in _INTEGERS:
        return torch.from_numpy(new_array(shape, str(dtype).removeprefix("torch."), folder))
    return torch.empty(shape, dtype=dtype, device="cpu")


def _release(pixels: Tensor) -> None:
    """``store.release`` for a tensor that may be mapped."""
    if pixels.dtype in _INTEGERS:
        release(pixels.numpy())


def planes(pixels: Tensor) -> Tensor:
    """(H, W, C) -> (1, C, H, W), a view."""
    return pixels.movedim(2, 0)[None]


def extremes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value; PyTorch has no such function for uint16."""
    if pixels.dtype == torch.uint16:
        array = pixels.numpy()
        low, high = torch.tensor([int(array.min()), int(array.max())], device="cpu")
        return low, high
    low, high = pixels.aminmax()
    return low, high


def check_range(pixels: Tensor) -> None:
    """Refuse another dtype, NaN, or floating-point values out of [0, 1]."""
    if pixels.dtype in _INTEGERS:
        return
    if not pixels.is_floating_point() or pixels.element_size() == 1:
        raise ImageError(f"pixels of type {pixels.dtype} are not supported")
    low, high = (float(value) for value in pixels.aminmax())
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise ImageError(f"floating-point pixels must be in [0, 1], not in [{low:.3g}, {high:.3g}]")


def unit_range(planes: Tensor) -> Tensor:
    """Pixels of any supported dtype as float32 in [0, 1]."""
    if planes.dtype in _INTEGERS:
        return planes.float().div_(torch.iinfo(planes.dtype).max)
    return planes.float().clamp(0, 1)


def _quantised(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """The one rounding, where ``dtype`` is of integers."""
    if dtype == torch.uint16:
        return pixels.mul(65535).round_().to(torch.int32).to(torch.uint16)
    return pixels.mul(255).round_().to(torch.uint8) if dtype == torch.uint8 else pixels.to(dtype)
