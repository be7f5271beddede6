"""Reports of `sruplift eval` as data: what goes into its JSON and CSV files.

One network at one scale is one object; several are ``{"reports": [...]}``, each such an object.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import PIL
import torch

from sruplift import __version__
from sruplift.evaluate import DatasetResult, ImageResult, Report
from sruplift.scores import Scores


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
    return {
        "name": result.name,
        "count": len(result.images),
        "images": [_image_as_dict(image) for image in result.images],
        "mean": _scores_as_dict(result.mean),
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
        **tile,
        **_scores_as_dict(image.scores),
    }


def _scores_as_dict(scores: Scores) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(scores).items()}


def _protocol(report: Report) -> dict[str, Any]:
    """What was done, in words, for whoever reads the numbers later."""
    scale = report.options.scale
    return {
        "hr": f"cropped to a multiple of {scale} (bottom and right); grey as three equal channels",
        "lr": "MATLAB imresize bicubic, antialiased, of the 8-bit HR; 8-bit after each pass",
        "inference": inference(report),
        "rounding": "SR rounded to 8 bits and clamped",
        "crop_border": scale,
        "y": "BT.601 studio range, not rounded; *_y_rounded: rounded to whole levels",
        "psnr": "peak 255; null: the images are identical",
        "ssim": "11x11 Gaussian window, sigma 1.5, no padding, K1 0.01, K2 0.03, L 255",
        "mean": "arithmetic mean over the images",
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
