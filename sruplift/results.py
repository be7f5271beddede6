"""What to measure, and what was measured: the options and results of :mod:`sruplift.evaluate`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sruplift.errors import UsageError
from sruplift.perceptual import PerceptualMetric
from sruplift.published import Published
from sruplift.scores import Scores, mean_scores
from sruplift.sizes import plain
from sruplift.tiling import check_tile

if TYPE_CHECKING:
    from sruplift.weights import WeightsFile

BICUBIC = "bicubic"
BICUBIC_SCALES = (2, 3, 4)


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
        for name in ("scale", "tile_size", "overlap"):
            object.__setattr__(self, name, plain(getattr(self, name)))
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
        check_tile(self.tile_size, self.overlap)

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
    ``from_cache`` says that they were measured by an earlier run, ``seconds`` too.
    """

    name: str
    size: tuple[int, int]
    scores: Scores
    sha256: str = ""
    tile: tuple[int, int] | None = None
    perceptual: Mapping[str, float] = field(default_factory=dict)
    from_cache: bool = field(default=False, compare=False)

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
