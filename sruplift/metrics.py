"""PSNR and SSIM as super-resolution papers measure them.

Both images are rounded to 8 bits first, ``crop_border`` pixels are cut from every side (papers
cut as many as the scale), and everything is computed in float64 on levels 0..255, either on
BT.601 Y or on RGB. Each image of a batch has its own value: a set's number is the mean of its
images' values.

Source of SSIM and its constants: Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image
quality assessment: from error visibility to structural similarity", IEEE TIP 13(4), 2004.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sruplift.color import rgb_to_y

PEAK = 255.0
WINDOW_SIZE = 11
WINDOW_SIGMA = 1.5
K1, K2 = 0.01, 0.03


def psnr(
    sr: Tensor,
    hr: Tensor,
    crop_border: int = 0,
    y_channel: bool = True,
    *,
    round_y: bool = False,
) -> Tensor:
    """Peak signal-to-noise ratio in dB, peak 255, of each image.

    Args:
        sr: (B, 3, H, W) RGB, floating point in [0, 1]; rounded to 8 bits and clamped here.
        hr: the same for the reference.
        crop_border: pixels that are cut from every side.
        y_channel: measure on Y (True) or on the three RGB channels together.
        round_y: round Y to whole levels first. A few papers' numbers are made so.

    Returns:
        (B,) float64. Identical images give ``inf``, NaN in an image gives NaN.

    Raises:
        ValueError: shapes that differ or are not (B, 3, H, W), or nothing left after the crop.
    """
    x, y = _prepare(sr, hr, crop_border, y_channel, round_y)
    if 0 in x.shape[2:]:
        raise ValueError(_too_small(sr, crop_border, 1))
    mse = (x - y).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(PEAK**2 / mse)


def ssim(
    sr: Tensor,
    hr: Tensor,
    crop_border: int = 0,
    y_channel: bool = True,
    *,
    round_y: bool = False,
) -> Tensor:
    """Structural similarity of each image: 11x11 Gaussian window, sigma 1.5, no padding.

    Arguments as for :func:`psnr`. On RGB it is the mean of the three channels' values.

    Returns:
        (B,) float64, at most 1.

    Raises:
        ValueError: as for :func:`psnr`, or an image smaller than the window after the crop.
    """
    x, y = _prepare(sr, hr, crop_border, y_channel, round_y)
    if min(x.shape[-2:]) < WINDOW_SIZE:
        raise ValueError(_too_small(sr, crop_border, WINDOW_SIZE))
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    mean_xx, mean_yy, mean_xy = mean_x * mean_x, mean_y * mean_y, mean_x * mean_y
    variances = _blur(x * x + y * y) - mean_xx - mean_yy
    covariance = _blur(x * y) - mean_xy
    luminance = (2 * mean_xy + c1) / (mean_xx + mean_yy + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return (luminance * structure).mean(dim=(1, 2, 3)).clamp(max=1)


def min_size(crop_border: int) -> int:
    """The smallest side, in pixels, of an image that both metrics can measure."""
    return WINDOW_SIZE + 2 * crop_border


def _prepare(
    sr: Tensor, hr: Tensor, crop_border: int, y_channel: bool, round_y: bool
) -> tuple[Tensor, Tensor]:
    """The two images on levels 0..255, float64, cropped; one channel or three."""
    if sr.shape != hr.shape or sr.ndim != 4 or sr.shape[1] != 3:
        raise ValueError(
            f"need two images of one shape (B, 3, H, W), not {tuple(sr.shape)} and "
            f"{tuple(hr.shape)}"
        )
    if not (torch.is_floating_point(sr) and torch.is_floating_point(hr)):
        raise ValueError(f"need floating point in [0, 1], not {sr.dtype} and {hr.dtype}")
    if crop_border < 0:
        raise ValueError(f"crop_border must not be negative, not {crop_border}")
    height, width = sr.shape[-2:]
    inside = (
        ...,
        slice(crop_border, max(height - crop_border, 0)),
        slice(crop_border, max(width - crop_border, 0)),
    )
    x, y = (_levels(image[inside], y_channel, round_y) for image in (sr, hr))
    return x, y


def _levels(image: Tensor, y_channel: bool, round_y: bool) -> Tensor:
    """8-bit RGB or Y of ``image``, float64 on 0..255."""
    # NaN stays NaN here, and so in the metric; through uint8 it would become a level.
    levels = image.double().mul(PEAK).round().clamp(0, PEAK)
    if not y_channel:
        return levels
    luma = rgb_to_y(levels / PEAK) * PEAK
    return luma.round() if round_y else luma


def _blur(x: Tensor) -> Tensor:
    """Gaussian window means, (B, C, H, W) -> (B, C, H - 10, W - 10).

    The window is separable. Sums of shifted slices: a float64 convolution on a CPU would unfold
    the image eleven times over.
    """
    offsets = torch.arange(WINDOW_SIZE, dtype=torch.float64) - WINDOW_SIZE // 2
    taps = torch.exp(-offsets.square() / (2 * WINDOW_SIGMA**2))
    weights: list[float] = (taps / taps.sum()).tolist()
    for axis in (-2, -1):
        length = x.shape[axis] - WINDOW_SIZE + 1
        blurred = torch.zeros_like(x.narrow(axis, 0, length))
        for start, weight in enumerate(weights):
            blurred.add_(x.narrow(axis, start, length), alpha=weight)
        x = blurred
    return x


def _too_small(image: Tensor, crop_border: int, needed: int) -> str:
    height, width = image.shape[-2:]
    return (
        f"a {height}x{width} image is too small: after cropping {crop_border} pixels from every "
        f"side, {needed} are needed"
    )
