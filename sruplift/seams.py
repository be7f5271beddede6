"""Whether tiles show: a crop of an image through the network whole and in tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sruplift.engine import Engine
from sruplift.tiling import assemble

# Edges in LR pixels. Of the crop: several tiles, and not too many pixels to do twice.
CROP = 384
TILE = 160


@dataclass(frozen=True)
class SeamReport:
    """How tiles differ from the whole. ``crop`` is (height, width), LR pixels.

    ``worst`` is the largest error, of 255; ``psnr`` in dB over all values, infinite when equal.
    """

    crop: tuple[int, int]
    tile_size: int
    overlap: int
    worst: float
    psnr: float

    def __str__(self) -> str:
        height, width = self.crop
        tiles = f"in {width}x{height} pixels, tiles of {self.tile_size} with overlap {self.overlap}"
        if self.worst == 0:
            return f"{tiles} equal the whole image exactly"
        return (
            f"{tiles} differ from the whole by {self.worst:.2f} of 255 at most, {self.psnr:.1f} dB"
        )


def verify_seams(
    engine: Engine, image: Tensor, tile_size: int | None = None, overlap: int | None = None
) -> SeamReport | None:
    """Run the middle of ``image`` both ways, with the overlap that the image would be cut with.

    None: the image is too small to be cut into tiles.

    Args:
        engine: the network on its device.
        image: (1, 3, H, W) float32 in [0, 1], in main memory.
        tile_size: edge of a tile, LR pixels; ``None``, or one too large to cut the crop, takes the
            smallest that has as much of its own as it shares, and at least 160.
        overlap: LR pixels that neighbours share; ``None`` is what the network needs.

    Raises:
        NumericalError: the network's result is not a picture.
    """
    crop = _middle(image, CROP)
    height, width = crop.shape[-2:]
    if overlap is None:
        overlap = engine.default_overlap(tile_size)
    if tile_size is None or tile_size >= max(height, width):
        tile_size = min(max(TILE, 2 * overlap), (max(height, width) + overlap + 1) // 2)
    if not overlap < tile_size < max(height, width):
        return None
    rows = height * engine.scale
    whole = assemble(engine.bands(crop, max(height, width), 0), rows).clamp(0, 1)
    tiled = assemble(engine.bands(crop, tile_size, overlap), rows).clamp(0, 1)
    error = (tiled - whole).abs() * 255
    mean = float(error.double().square().mean())
    psnr = 10 * math.log10(255**2 / mean) if mean else math.inf
    return SeamReport((height, width), tile_size, overlap, float(error.max()), psnr)


def _middle(image: Tensor, edge: int) -> Tensor:
    for dim in (-2, -1):
        size = image.shape[dim]
        if size > edge:
            image = image.narrow(dim, (size - edge) // 2, edge)
    return image.contiguous(memory_format=torch.contiguous_format)
