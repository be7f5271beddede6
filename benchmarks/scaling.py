"""Time and memory of `sruplift upscale` from small to large pictures, and what it adds.

For every size, by turns: the whole command in a process of its own (time and peak memory as the
system counts them), and the network alone on the same tiles in this process. Printed are medians
per megapixel of the input, relative to the first size of at least one megapixel, and the ratio of
the command's time to the network's. Pictures are a photo repeated; in and out as the suffix says.

    python benchmarks/scaling.py tests/images/bridge.png [--megapixels 0.25 1 4 12 25] [--scale 2]
        [--model pan] [--rounds 3] [--suffix .jpg] [--device cpu]
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image as Pillow

from sruplift.heap import keep_freed_memory
from sruplift.reading import read_image
from sruplift.tiling import Rows
from sruplift.upscaler import Upscaler


def make_picture(photo: Path, megapixels: float, path: Path) -> tuple[int, int]:
    """A picture of 4:3 with the photo repeated; its (height, width)."""
    height = round(math.sqrt(megapixels * 1e6 * 3 / 4))
    width = round(megapixels * 1e6 / height)
    with Pillow.open(photo) as opened:
        tile = opened.convert("RGB")
    picture = Pillow.new("RGB", (width, height))
    for top in range(0, height, tile.height):
        for left in range(0, width, tile.width):
            picture.paste(tile, (left, top))
    picture.save(path, quality=90)
    return height, width


def run_command(arguments: list[str]) -> tuple[float, int]:
    """Seconds and peak bytes of a process."""
    began = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(arguments)} ended with {process.returncode}")
    return seconds, usage.ru_maxrss * 1024


def network_seconds(upscaler: Upscaler, path: Path) -> float:
    """The network on the picture's tiles, results thrown away."""
    pixels = torch.from_numpy(read_image(path).array).movedim(2, 0)[None].float() / 255
    engine = upscaler.engine
    plan = engine.plan(Rows.of(pixels))
    began = time.perf_counter()
    with torch.inference_mode():
        for row in plan.rows:
            for column in plan.columns:
                tile = pixels[..., row.start : row.stop, column.start : column.stop]
                engine.compute(tile.contiguous(memory_format=torch.channels_last))
    return time.perf_counter() - began


def main() -> None:
    keep_freed_memory()  # as the command does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0.25, 1, 4, 12, 25])
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--model", default="pan")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--suffix", default=".jpg")
    options = parser.parse_args()
    upscaler = Upscaler(options.model, scale=options.scale, device="cpu")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sources = {m: folder / f"{m}{options.suffix}" for m in options.megapixels}
        sizes = {m: make_picture(options.photo, m, path) for m, path in sources.items()}
        whole: dict[float, list[float]] = {m: [] for m in sources}
        alone: dict[float, list[float]] = {m: [] for m in sources}
        memory: dict[float, int] = {}
        for _ in range(options.rounds):
            for m, path in sources.items():
                command = [sys.executable, "-m", "sruplift", "upscale", str(path), "--overwrite"]
                command += ["-m", options.model, "-s", str(options.scale), "--device", "cpu"]
                command += ["-o", str(folder / f"out{options.suffix}")]
                seconds, peak = run_command(command)
                whole[m].append(seconds)
                memory[m] = max(memory.get(m, 0), peak)
                alone[m].append(network_seconds(upscaler, path))
    print(f"{options.model} x{options.scale}, {options.suffix} in and out, {options.rounds} rounds")
    print("  input              command  network  command/network  network s/MP  relative  peak")
    base = next((m for m in options.megapixels if m >= 1), options.megapixels[0])
    unit = statistics.median(alone[base]) / base
    for m, (height, width) in sizes.items():
        ratio = statistics.median(a / b for a, b in zip(whole[m], alone[m], strict=True))
        rate = statistics.median(alone[m]) / m
        print(
            f"  {m:5.2f} MP {width:5}x{height:<5}{statistics.median(whole[m]):7.1f} s"
            f"{statistics.median(alone[m]):8.1f} s{ratio:13.3f}{rate:15.3f}{rate / unit:11.3f}"
            f"{memory[m] / 1e6:7.0f} MB"
        )


if __name__ == "__main__":
    main()
