"""A folder of photos against the network alone: what reading and writing add.

Photos are 640x480 JPEGs cut from one picture. Groups of them go through ``upscale_files`` and,
right after, through the network alone with the pixels in memory; the ratio of both times is taken
in each group, so that what else the machine does touches both.

    python benchmarks/throughput.py tests/images/bridge.png [--photos 200] [--group 20] [--scale 4]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow

from sruplift.files import Failure, Job
from sruplift.reading import read_image
from sruplift.tiling import assemble
from sruplift.upscale import upscale_files
from sruplift.upscaler import Upscaler


def make_photos(source: Path, folder: Path, count: int, suffix: str) -> list[Path]:
    """Crops of an enlarged ``source``, each with noise, so that none compresses to nothing."""
    rng = np.random.default_rng(0)
    with Pillow.open(source) as picture:
        large = picture.convert("RGB").resize((1600, 1200), Pillow.Resampling.BICUBIC)
    paths = []
    for index in range(count):
        left, top = (int(rng.integers(0, limit)) for limit in (960, 720))
        crop = np.asarray(large.crop((left, top, left + 640, top + 480))).astype(float)
        noisy = (crop + rng.normal(0, 4, crop.shape)).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{index:04}{suffix}")
        Pillow.fromarray(noisy).save(paths[-1], quality=92)
    return paths


def network_alone(upscaler: Upscaler, paths: list[Path]) -> float:
    arrays = [torch.from_numpy(np.array(read_image(path).array)) for path in paths]
    seconds = 0.0
    for array in arrays:
        image = array.movedim(2, 0)[None].float() / 255
        started = time.perf_counter()
        assemble(upscaler.engine.bands(image), image.shape[-2] * upscaler.engine.scale)
        seconds += time.perf_counter() - started
    return seconds


def files(upscaler: Upscaler, paths: list[Path], out: Path) -> float:
    started = time.perf_counter()
    for result in upscale_files([Job(path, out / path.name) for path in paths], upscaler):
        assert not isinstance(result, Failure), result
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--group", type=int, default=20)
    parser.add_argument("--model", default="pan")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--suffix", default=".jpg")
    options = parser.parse_args()
    upscaler = Upscaler(options.model, scale=options.scale, overwrite=True)
    ratios, both = [], [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        paths = make_photos(options.image, Path(folder), options.photos, options.suffix)
        out = Path(folder) / "out"
        out.mkdir()
        network_alone(upscaler, paths[:2])
        for first in range(0, len(paths), options.group):
            group = paths[first : first + options.group]
            pair = files(upscaler, group, out), network_alone(upscaler, group)
            ratios.append(pair[0] / pair[1])
            both = [total + part for total, part in zip(both, pair, strict=True)]
            print(f"{pair[0]:.1f} s, network alone {pair[1]:.1f} s, ratio {ratios[-1]:.3f}")
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    print(
        f"{options.model} x{options.scale}, {options.photos} photos of 640x480{options.suffix}: "
        f"{both[0]:.1f} s against {both[1]:.1f} s; ratio {middle:.3f} ({low:.3f} to {high:.3f})"
    )


if __name__ == "__main__":
    main()
