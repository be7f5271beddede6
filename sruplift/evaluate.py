"""Measuring networks on benchmarks, by the protocol that the papers' numbers are made with.

HR is cropped to a multiple of the scale, LR is MATLAB's bicubic of its 8-bit pixels, the network
sees the whole image, and what it gives is rounded to 8 bits before PSNR and SSIM are taken, on Y
and on RGB, with ``scale`` pixels cut from every side. A set's number is the mean over its images.
"""

from __future__ import annotations

import functools
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor

from sruplift import __version__
from sruplift.chop import chop
from sruplift.datasets import Dataset, find_dataset, read_hr
from sruplift.engine import Engine, is_out_of_memory
from sruplift.errors import DatasetError, NumericalError, UsageError
from sruplift.metrics import min_size, psnr, ssim
from sruplift.published import Published, find_published
from sruplift.resize import bicubic, modcrop
from sruplift.weights import WeightsFile, find_weights, load_model

BICUBIC = "bicubic"
BICUBIC_SCALES = (2, 3, 4)

Upscale = Callable[[Tensor], Tensor]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EvalOptions:
    """What to measure, on what. ``datasets`` and ``data_root`` are as in ``find_dataset``.

    ``model`` is one of ``MODELS``, or ``bicubic`` for MATLAB's upscaling as a baseline, which has
    no weights. ``weights`` is as in ``find_weights``, ``device`` and ``precision`` are as in
    ``Engine``; papers measure in fp32. ``chop`` cuts images in quarters, as A2N's paper does.
    """

    datasets: tuple[str, ...]
    model: str = "pan"
    scale: int = 4
    weights: str | None = None
    data_root: Path | None = None
    device: str = "auto"
    precision: str = "fp32"
    self_ensemble: bool = False
    chop: bool = False

    def __post_init__(self) -> None:
        if not self.datasets:
            raise UsageError("name at least one data set to measure on")
        if self.model != BICUBIC:
            return
        if self.weights is not None:
            raise UsageError("bicubic has no weights")
        if self.chop:
            raise UsageError("bicubic is the same in quarters: no chop")
        if self.self_ensemble:
            raise UsageError("bicubic is the same for every flip and rotation: no self-ensemble")
        if self.scale not in BICUBIC_SCALES:
            valid = ", ".join(map(str, BICUBIC_SCALES))
            raise UsageError(f"bicubic has no scale {self.scale} (valid: {valid})")


@dataclass(frozen=True)
class Scores:
    """PSNR in dB (``inf`` for identical images) and SSIM, of one image or the mean of several.

    ``seconds`` is the network's time alone. ``*_y_rounded`` are measured on Y rounded to whole
    levels, as HPINet's paper does.
    """

    psnr_y: float
    ssim_y: float
    psnr_y_rounded: float
    ssim_y_rounded: float
    psnr_rgb: float
    ssim_rgb: float
    seconds: float


@dataclass(frozen=True)
class ImageResult:
    """One image's file name, HR (height, width) as measured, and scores."""

    name: str
    size: tuple[int, int]
    scores: Scores


@dataclass(frozen=True)
class DatasetResult:
    """One data set's images, and what the network's paper reports on it, if anything."""

    name: str
    images: tuple[ImageResult, ...]
    paper: Published | None = None

    @property
    def mean(self) -> Scores:
        """The mean over the images, each counting the same."""
        return mean_scores(image.scores for image in self.images)

    @property
    def as_in_paper(self) -> tuple[float, float]:
        """Mean PSNR and SSIM measured as the paper does: on Y, rounded if it rounds."""
        mean = self.mean
        if self.paper is not None and self.paper.round_y:
            return mean.psnr_y_rounded, mean.ssim_y_rounded
        return mean.psnr_y, mean.ssim_y


@dataclass(frozen=True)
class Report:
    """Everything that was measured, and with what. ``weights`` is None for bicubic.

    ``device`` and ``precision`` are those that the options led to.
    """

    options: EvalOptions
    weights: WeightsFile | None
    device: str
    precision: str
    datasets: tuple[DatasetResult, ...]


def evaluate(options: EvalOptions, progress: Progress | None = None) -> Report:
    """Measure one network on each of the data sets.

    Weights and data sets are looked for first, so that what is missing is known before anything
    is computed. ``progress`` is called with a data set's name, images done and images in all.

    Raises:
        SrupliftError: weights or data cannot be found, or an image cannot be measured. There is
            no result then: a mean over the remaining images would be another number.
    """
    weights: WeightsFile | None = None
    if options.model != BICUBIC:
        weights = find_weights(options.model, options.scale, options.weights)
    datasets = [find_dataset(name, options.data_root) for name in options.datasets]
    upscale: Upscale = functools.partial(bicubic_upscale, scale=options.scale)
    device, precision = "cpu", "uint8"
    if weights is not None:
        network = load_model(options.model, options.scale, weights)
        engine = Engine(
            network,
            options.scale,
            options.device,
            options.precision,
            self_ensemble=options.self_ensemble,
            local=False,
        )
        upscale = engine.run
        if options.chop:
            upscale = functools.partial(chop, engine.run, scale=options.scale)
        device, precision = str(engine.device), engine.precision
    results = tuple(
        DatasetResult(
            dataset.name,
            evaluate_dataset(dataset, upscale, options.scale, progress),
            _paper(options, dataset),
        )
        for dataset in datasets
    )
    return Report(options, weights, device, precision, results)


def evaluate_dataset(
    dataset: Dataset, upscale: Upscale, scale: int, progress: Progress | None = None
) -> tuple[ImageResult, ...]:
    """Measure ``upscale`` on every image, in order.

    ``upscale`` takes LR (1, 3, H, W), float32 RGB in [0, 1] on the CPU, and returns SR
    (1, 3, H * scale, W * scale) in [0, 1], not necessarily clamped, on any device.

    Raises:
        DatasetError: an image cannot be read, or is too small.
        NumericalError: SR is not finite.
    """
    results = []
    total = len(dataset.images)
    for done, path in enumerate(dataset.images):
        if progress:
            progress(dataset.name, done, total)
        results.append(evaluate_image(path, upscale, scale))
    if progress:
        progress(dataset.name, total, total)
    return tuple(results)


def evaluate_image(path: Path, upscale: Upscale, scale: int) -> ImageResult:
    """Measure ``upscale``, which is as in :func:`evaluate_dataset`, on one HR image file."""
    hr = modcrop(read_hr(path), scale)
    height, width = hr.shape[-2:]
    needed = min_size(scale)
    if min(height, width) < needed:
        raise DatasetError(
            f"{path} is too small to be measured at x{scale}: {height}x{width}, cropped to a"
            f" multiple of {scale}, and both sides must be at least {needed}"
        )
    lr = to_float(degrade(hr, scale))[None]
    start = time.perf_counter()
    sr = _run_whole(upscale, lr, path)
    seconds = time.perf_counter() - start
    return ImageResult(path.name, (height, width), score(sr, to_float(hr)[None], scale, seconds))


def _run_whole(upscale: Upscale, lr: Tensor, path: Path) -> Tensor:
    """SR on the CPU; what goes wrong names the image."""
    try:
        sr = upscale(lr).to("cpu", torch.float32)
    except NumericalError as error:
        raise NumericalError(f"{path} cannot be measured: {error}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DatasetError(
            f"{path} cannot be measured: the device is out of memory for a whole image"
        ) from error
    if not sr.isfinite().all():
        raise NumericalError(f"{path} cannot be measured: the result is NaN or infinite somewhere")
    return sr


def score(sr: Tensor, hr: Tensor, scale: int, seconds: float = 0.0) -> Scores:
    """All metrics of one image; ``sr`` and ``hr`` (1, 3, H, W), float in [0, 1], ``hr`` 8-bit."""
    pair = (sr, hr, scale)
    return Scores(
        psnr_y=psnr(*pair).item(),
        ssim_y=ssim(*pair).item(),
        psnr_y_rounded=psnr(*pair, round_y=True).item(),
        ssim_y_rounded=ssim(*pair, round_y=True).item(),
        psnr_rgb=psnr(*pair, y_channel=False).item(),
        ssim_rgb=ssim(*pair, y_channel=False).item(),
        seconds=seconds,
    )


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """The mean of each score. One identical image makes a PSNR's mean infinite.

    Raises:
        ValueError: there are no scores.
    """
    rows = list(scores)
    if not rows:
        raise ValueError("there is nothing to take the mean of")
    names = [field.name for field in fields(Scores)]
    # fmean, because statistics.mean of an infinity is an error.
    return Scores(**{name: statistics.fmean(getattr(row, name) for row in rows) for name in names})


def degrade(hr: Tensor, scale: int) -> Tensor:
    """LR of ``hr``, (3, H, W) ``uint8`` whose sides are multiples of ``scale``, as ``uint8``."""
    return bicubic(hr, Fraction(1, scale))


def to_float(image: Tensor) -> Tensor:
    """``uint8`` levels as float32 in [0, 1]."""
    return image.to(torch.float32) / 255


def report_as_dict(report: Report) -> dict[str, Any]:
    """The report for JSON. An infinite PSNR, which JSON cannot say, is ``None``."""
    options = report.options
    weights = report.weights
    return {
        "protocol": _protocol(options),
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
        "weights": weights
        and {"file": weights.path.name, "sha256": weights.sha256, "source": weights.source},
        "datasets": [_dataset_as_dict(dataset) for dataset in report.datasets],
    }


def _dataset_as_dict(result: DatasetResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "count": len(result.images),
        "images": [
            {"name": image.name, "size": list(image.size), **_scores_as_dict(image.scores)}
            for image in result.images
        ],
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


def _scores_as_dict(scores: Scores) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(scores).items()}


def _protocol(options: EvalOptions) -> dict[str, Any]:
    """What was done, in words, for whoever reads the numbers later."""
    scale = options.scale
    image = "overlapping quarters of the image" if options.chop else "whole image"
    ensemble = "mean over 8 flips and rotations" if options.self_ensemble else "no self-ensemble"
    return {
        "hr": f"cropped to a multiple of {scale} (bottom and right); grey as three equal channels",
        "lr": "MATLAB imresize bicubic, antialiased, of the 8-bit HR; 8-bit after each pass",
        "inference": f"{image}, batch 1, {ensemble}",
        "rounding": "SR rounded to 8 bits and clamped",
        "crop_border": scale,
        "y": "BT.601 studio range, not rounded; *_y_rounded: rounded to whole levels",
        "psnr": "peak 255; null: the images are identical",
        "ssim": "11x11 Gaussian window, sigma 1.5, no padding, K1 0.01, K2 0.03, L 255",
        "mean": "arithmetic mean over the images",
    }


def _paper(options: EvalOptions, dataset: Dataset) -> Published | None:
    if not dataset.benchmark:
        return None
    return find_published(options.model, options.scale, dataset.name)


def bicubic_upscale(lr: Tensor, scale: int) -> Tensor:
    """MATLAB's bicubic enlargement of 8-bit pixels; LR and SR (B, 3, H, W), float in [0, 1]."""
    levels = lr.mul(255).round().clamp(0, 255).to(torch.uint8)
    return to_float(bicubic(levels, scale))
