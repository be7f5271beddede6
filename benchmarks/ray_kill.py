"""`sruplift batch` while its processes are killed: is anything lost, done twice, or different?

Makes images of which some are broken, does them with `sruplift upscale`, then with `sruplift batch`
while a random worker is killed every few seconds and, once, the job itself; then runs the job again
until it ends by itself. Compares the outputs byte by byte and counts the lines of the report. Kills
only processes below those that it started.

    python benchmarks/ray_kill.py [--images 500] [--broken 10] [--every 6] [--job-after 60]
        [--self-ensemble]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

WORKER = b"ray::Map"


def make_images(folder: Path, count: int, broken: int) -> None:
    """Photos of 48x48; the broken ones are cut, empty or no images."""
    rng = np.random.default_rng(0)
    bad = set(rng.choice(count, broken, replace=False).tolist())
    for index in range(count):
        path = folder / f"{index % 7}" / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(path)
        if index in bad:
            data = path.read_bytes()
            path.write_bytes((data[: len(data) // 2], b"", b"no image")[index % 3])


def workers_of(job: int) -> list[int]:
    """The processes of Ray's actors among the descendants of ``job``."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            parents[int(entry.name)] = int(status[1])
    below = {job}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return [pid for pid in below if names.get(pid, b"").startswith(WORKER)]


def run_killed(command: list[str], every: float, job_after: float | None) -> tuple[int, int]:
    """The job's exit code and how many of its workers were killed."""
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    started, killed = time.monotonic(), 0
    draw = random.Random(1)
    while True:
        try:
            _, said = job.communicate(timeout=every * draw.uniform(0.5, 1.5))
            print("  it said:", *said.decode().splitlines()[-2:], sep="\n    ")
            return job.returncode, killed
        except subprocess.TimeoutExpired:
            pass
        if job_after is not None and time.monotonic() - started > job_after:
            job.kill()
        elif workers := workers_of(job.pid):
            os.kill(draw.choice(workers), signal.SIGKILL)
            killed += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--broken", type=int, default=10)
    parser.add_argument("--every", type=float, default=6, help="seconds between kills, on average")
    parser.add_argument("--job-after", type=float, default=60, help="kill the job after seconds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--self-ensemble", action="store_true", help="eight times the work")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "in", options.images, options.broken)
        sruplift = [sys.executable, "-m", "sruplift"]
        what = ["--scale", "2", "--device", "cpu"]
        what += ["--self-ensemble"] * options.self_ensemble
        plain = [
            *sruplift,
            "upscale",
            "-r",
            str(folder / "in"),
            "-o",
            f"{folder / 'plain'}/",
            *what,
        ]
        done = subprocess.run(plain, stderr=subprocess.DEVNULL, check=False)
        print(f"upscale: exit code {done.returncode}")
        pool = ["--workers", str(options.workers), "--cores-per-worker", "1"]
        batch = [*sruplift, "batch", str(folder / "in"), str(folder / "out"), *what, *pool]
        after = options.job_after
        for attempt in range(20):
            code, killed = run_killed(batch, options.every, None if attempt else after)
            there = sum(1 for _ in (folder / "out").rglob("*.png"))
            print(f"run {attempt + 1}: {killed} workers killed, exit code {code}, {there} outputs")
            if code >= 0:
                break
        compare(folder / "plain", folder / "out")


def compare(plain: Path, out: Path) -> None:
    wanted = {path.relative_to(plain): path.read_bytes() for path in plain.rglob("*.png")}
    made = {path.relative_to(out): path.read_bytes() for path in out.rglob("*.png")}
    same = sum(made.get(name) == data for name, data in wanted.items())
    text = "".join(path.read_text() for path in sorted(out.glob("_report/*.jsonl")))
    records = [json.loads(line) for line in text.splitlines()]
    others = [p for p in out.rglob("*") if p.is_file() and p.suffix not in (".png", ".jsonl")]
    print(f"{len(wanted)} outputs of upscale, {len(made)} of batch, {same} the same to the byte")
    print(f"lines of the report: {dict(Counter(record['status'] for record in records))}")
    print(f"inputs with a line: {len({record['input'] for record in records})}")
    print(f"other files: {len(others)}")


if __name__ == "__main__":
    main()
