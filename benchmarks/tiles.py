"""Tiled against whole: worst difference and PSNR for several tile sizes and overlaps.

Runs in float32, so that the difference is the tiling's alone.

    python benchmarks/tiles.py IMAGE [--model pan] [--scale 4] [--weights FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from sruplift.datasets import read_hr
from sruplift.upscaler import Upscaler


def enlarge(options: argparse.Namespace, image: Tensor, tile: int | str, overlap: int) -> Tensor:
    upscaler = Upscaler(
        options.model,
        scale=options.scale,
        weights=options.weights,
        precision="fp32",
        tile_size=tile,
        overlap=overlap,
    )
    return upscaler(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--model", default="pan")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--weights")
    parser.add_argument("--tiles", type=int, nargs="+", default=[64, 96, 128, 192])
    parser.add_argument("--overlaps", type=int, nargs="+", default=[8, 16, 24, 32, 48, 56])
    options = parser.parse_args()
    image = read_hr(options.image).float() / 255
    # A tile as large as the image is the image.
    whole = enlarge(options, image, max(image.shape), 0)
    print("| tile | overlap | worst, of 255 | PSNR dB | pixels that differ after rounding |")
    print("| --- | --- | --- | --- | --- |")
    for tile in options.tiles:
        for overlap in options.overlaps:
            if overlap >= tile:
                continue
            tiled = enlarge(options, image, tile, overlap)
            error = (tiled - whole).abs().double() * 255
            psnr = 10 * torch.log10(255**2 / error.square().mean().clamp_min(1e-20))
            rounded = [(x.clamp(0, 1) * 255).round() for x in (tiled, whole)]
            share = (rounded[0] != rounded[1]).double().mean()
            print(f"| {tile} | {overlap} | {error.max():.4f} | {psnr:.1f} | {share:.6%} |")


if __name__ == "__main__":
    main()
