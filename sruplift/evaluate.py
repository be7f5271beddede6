"""Measuring networks on benchmarks, by the protocol that the papers' numbers are made with.

HR is cropped to a multiple of the scale, LR is MATLAB's bicubic of its 8-bit pixels, the network
sees the whole image, and what it gives is rounded to 8 bits before PSNR and SSIM are taken, on Y
and on RGB, with ``scale`` pixels cut from every side. A set's number is the mean over its images.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sruplift.chop import chop
from sruplift.datasets import Dataset, find_datasets, read_hr
from sruplift.engine import Engine, is_out_of_memory
from sruplift.errors import DatasetError, NumericalError, WeightsError
from sruplift.manifest import sha256_of
from sruplift.metrics import min_size
from sruplift.perceptual import Perceptual
from sruplift.published import Published, find_published
from sruplift.resize import bicubic, modcrop
from sruplift.resultcache import ResultCache
from sruplift.results import BICUBIC, DatasetResult, EvalOptions, ImageResult, Report
from sruplift.scores import Scores, degrade, score, to_float, to_levels
from sruplift.tiling import assemble
from sruplift.weights import WeightsFile, find_weights, load_model

Upscale = Callable[[Tensor], Tensor]
Progress = Callable[[str, int, int], None]
Look = Callable[[ImageResult, Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class Pictures:
    """What one image's scores were measured on.

    ``dataset`` is its set's number among those of the options, from 0. ``lr`` (1, 3, h, w) and
    ``hr`` (1, 3, H, W) are levels of 8 bits, float in [0, 1]; ``sr`` is the network's result,
    neither rounded nor clamped.
    """

    options: EvalOptions
    dataset: int
    result: ImageResult
    lr: Tensor
    sr: Tensor
    hr: Tensor


Keep = Callable[[Pictures], None]


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


def evaluate(
    options: EvalOptions,
    progress: Progress | None = None,
    cache: ResultCache | None = None,
    keep: Keep | None = None,
) -> Report:
    """Measure one network on each of the data sets.

    ``progress`` is called with a data set's name, images done and images in all. With a ``cache``
    only those images are measured that it does not know. ``keep`` is given every image's pictures,
    so with it all are measured.

    Raises:
        SrupliftError: weights or data cannot be found, or an image cannot be measured. There is
            no result then: a mean over the remaining images would be another number.
    """
    return measure(prepare(options), progress, cache, keep)


def prepare(options: EvalOptions) -> Plan:
    """Look for weights and data sets, so that what is missing is known before any computing.

    Raises:
        SrupliftError: something cannot be found or downloaded.
    """
    weights: WeightsFile | None = None
    if options.model != BICUBIC:
        weights = find_weights(options.model, options.scale, options.weights)
    datasets = find_datasets(options.datasets, options.data_root)
    return Plan(options, weights, datasets)


def measure(
    plan: Plan,
    progress: Progress | None = None,
    cache: ResultCache | None = None,
    keep: Keep | None = None,
) -> Report:
    """What :func:`evaluate` does once everything is found."""
    options = plan.options
    method = _method(options, plan.weights)
    perceptual = Perceptual(options.metrics, method.device) if options.metrics else None
    key = _cache_key(plan, method, perceptual)
    results = []
    for number, dataset in enumerate(plan.datasets):
        look = keep and functools.partial(_keep, keep, options, number)
        one = functools.partial(_evaluate_one, method, options.scale, perceptual, look)
        if cache is not None:
            one = functools.partial(_evaluate_once, one, cache, key, keep is None)
        images = _each_image(dataset, one, progress)
        results.append(DatasetResult(dataset.name, images, _paper(options, dataset)))
    return Report(
        options=options,
        weights=plan.weights,
        device=method.device,
        precision=method.precision,
        datasets=tuple(results),
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


def _keep(
    keep: Keep, options: EvalOptions, dataset: int, result: ImageResult, *images: Tensor
) -> None:
    keep(Pictures(options, dataset, result, *images))


def _evaluate_one(
    method: Method,
    scale: int,
    perceptual: Perceptual | None,
    look: Look | None,
    path: Path,
) -> ImageResult:
    result = evaluate_image(path, method.upscale, scale, perceptual, look)
    if method.tile_shape is None:
        return result
    height, width = result.size
    return replace(result, tile=method.tile_shape(height // scale, width // scale))


def _evaluate_once(
    evaluate_one: Callable[[Path], ImageResult],
    cache: ResultCache,
    key: Mapping[str, Any],
    read: bool,
    path: Path,
) -> ImageResult:
    """The result from ``cache`` if it may be read, or a new one, which then is in it."""
    if read:
        digest = _sha256_of(path)
        found = _from_record(cache.read({**key, "image": digest}), path.name, digest)
        if found is not None:
            return found
    result = evaluate_one(path)
    cache.write({**key, "image": result.sha256}, _as_record(result))
    return result


def _cache_key(plan: Plan, method: Method, perceptual: Perceptual | None) -> dict[str, Any]:
    """Everything but the image that makes a result."""
    options = plan.options
    return {
        "model": options.model,
        "scale": options.scale,
        "weights": plan.weights and plan.weights.sha256,
        "device": method.device,
        "precision": method.precision,
        "self_ensemble": options.self_ensemble,
        "chop": options.chop,
        "tile": options.tile_size,
        "overlap": method.overlap,
        "metrics": sorted(options.metrics),
        "pyiqa": perceptual and perceptual.version,
    }


def _as_record(result: ImageResult) -> dict[str, Any]:
    record = asdict(result)
    return {name: record[name] for name in ("size", "scores", "tile", "perceptual")}


def _from_record(record: dict[str, Any] | None, name: str, digest: str) -> ImageResult | None:
    if record is None:
        return None
    return ImageResult(
        name=name,
        size=tuple(record["size"]),
        scores=Scores(**record["scores"]),
        sha256=digest,
        tile=None if record["tile"] is None else tuple(record["tile"]),
        perceptual=record["perceptual"],
        from_cache=True,
    )


def evaluate_image(
    path: Path,
    upscale: Upscale,
    scale: int,
    perceptual: Perceptual | None = None,
    look: Look | None = None,
) -> ImageResult:
    """Measure ``upscale``, which is as in :func:`evaluate_dataset`, on one HR image file.

    ``look`` is given the result, LR, SR and HR.
    """
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
    sr = _run_whole(upscale, lr.clone(), path)  # It may work in place.
    seconds = time.perf_counter() - start
    scores = score(sr, original, lr, scale, seconds)
    extra = _measure_perceptual(perceptual, sr, original, path) if perceptual else {}
    result = ImageResult(path.name, (height, width), scores, digest, perceptual=extra)
    if look:
        look(result, lr, sr, original)
    return result


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
