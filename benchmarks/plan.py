"""What a job of many images takes: time, storage, money, files, and what failures cost.

    python benchmarks/plan.py sizes PICTURES [--count 6] [--scale 2 4]
    python benchmarks/plan.py job --images 10_000_000 --megapixels 1 --scale 4 --workers 500

``sizes`` enlarges a few pictures and measures bytes and processor seconds a megapixel in each
format; it writes ``benchmarks/results/sizes.json``. ``job`` does the arithmetic with that file and
with seconds a megapixel that ``benchmarks/throughput.py`` measured. Units: MP are 10^6 pixels, MB,
GB and TB powers of 10.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SIZES = Path(__file__).parent / "results" / "sizes.json"
FORMATS = ("png", "jpg", "webp")
# Of a megapixel of the input, PAN on two cores with AVX-512 bf16, JPEG in and out: the column
# "files" of benchmarks/results/throughput.md, 100 photos of 640x480.
CORES = 2
SECONDS = {2: 64.4 / (100 * 0.3072), 4: 91.2 / (100 * 0.3072)}
MEASURED_FORMAT = "jpg"
# Images that a killed process loses: one in the network, one that is being written, two that wait
# to be (`upscale_files`).
UNFINISHED = 4


@dataclass(frozen=True)
class Cost:
    """Of a megapixel in a format: bytes, and processor seconds of encoding it on one core."""

    size: float
    seconds: float


@dataclass(frozen=True)
class Job:
    """What is to be done, where. ``price`` is of a core for an hour, in any currency."""

    images: int
    megapixels: float
    scale: int
    seconds_per_megapixel: float
    workers: int
    cores: int = CORES
    price: float | None = None
    per_list: int = 1000
    per_folder: int = 1000
    startup: float = 5.0
    """Seconds until a process is at work."""
    read_rate: float = 200.0
    """MB/s at which a worker reads files that are done already, after a restart."""
    hours_between_failures: float | None = None
    """Of one worker, on average."""
    report_line: float = 1000.0
    """Bytes of a line of the report."""

    @property
    def megapixels_out(self) -> float:
        """Of one image."""
        return self.megapixels * self.scale**2


@dataclass(frozen=True)
class Plan:
    """What comes of it, for one output format."""

    image_seconds: float
    worker_hours: float
    hours: float
    core_hours: float
    bytes_in: float
    bytes_out: float
    read_rate: float
    write_rate: float
    lists: int
    folders: int
    report_bytes: float
    restart_seconds: float
    failures: float | None
    lost_share: float | None
    price: float | None


def plan(job: Job, given: Cost, wanted: Cost, measured: Cost) -> Plan:
    """The arithmetic. ``given`` is of the input's format, ``wanted`` of the output's.

    ``measured`` is of the output's format in which ``job.seconds_per_megapixel`` was measured.
    """
    encoding = job.megapixels_out * wanted.seconds
    more = job.megapixels_out * (wanted.seconds - measured.seconds) / job.cores
    # Files are written by one thread of a worker, beside the network.
    image_seconds = max(job.megapixels * job.seconds_per_megapixel + more, encoding)
    lists = math.ceil(job.images / job.per_list)
    work = (job.images * image_seconds + lists * job.startup) / 3600
    bytes_in = job.images * job.megapixels * given.size
    bytes_out = job.images * job.megapixels_out * wanted.size
    # On average half of a list is done, and is read again to see that it is.
    again = job.per_list / 2 * (bytes_in + bytes_out) / job.images / (job.read_rate * 1e6)
    restart = job.startup + again + UNFINISHED * image_seconds
    failures = lost = None
    if job.hours_between_failures:
        # Lost time is time in which workers fail, too: a geometric series.
        lost = restart / 3600 / job.hours_between_failures
        if lost >= 1:
            raise SystemExit("a restart takes longer than a worker lives: make lists shorter")
        work /= 1 - lost
        failures = work / job.hours_between_failures
    hours = work / job.workers
    return Plan(
        image_seconds=image_seconds,
        worker_hours=work,
        hours=hours,
        core_hours=work * job.cores,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        read_rate=bytes_in / hours / 3600,
        write_rate=bytes_out / hours / 3600,
        lists=lists,
        folders=math.ceil(job.images / job.per_folder),
        report_bytes=job.images * job.report_line,
        restart_seconds=restart,
        failures=failures,
        lost_share=lost,
        price=None if job.price is None else work * job.cores * job.price,
    )


def rows(job: Job, plans: dict[str, Plan]) -> list[tuple[str, ...]]:
    """A table: what, and its value for each format."""
    lines = [
        ("seconds an image, in a worker", [f"{p.image_seconds:.2f}" for p in plans.values()]),
        ("worker hours", [f"{p.worker_hours:,.0f}" for p in plans.values()]),
        ("core hours", [f"{p.core_hours:,.0f}" for p in plans.values()]),
        (f"days on {job.workers:,} workers", [f"{p.hours / 24:.2f}" for p in plans.values()]),
        ("read, TB", [f"{p.bytes_in / 1e12:.2f}" for p in plans.values()]),
        ("written, TB", [f"{p.bytes_out / 1e12:.1f}" for p in plans.values()]),
        ("read, MB/s of all workers", [f"{p.read_rate / 1e6:,.0f}" for p in plans.values()]),
        ("written, MB/s of all workers", [f"{p.write_rate / 1e6:,.0f}" for p in plans.values()]),
        (f"lists of {job.per_list:,}", [f"{p.lists:,}" for p in plans.values()]),
        (f"folders of {job.per_folder:,}", [f"{p.folders:,}" for p in plans.values()]),
        ("reports, GB", [f"{p.report_bytes / 1e9:.1f}" for p in plans.values()]),
        ("seconds that a restart costs", [f"{p.restart_seconds:.0f}" for p in plans.values()]),
    ]
    if job.hours_between_failures:
        lines += [
            ("failures", [f"{p.failures or 0:,.0f}" for p in plans.values()]),
            ("lost to them", [f"{100 * (p.lost_share or 0):.2f} %" for p in plans.values()]),
        ]
    if job.price is not None:
        lines.append(("price of the cores", [f"{p.price or 0:,.0f}" for p in plans.values()]))
    return [(name, *values) for name, values in lines]


def table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """In Markdown."""
    cells = [head, ("---",) + ("--:",) * (len(head) - 1), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def read_costs(path: Path = SIZES) -> dict[str, dict[str, Cost]]:
    """By kind (``in``, ``x2``, ``x4``) and format."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return {
        kind: {name: Cost(values["bytes"], values["seconds"]) for name, values in formats.items()}
        for kind, formats in data["megapixel"].items()
    }


def job_command(options: argparse.Namespace) -> None:
    data = json.loads(options.sizes.read_text(encoding="utf-8"))
    costs, kind = read_costs(options.sizes), f"x{options.scale}"
    seconds = options.seconds_per_megapixel or SECONDS.get(options.scale)
    if seconds is None or kind not in costs:
        raise SystemExit(f"nothing was measured at {kind}: run `sizes`, give seconds a megapixel")
    names = ("megapixels", "scale", "workers", "cores", "price", "per_list", "per_folder")
    more = {name: getattr(options, name) for name in (*names, "read_rate", "startup", "images")}
    job = Job(
        seconds_per_megapixel=seconds,
        hours_between_failures=options.hours_between_failures,
        report_line=data["report_line"],
        **more,
    )
    out = costs[kind]
    measured = out[options.measured_format]
    plans = {
        name: plan(job, costs["in"][options.input_format], out[name], measured)
        for name in options.format or FORMATS
    }
    print(
        f"{job.images:,} images of {job.megapixels:g} MP ({options.input_format}), {kind};"
        f" {seconds:.2f} s a megapixel in a worker of {job.cores} cores\n"
    )
    print(table(("", *plans), rows(job, plans)))


def sizes_command(options: argparse.Namespace) -> None:
    """Measure, print a table, write ``sizes.json``."""
    from sruplift.datasets import is_image_name
    from sruplift.reading import read_image
    from sruplift.upscaler import Upscaler

    files = sorted(f for f in options.pictures.iterdir() if is_image_name(f.name))
    chosen = files[:: max(1, len(files) // options.count)][: options.count]
    pictures = [read_image(file) for file in chosen]
    kinds = {"in": pictures}
    for scale in options.scale:
        upscaler = Upscaler(options.model, scale=scale)
        kinds[f"x{scale}"] = [upscaler.enlarge(picture)[0] for picture in pictures]
    data: dict[str, object] = {
        "pictures": [file.name for file in chosen],
        "model": options.model,
        "megapixel": {kind: {name: measure(images, name) for name in FORMATS}
                      for kind, images in kinds.items()},
        "report_line": report_line(chosen[0], options.model),
    }  # fmt: skip
    options.sizes.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(sizes_table(data))


def measure(images: list, name: str) -> dict[str, float]:
    """Bytes a megapixel (of all, least, most), and processor seconds of encoding and writing."""
    from sruplift.image import write_image

    sizes, areas, seconds = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(images):
            path = Path(folder) / f"{number}.{name}"
            began = time.process_time()
            write_image(path, image)
            seconds += time.process_time() - began
            sizes.append(path.stat().st_size)
            areas.append(image.array.shape[0] * image.array.shape[1] / 1e6)
    each = [size / area for size, area in zip(sizes, areas, strict=True)]
    values = {"bytes": sum(sizes) / sum(areas), "least": min(each), "most": max(each)}
    return {**{key: round(value) for key, value in values.items()},
            "seconds": round(seconds / sum(areas), 4)}  # fmt: skip


def report_line(picture: Path, model: str) -> int:
    """Bytes of the lines that ``upscale --report`` writes for one image."""
    from sruplift.cli.main import make_app

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        arguments = ["upscale", str(picture), "-o", f"{folder}/out.png", "-m", model]
        make_app()([*arguments, "--scale", "2", "--report", str(report)], standalone_mode=False)
        return report.stat().st_size


def sizes_table(data: dict) -> str:
    """``sizes.json`` as the page shows it."""
    lines = []
    for kind, formats in data["megapixel"].items():
        what = "the pictures themselves" if kind == "in" else f"enlarged {kind}"
        for name, v in formats.items():
            span = f"{v['least'] / 1e6:.2f} to {v['most'] / 1e6:.2f}"
            lines.append((what, name, f"{v['bytes'] / 1e6:.3f}", span, f"{v['seconds']:.3f}"))
    head = ("", "format", "MB a MP", "least and most", "processor s a MP")
    return table(head, lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    sizes = commands.add_parser("sizes")
    sizes.set_defaults(run=sizes_command)
    sizes.add_argument("pictures", type=Path)
    sizes.add_argument("--count", type=int, default=6)
    sizes.add_argument("--model", default="pan")
    sizes.add_argument("--scale", type=int, nargs="+", default=[2, 4])
    job = commands.add_parser("job")
    job.set_defaults(run=job_command)
    job.add_argument("--images", type=int, required=True)
    job.add_argument("--megapixels", type=float, default=1.0, help="of an input")
    job.add_argument("--scale", type=int, default=4)
    job.add_argument("--seconds-per-megapixel", type=float, help="of the input, in a worker")
    job.add_argument("--measured-format", choices=FORMATS, default=MEASURED_FORMAT)
    job.add_argument("--workers", type=int, required=True)
    job.add_argument("--cores", type=int, default=CORES, help="of a worker")
    job.add_argument("--price", type=float, help="of a core for an hour")
    job.add_argument("--format", choices=FORMATS, action="append", help="of outputs; repeatable")
    job.add_argument("--input-format", choices=FORMATS, default="jpg")
    job.add_argument("--per-list", type=int, default=Job.per_list)
    job.add_argument("--per-folder", type=int, default=Job.per_folder)
    job.add_argument("--startup", type=float, default=Job.startup, help="s")
    job.add_argument("--read-rate", type=float, default=Job.read_rate, help="MB/s of a worker")
    job.add_argument("--hours-between-failures", type=float, help="of one worker")
    for command in (sizes, job):
        command.add_argument("--sizes", type=Path, default=SIZES, help="the file of measured sizes")
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main()
