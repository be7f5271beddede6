"""Reports of `sruplift eval` as data: its JSON and CSV files, and what its tables are made of.

In JSON, one network at one scale is an object; several are ``{"reports": [...]}`` of such objects.
"""

from __future__ import annotations

import csv
import io
import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import PIL
import torch

from sruplift import __version__
from sruplift.results import DatasetResult, ImageResult, Report
from sruplift.scores import Scores
from sruplift.statistics import CONFIDENCE, RESAMPLES, SEED, Interval, bootstrap_interval

_BOOTSTRAP = f"{CONFIDENCE * 100:.0f} % BCa bootstrap over the images, {RESAMPLES:,} resamples"
INTERVAL = f"{_BOOTSTRAP}, seed {SEED}; null: one image alone, or one whose value is not finite"
INTERVAL_SHORT = f"[low, high]: interval of the mean, {_BOOTSTRAP}"


@dataclass(frozen=True)
class Metric:
    """A column of every table: the score's name, its heading, and decimals to print."""

    name: str
    heading: str
    decimals: int
    higher_is_better: bool = True

    def text(self, value: float) -> str:
        """``value`` as tables print it."""
        return f"{value:.{self.decimals}f}"


METRICS = (
    Metric("psnr_y", "PSNR Y", 4),
    Metric("ssim_y", "SSIM Y", 5),
    Metric("psnr_rgb", "PSNR RGB", 4),
)
# Where there is room for another column.
LR_PSNR = Metric("lr_psnr", "LR PSNR", 2)


def perceptual_metrics(report: Report) -> tuple[Metric, ...]:
    """The columns of the metrics that were asked for, with an arrow to the better end."""
    return tuple(
        Metric(
            each.name,
            f"{each.name} {'↓' if each.lower_is_better else '↑'}",
            4,
            not each.lower_is_better,
        )
        for each in report.perceptual
    )


def reports_as_dict(reports: Sequence[Report]) -> dict[str, Any]:
    """One report as :func:`report_as_dict`, several in a list under "reports"."""
    if len(reports) == 1:
        return report_as_dict(reports[0])
    return {"reports": [report_as_dict(report) for report in reports]}


def report_as_dict(report: Report) -> dict[str, Any]:
    """The report for JSON. An infinite PSNR, which JSON cannot say, is ``None``."""
    options = report.options
    weights = report.weights
    return {
        "protocol": _protocol(report),
        "versions": {
            "sruplift": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            **({"pyiqa": report.pyiqa} if report.pyiqa else {}),
        },
        "model": options.model,
        "scale": options.scale,
        "device": report.device,
        "precision": report.precision,
        "inference": {
            "self_ensemble": options.self_ensemble,
            "chop": options.chop,
            "tile": options.tile_size,
            "overlap": report.overlap,
        },
        "weights": weights
        and {"file": weights.path.name, "sha256": weights.sha256, "source": weights.source},
        "datasets": [_dataset_as_dict(dataset) for dataset in report.datasets],
    }


def _dataset_as_dict(result: DatasetResult) -> dict[str, Any]:
    perceptual = {name: result.mean_of(name) for name in _perceptual_names(result)}
    return {
        "name": result.name,
        "count": len(result.images),
        "from_cache": sum(image.from_cache for image in result.images),
        "images": [_image_as_dict(image) for image in result.images],
        "mean": {**_scores_as_dict(result.mean), **_if_any("perceptual", perceptual)},
        "mean_interval": _intervals_as_dict(result),
        "paper": result.paper
        and {
            "psnr": result.paper.psnr,
            "ssim": result.paper.ssim,
            "source": result.paper.source,
            "paper": result.paper.paper,
            "note": result.paper.note,
            "y_rounded": result.paper.round_y,
        },
    }


def _image_as_dict(image: ImageResult) -> dict[str, Any]:
    tile = {} if image.tile is None else {"tile": list(image.tile)}
    return {
        "name": image.name,
        "size": list(image.size),
        "sha256": image.sha256,
        **tile,
        **_scores_as_dict(image.scores),
        **_if_any("perceptual", image.perceptual),
    }


def _if_any(name: str, values: Mapping[str, float]) -> dict[str, Any]:
    return {name: dict(values)} if values else {}


def _perceptual_names(result: DatasetResult) -> tuple[str, ...]:
    return tuple(result.images[0].perceptual)


def _scores_as_dict(scores: Scores) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(scores).items()}


def _intervals_as_dict(result: DatasetResult) -> dict[str, list[float] | None]:
    names = [field.name for field in fields(Scores) if field.name != "seconds"]
    names += _perceptual_names(result)
    found = {name: bootstrap_interval(result.values(name)) for name in names}
    return {name: [each.low, each.high] if each else None for name, each in found.items()}


def _protocol(report: Report) -> dict[str, Any]:
    """What was done, in words, for whoever reads the numbers later."""
    scale = report.options.scale
    perceptual = {"perceptual": "pyiqa, of RGB rounded to 8 bits, whole image, no border cut"}
    return {
        "hr": f"cropped to a multiple of {scale} (bottom and right); grey as three equal channels",
        "lr": "MATLAB imresize bicubic, antialiased, of the 8-bit HR; 8-bit after each pass",
        "inference": inference(report),
        "rounding": "SR rounded to 8 bits and clamped",
        "crop_border": scale,
        "y": "BT.601 studio range, not rounded; *_y_rounded: rounded to whole levels",
        "psnr": "peak 255; null: the images are identical",
        "ssim": "11x11 Gaussian window, sigma 1.5, no padding, K1 0.01, K2 0.03, L 255",
        "lr_psnr": "RGB PSNR of SR, made small as LR was, against LR; no border cut",
        "mean": "arithmetic mean over the images",
        "mean_interval": INTERVAL,
        **(perceptual if report.perceptual else {}),
    }


def inference(report: Report) -> str:
    """How the network was run, in words."""
    options = report.options
    ensemble = "mean over 8 flips and rotations" if options.self_ensemble else "no self-ensemble"
    return f"{_parts(report)}, batch 1, {ensemble}"


def _parts(report: Report) -> str:
    options = report.options
    if options.chop:
        return "overlapping quarters of the image"
    if options.tile_size is None:
        return "whole image"
    if options.tile_size == "auto":
        return f"tiles as the free memory allows, overlap {report.overlap}"
    return f"tiles of {options.tile_size} LR pixels, overlap {report.overlap}"


def sources(report: Report) -> list[str]:
    """Where the paper's numbers are from, and how they were made if not as ours."""
    lines: dict[str, None] = {}
    for result in report.datasets:
        paper = result.paper
        if paper is not None:
            lines[f"paper: {paper.source} ({paper.paper})"] = None
            if paper.note:
                lines[f"paper's test: {paper.note}"] = None
            if paper.round_y:
                lines["difference: ours with Y rounded likewise"] = None
    return list(lines)


def as_json(reports: Sequence[Report]) -> str:
    """The text of a JSON file."""
    # allow_nan: an infinity here would be a report that no other program can read.
    data = reports_as_dict(reports)
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(reports: Sequence[Report], *, ci: bool = False) -> str:
    """The text of a CSV file: a line for each image, then its set's mean and the paper's numbers.

    ``row`` tells them apart: image, mean, ci_low and ci_high (if asked for), paper. An infinite
    PSNR is "inf"; what was not measured or printed is empty.
    """
    perceptual = dict.fromkeys(each.name for report in reports for each in report.perceptual)
    names = [*(field.name for field in fields(Scores)), *perceptual]
    target = io.StringIO()
    keys = ["model", "scale", "weights_sha256", "inference", "dataset", "row", "image"]
    writer = csv.DictWriter(target, [*keys, "height", "width", *names], lineterminator="\n")
    writer.writeheader()
    for report in reports:
        shared = {
            "model": report.options.model,
            "scale": report.options.scale,
            "weights_sha256": report.weights.sha256 if report.weights else "",
            "inference": inference(report),
        }
        for result in report.datasets:
            for row in _csv_rows(result, ci):
                writer.writerow({**shared, "dataset": result.name, **row})
    return target.getvalue()


def _csv_rows(result: DatasetResult, ci: bool) -> Iterator[dict[str, Any]]:
    for image in result.images:
        height, width = image.size
        size = {"height": height, "width": width}
        values = {**asdict(image.scores), **image.perceptual}
        yield {"row": "image", "image": image.name, **size, **values}
    perceptual = {name: result.mean_of(name) for name in _perceptual_names(result)}
    yield {"row": "mean", **asdict(result.mean), **perceptual}
    if ci:
        found = _intervals_as_dict(result)
        for index, row in enumerate(("ci_low", "ci_high")):
            yield {"row": row, **{name: each[index] for name, each in found.items() if each}}
    if result.paper is not None:
        # A paper that rounds Y has no number in the columns of plain Y.
        suffix = "_rounded" if result.paper.round_y else ""
        paper = {"psnr_y": result.paper.psnr, "ssim_y": result.paper.ssim}
        yield {"row": "paper", **{name + suffix: value for name, value in paper.items()}}


def interval_of(result: DatasetResult, metric: Metric) -> Interval | None:
    """The interval of a metric's mean."""
    return bootstrap_interval(result.values(metric.name))


def mean_text(result: DatasetResult, metric: Metric, *, ci: bool = False, before: str = " ") -> str:
    """A metric's mean; with ``ci`` its interval, coarser by two decimals, after ``before``."""
    text = metric.text(result.mean_of(metric.name))
    if not ci:
        return text
    return text + before + interval_text(interval_of(result, metric), metric.decimals - 2)


def interval_text(interval: Interval | None, decimals: int) -> str:
    """``[28.91, 34.02]``; nothing where there is no interval."""
    if interval is None:
        return ""
    return f"[{interval.low:.{decimals}f}, {interval.high:.{decimals}f}]"


def label(report: Report) -> str:
    """The network's name in tables, with the papers' "+" for a self-ensemble."""
    return report.options.model + ("+" if report.options.self_ensemble else "")


def paper_text(result: DatasetResult) -> tuple[str, str]:
    """The paper's "PSNR / SSIM", and how far ours is from its PSNR; "-" where it has none."""
    paper = result.paper
    if paper is None or paper.psnr is None:
        return "-", "-"
    theirs = f"{paper.psnr:.2f} / {'-' if paper.ssim is None else f'{paper.ssim:.4f}'}"
    return theirs, f"{result.as_in_paper[0] - paper.psnr:+.2f} dB"
