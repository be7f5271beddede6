"""What the command costs before any work: `--help`, and a picture of 64x64 pixels.

Times processes by turns: an empty Python, `sruplift --help`, `import torch`, `sruplift upscale` of
64x64 pixels. Prints medians, and what the upscale takes beyond `import torch` in the same round.
Bytecode is kept, as after `pip install`, also where the environment says otherwise.

    python benchmarks/startup.py [--model pan] [--rounds 9]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

PHOTO = Path(__file__).parent.parent / "tests" / "images" / "bridge.png"


def seconds(command: list[str], bytecode: Path) -> float:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(bytecode)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    subprocess.run(command, check=True, env=environment, **quiet)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pan")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "small.png"
        with Image.open(PHOTO) as photo:
            photo.crop((0, 0, 64, 64)).save(source)
        ours = [sys.executable, "-m", "sruplift"]
        upscale = [*ours, "upscale", str(source), "--overwrite", "--device", "cpu"]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "sruplift --help": [*ours, "--help"],
            "import torch": [sys.executable, "-c", "import torch"],
            "upscale 64x64": [*upscale, "--model", options.model],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(-1, options.rounds):
            for name, command in commands.items():
                taken = seconds(command, Path(folder) / "bytecode")
                if turn >= 0:
                    times[name].append(taken)
    for name, taken in times.items():
        print(f"{name:18} {statistics.median(taken):6.2f} s, {min(taken):.2f} to {max(taken):.2f}")
    beyond = [a - b for a, b in zip(times["upscale 64x64"], times["import torch"], strict=True)]
    print(f"upscale 64x64 beyond import torch: {statistics.median(beyond):.2f} s")


if __name__ == "__main__":
    main()
