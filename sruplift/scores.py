"""What is measured on one result, and the means of it.

LR is made, and SR compared, by the papers' protocol: see :mod:`sruplift.evaluate`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, fields
from fractions import Fraction

import torch
from torch import Tensor

from sruplift.metrics import psnr, ssim
from sruplift.resize import bicubic


@dataclass(frozen=True)
class Scores:
    """PSNR in dB (``inf`` for identical images) and SSIM, of one image or the mean of several.

    ``*_y_rounded`` are measured on Y rounded to whole levels, as HPINet's paper does. ``lr_psnr``
    is as in :func:`lr_psnr`. ``seconds`` is the network's time alone.
    """

    psnr_y: float
    ssim_y: float
    psnr_y_rounded: float
    ssim_y_rounded: float
    psnr_rgb: float
    ssim_rgb: float
    lr_psnr: float
    seconds: float


def score(sr: Tensor, hr: Tensor, lr: Tensor, scale: int, seconds: float = 0.0) -> Scores:
    """All metrics of one image.

    Args:
        sr: (1, 3, H, W), float in [0, 1]; rounded to 8 bits and clamped here.
        hr: the same, 8-bit: every value is a level.
        lr: (1, 3, H / scale, W / scale), 8-bit likewise, what ``sr`` was made of.
        scale: H and W are multiples of it; as many pixels are cut from every side of SR and HR.
        seconds: for the result.
    """
    pair = (sr, hr, scale)
    return Scores(
        psnr_y=psnr(*pair).item(),
        ssim_y=ssim(*pair).item(),
        psnr_y_rounded=psnr(*pair, round_y=True).item(),
        ssim_y_rounded=ssim(*pair, round_y=True).item(),
        psnr_rgb=psnr(*pair, y_channel=False).item(),
        ssim_rgb=ssim(*pair, y_channel=False).item(),
        lr_psnr=lr_psnr(sr, lr, scale),
        seconds=seconds,
    )


def lr_psnr(sr: Tensor, lr: Tensor, scale: int) -> float:
    """How well SR keeps to its input: the PSNR, in dB on RGB, of SR made small again against LR.

    Nothing is cut off. SR and LR are as in :func:`score`. Source: A. Lugmayr, M. Danelljan,
    L. Van Gool, R. Timofte, "SRFlow: learning the super-resolution space with normalizing flow",
    ECCV 2020.
    """
    again = degrade(to_levels(sr[0]), scale)
    return psnr(to_float(again)[None], lr, y_channel=False).item()


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


def to_levels(image: Tensor) -> Tensor:
    """Float in [0, 1] as ``uint8`` levels, rounded and clamped."""
    return image.mul(255).round().clamp(0, 255).to(torch.uint8)
