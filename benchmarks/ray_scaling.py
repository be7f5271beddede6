"""How `sruplift batch` grows from one worker to two: seconds, and efficiency.

Runs the command with one and with two workers of one core each on the same photos, in turn, so that
what else the machine does touches both. Two figures: of the whole command, and without the start of
Ray and of the workers (Python, torch, the network), which is taken from runs on one image. Large
jobs tend to the second.

    python benchmarks/ray_scaling.py tests/images/bridge.png [--photos 24] [--side 256] [--runs 3]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image


def make_photos(source: Path, folder: Path, count: int, side: int) -> None:
    folder.mkdir()
    with Image.open(source) as picture:
        square = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    for index in range(count):
        square.rotate(index).save(folder / f"{index:03}.png")


def seconds(photos: Path, workers: int) -> float:
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "sruplift", "batch", str(photos), out, "--scale", "2"]
        pool = ["--device", "cpu", "--workers", str(workers), "--cores-per-worker", "1"]
        began = time.perf_counter()
        subprocess.run([*command, *pool], check=True, stderr=subprocess.DEVNULL)
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    times: dict[str, list[float]] = {"start": [], "one": [], "two": []}
    with tempfile.TemporaryDirectory() as name:
        one, many = Path(name) / "one", Path(name) / "many"
        make_photos(options.source, one, 1, 16)
        make_photos(options.source, many, options.photos, options.side)
        for _ in range(options.runs):
            times["one"].append(seconds(many, 1))
            times["two"].append(seconds(many, 2))
            times["start"].append(seconds(one, 1))
            print("  ".join(f"{key} {each[-1]:.1f} s" for key, each in times.items()), flush=True)
    whole = statistics.median(a / (2 * b) for a, b in zip(times["one"], times["two"], strict=True))
    start = statistics.median(times["start"])
    work = statistics.median(
        (a - start) / (2 * (b - start)) for a, b in zip(times["one"], times["two"], strict=True)
    )
    print(f"efficiency of two workers: {whole:.2f} of the whole command, {work:.2f} of the work")


if __name__ == "__main__":
    main()
