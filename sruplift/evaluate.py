"""Measuring networks on benchmarks, by the protocol that the papers' numbers are made with.

HR is cropped to a multiple of the scale, LR is MATLAB's bicubic of its 8-bit pixels, the network
sees the whole image, and what it gives is rounded to 8 bits before PSNR and SSIM are taken, on Y
and on RGB, with ``scale`` pixels cut from every side. A set's number is the mean over its images.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sruplift.chop import chop
from sruplift.datasets import Dataset, find_dataset, read_hr
from sruplift.engine import Engine, is_out_of_memory
from sruplift.errors import DatasetError, NumericalError, UsageError, WeightsError
from sruplift.manifest import sha256_of
from sruplift.metrics import min_size
from sruplift.perceptual import Perceptual, PerceptualMetric
from sruplift.published import Published, find_published
from sruplift.resize import bicubic, modcrop
from sruplift.scores import Scores, degrade, mean_scores, score, to_float, to_levels
from sruplift.tiling import assemble
from sruplift.weights import WeightsFile, find_weights, load_model

BICUBIC = "bicubic"
BICUBIC_SCALES = (2, 3, 4)
# LR pixels that a tile must not share, as for `sruplift upscale`.
LEAST_OF_ITS_OWN = 8

Upscale = Callable[[Tensor], Tensor]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EvalOptions:
    """What to measure, on what. ``datasets`` and ``data_root`` are as in ``find_dataset``.

    ``model`` is one of ``MODELS``, or ``bicubic`` for MATLAB's upscaling as a baseline, which has
    no weights. ``weights`` is as in ``find_weights``, ``device`` and ``precision`` are as in
    ``Engine``; papers measure in fp32. ``chop`` cuts images in quarters, as A2N's paper does.
    ``tile_size`` is None for the whole image, as papers measure; with a tile the network runs as
    ``sruplift upscale`` runs it. ``tile_size`` and ``overlap`` are in LR pixels. ``metrics`` are
    names of pyiqa's, measured beside PSNR and SSIM.
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
    tile_size: int | Literal["auto"] | None = None
    overlap: int | Literal["auto"] = "auto"
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.datasets:
            raise UsageError("name at least one data set to measure on")
        self._check_tiles()
        if self.model == BICUBIC:
            self._check_bicubic()

    def _check_tiles(self) -> None:
        if self.tile_size is None:
            if self.overlap != "auto":
                raise UsageError("an overlap is one of tiles: name their edge, or 'auto'")
            return
        if self.chop:
            raise UsageError("either in tiles or in quarters (chop), not both")
        shared = 0 if self.overlap == "auto" else self.overlap
        if shared < 0:
            raise UsageError(f"overlap must be at least 0, not {shared}")
        if self.tile_size != "auto" and self.tile_size - shared < LEAST_OF_ITS_OWN:
            raise UsageError(
                f"a tile of {self.tile_size} is too small for an overlap of {shared}: it needs"
                f" {LEAST_OF_ITS_OWN} pixels of its own"
            )

    def _check_bicubic(self) -> None:
        if self.weights is not None:
            raise UsageError("bicubic has no weights")
        if self.chop:
            raise UsageError("bicubic is the same in quarters: no chop")
        if self.tile_size is not None:
            raise UsageError("bicubic is the same in tiles: no tile")
        if self.self_ensemble:
            raise UsageError("bicubic is the same for every flip and rotation: no self-ensemble")
        if self.scale not in BICUBIC_SCALES:
            valid = ", ".join(map(str, BICUBIC_SCALES))
            raise UsageError(f"bicubic has no scale {self.scale} (valid: {valid})")


@dataclass(frozen=True)
class ImageResult:
    """One image's file name, HR (height, width) as measured, and scores.

    ``sha256`` is the file's. ``tile`` is the (height, width) of its tiles in LR pixels, None for
    the whole image. ``perceptual`` are the values of ``EvalOptions.metrics``.
    """

    name: str
    size: tuple[int, int]
    scores: Scores
    sha256: str = ""
    tile: tuple[int, int] | None = None
    perceptual: Mapping[str, float] = field(default_factory=dict)

    def value(self, metric: str) -> float:
        """One score by its name in ``Scores``, or a perceptual metric's value."""
        if metric in self.perceptual:
            return self.perceptual[metric]
        return float(getattr(self.scores, metric))


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

    def values(self, metric: str) -> tuple[float, ...]:
        """One metric of every image, named as in ``ImageResult.value``."""
        return tuple(image.value(metric) for image in self.images)

    def mean_of(self, metric: str) -> float:
        """Its mean over the images."""
        return statistics.fmean(self.values(metric))

    @property
    def as_in_paper(self) -> tuple[float, float]:
        """Mean PSNR and SSIM measured as the paper does: on Y, rounded if it rounds."""
        mean = self.mean
        if self.paper is not None and self.paper.round_y:
            return mean.psnr_y_rounded, mean.ssim_y_rounded
        return mean.psnr_y, mean.ssim_y


@dataclass(frozen=True)
class Method:
    """What makes SR of LR, with what the options led to.

    ``upscale`` is as in :func:`evaluate_dataset`. ``overlap`` is in LR pixels, and ``tile_shape``
    gives the (height, width) of the tiles of an LR image; both are None for the whole image.
    """

    upscale: Upscale
    device: str
    precision: str
    overlap: int | None = None
    tile_shape: Callable[[int, int], tuple[int, int]] | None = None


@dataclass(frozen=True)
class Plan:
    """What is needed to measure, found: the weights' file (None for bicubic) and the images."""

    options: EvalOptions
    weights: WeightsFile | None
    datasets: tuple[Dataset, ...]


@dataclass(frozen=True)
class Report:
    """Everything that was measured, and with what. ``weights`` is None for bicubic.

    ``device``, ``precision`` and ``overlap`` (of tiles, LR pixels) are what the options led to.
    ``perceptual`` are the metrics of ``EvalOptions.metrics``, ``pyiqa`` the version that measured
    them.
    """

    options: EvalOptions
    weights: WeightsFile | None
    device: str
    precision: str
    datasets: tuple[DatasetResult, ...]
    overlap: int | None = None
    perceptual: tuple[PerceptualMetric, ...] = ()
    pyiqa: str | None = None


def evaluate(options: EvalOptions, progress: Progress | None = None) -> Report:
    """Measure one network on each of the data sets.

    ``progress`` is called with a data set's name, images done and images in all.

    Raises:
        SrupliftError: weights or data cannot be found, or an image cannot be measured. There is
            no result then: a mean over the remaining images would be another number.
    """
    return measure(prepare(options), progress)


def prepare(options: EvalOptions) -> Plan:
    """Look for weights and data sets, so that what is missing is known before any computing.

    Raises:
        SrupliftError: something cannot be found or downloaded.
    """
    weights: WeightsFile | None = None
    if options.model != BICUBIC:
        weights = find_weights(options.model, options.scale, options.weights)
    datasets = tuple(find_dataset(name, options.data_root) for name in options.datasets)
    return Plan(options, weights, datasets)


def measure(plan: Plan, progress: Progress | None = None) -> Report:
    """What :func:`evaluate` does once everything is found."""
    options = plan.options
    method = _method(options, plan.weights)
    perceptual = Perceptual(options.metrics, method.device) if options.metrics else None
    evaluate_one = functools.partial(_evaluate_one, method, options.scale, perceptual)
    results = tuple(
        DatasetResult(
            dataset.name,
            _each_image(dataset, evaluate_one, progress),
            _paper(options, dataset),
        )
        for dataset in plan.datasets
    )
    return Report(
        options=options,
        weights=plan.weights,
        device=method.device,
        precision=method.precision,
        datasets=results,
        overlap=method.overlap,
        perceptual=perceptual.metrics if perceptual else (),
        pyiqa=perceptual.version if perceptual else None,
    )


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
    return _each_image(dataset, lambda path: evaluate_image(path, upscale, scale), progress)


def _each_image(
    dataset: Dataset, evaluate_one: Callable[[Path], ImageResult], progress: Progress | None
) -> tuple[ImageResult, ...]:
    results = []
    total = len(dataset.images)
    for done, path in enumerate(dataset.images):
        if progress:
            progress(dataset.name, done, total)
        results.append(evaluate_one(path))
    if progress:
        progress(dataset.name, total, total)
    return tuple(results)


def _evaluate_one(
    method: Method, scale: int, perceptual: Perceptual | None, path: Path
) -> ImageResult:
    result = evaluate_image(path, method.upscale, scale, perceptual)
    if method.tile_shape is None:
        return result
    height, width = result.size
    return replace(result, tile=method.tile_shape(height // scale, width // scale))


def evaluate_image(
    path: Path, upscale: Upscale, scale: int, perceptual: Perceptual | None = None
) -> ImageResult:
    """Measure ``upscale``, which is as in :func:`evaluate_dataset`, on one HR image file."""
    digest = _sha256_of(path)
    hr = modcrop(read_hr(path), scale)
    height, width = hr.shape[-2:]
    needed = min_size(scale)
    if min(height, width) < needed:
        raise DatasetError(
            f"{path} is too small to be measured at x{scale}: {height}x{width}, cropped to a"
            f" multiple of {scale}, and both sides must be at least {needed}"
        )
    lr, original = to_float(degrade(hr, scale))[None], to_float(hr)[None]
    start = time.perf_counter()
    sr = _run_whole(upscale, lr, path)
    seconds = time.perf_counter() - start
    scores = score(sr, original, lr, scale, seconds)
    extra = _measure_perceptual(perceptual, sr, original, path) if perceptual else {}
    return ImageResult(path.name, (height, width), scores, digest, perceptual=extra)


def _measure_perceptual(
    perceptual: Perceptual, sr: Tensor, hr: Tensor, path: Path
) -> dict[str, float]:
    """Of what a viewer would see: 8 bits, the whole image."""
    try:
        return perceptual.measure(to_float(to_levels(sr)), hr)
    except NumericalError as error:
        raise NumericalError(f"{path} cannot be measured: {error}") from error


def _sha256_of(path: Path) -> str:
    try:
        return sha256_of(path)
    except WeightsError as error:
        raise DatasetError(str(error)) from error


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


def _method(options: EvalOptions, weights: WeightsFile | None) -> Method:
    """The network on its device, run as the options say."""
    if weights is None:
        return Method(functools.partial(bicubic_upscale, scale=options.scale), "cpu", "uint8")
    engine = Engine(
        load_model(options.model, options.scale, weights),
        options.scale,
        options.device,
        options.precision,
        self_ensemble=options.self_ensemble,
        # In tiles a network runs as `upscale` runs it, on the whole image as its paper does.
        local=options.tile_size is not None,
    )
    device, precision = str(engine.device), engine.precision
    if options.tile_size is not None:
        return _tiled(engine, options, device, precision)
    upscale: Upscale = engine.run
    if options.chop:
        upscale = functools.partial(chop, engine.run, scale=options.scale)
    return Method(upscale, device, precision)


def _tiled(engine: Engine, options: EvalOptions, device: str, precision: str) -> Method:
    size = None if options.tile_size == "auto" else options.tile_size
    overlap = engine.default_overlap(size) if options.overlap == "auto" else options.overlap

    def upscale(lr: Tensor) -> Tensor:
        return assemble(engine.bands(lr, size, overlap), lr.shape[-2] * options.scale)

    def shape(height: int, width: int) -> tuple[int, int]:
        if size is None:
            return engine.choose_tile(height, width, overlap)
        return min(height, size), min(width, size)

    return Method(upscale, device, precision, overlap, shape)


def _paper(options: EvalOptions, dataset: Dataset) -> Published | None:
    if not dataset.benchmark:
        return None
    return find_published(options.model, options.scale, dataset.name)


def bicubic_upscale(lr: Tensor, scale: int) -> Tensor:
    """MATLAB's bicubic enlargement of 8-bit pixels; LR and SR (B, 3, H, W), float in [0, 1]."""
    return to_float(bicubic(to_levels(lr), scale))
