"""Reports that more than one test file makes, without measuring anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sruplift.published import find_published
from sruplift.results import DatasetResult, EvalOptions, ImageResult, Report
from sruplift.scores import Scores
from sruplift.weights import WeightsFile

SHA256 = "ab" * 32


def scores(psnr: float, ssim: float = 0.9, **others: float) -> Scores:
    """Scores with this PSNR and SSIM on Y; the others are near."""
    near = {
        "psnr_y_rounded": psnr - 0.1,
        "ssim_y_rounded": ssim - 0.01,
        "psnr_rgb": psnr - 2,
        "ssim_rgb": ssim - 0.05,
        "lr_psnr": psnr + 15,
        "seconds": 0.5,
    }
    return Scores(psnr_y=psnr, ssim_y=ssim, **{**near, **others})


def make_report(
    model: str = "pan",
    scale: int = 4,
    psnr: Sequence[float] = (30.0, 31.0, 33.0),
    *,
    dataset: str = "Set5",
    paper: bool = True,
    **options: Any,
) -> Report:
    """A report on one data set whose images have ``psnr``, and SSIM of a hundredth part of 3."""
    images = tuple(
        ImageResult(f"image_{index}.png", (40, 44), scores(value, value * 0.03), f"{index:064}")
        for index, value in enumerate(psnr)
    )
    published = find_published(model, scale, dataset) if paper else None
    weights = None
    if model != "bicubic":
        path = Path(f"{model}_x{scale}.safetensors")
        weights = WeightsFile(path, SHA256, model, scale, "bundled")
    return Report(
        options=EvalOptions((dataset,), model, scale, **options),
        weights=weights,
        device="cpu",
        precision="fp32",
        datasets=(DatasetResult(dataset, images, published),),
    )
