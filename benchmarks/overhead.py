"""How much `sruplift upscale` adds to the work that cannot be avoided.

Times, in turn, the whole command on a 512x512 photo at x4, and a process that only imports torch
and runs the network once on the whole image at the same precision. Prints medians and the ratio.

    python benchmarks/overhead.py [--runs 5] [--precision auto]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

BARE = """
import sys, torch
from sruplift.models import create_model
precision = sys.argv[1]
network = create_model("pan", 4).eval().to(memory_format=torch.channels_last)
x = torch.rand(1, 3, 512, 512).contiguous(memory_format=torch.channels_last)
with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
    network(x)
"""
PHOTO = Path(__file__).parent.parent / "tests" / "images" / "bridge.png"


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "photo.png", Path(folder) / "large.png"
        tiled = np.tile(np.asarray(Image.open(PHOTO)), (2, 2, 1))
        Image.fromarray(tiled).save(source)
        ours = [sys.executable, "-m", "sruplift", "upscale", str(source), "-o", str(target)]
        ours += ["--overwrite", "--device", "cpu", "--precision", options.precision]
        bare = [sys.executable, "-c", BARE, options.precision]
        pairs = [(seconds(ours), seconds(bare)) for _ in range(options.runs + 1)][1:]
    ratios = [whole / least for whole, least in pairs]
    print(f"sruplift upscale      {statistics.median(p[0] for p in pairs):.2f} s")
    print(f"import torch + forward {statistics.median(p[1] for p in pairs):.2f} s")
    print(f"ratio                  {statistics.median(ratios):.2f}")
    print(f"ratio, min to max      {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
