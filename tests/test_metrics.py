"""PSNR and SSIM, against sums written out by hand. The papers' numbers: test_evaluate.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import photo_like
from numpy.typing import NDArray
from torch import Tensor

from sruplift.metrics import min_size, psnr, ssim

Array = NDArray[np.float64]
METRICS = pytest.mark.parametrize("metric", [psnr, ssim])


@pytest.fixture
def hr() -> Tensor:
    """(1, 3, 24, 21), 8-bit levels."""
    return photo_like(24, 21)[None].mul(255).round() / 255


@pytest.fixture
def sr(hr: Tensor) -> Tensor:
    """``hr`` with noise, neither rounded nor clamped, as a network gives it."""
    return hr + 0.08 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(3))


def _planes(image: Tensor, crop: int, *, luma: bool, rounded: bool = False) -> list[Array]:
    """8-bit levels of one (1, 3, H, W) image as float64 planes, cropped; Y or R, G, B."""
    levels = np.clip(np.floor(image[0].double().numpy() * 255 + 0.5), 0, 255)
    height, width = levels.shape[1:]
    levels = levels[:, crop : height - crop, crop : width - crop]
    if not luma:
        return list(levels)
    y = 16 + (65.481 * levels[0] + 128.553 * levels[1] + 24.966 * levels[2]) / 255
    return [np.floor(y + 0.5) if rounded else y]


def _psnr_by_hand(x: list[Array], y: list[Array]) -> float:
    errors = [(a - b) ** 2 for a, b in zip(x, y, strict=True)]
    return 10 * math.log10(255**2 / float(np.mean(errors)))


def _ssim_by_hand(x: list[Array], y: list[Array]) -> float:
    """Wang et al., equation 13, window by window with a two-dimensional Gaussian."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for a, b in zip(x, y, strict=True):
        for top in range(a.shape[0] - 10):
            for left in range(a.shape[1] - 10):
                p, q = (plane[top : top + 11, left : left + 11] for plane in (a, b))
                mean_p, mean_q = (window * p).sum(), (window * q).sum()
                var_p = (window * (p - mean_p) ** 2).sum()
                var_q = (window * (q - mean_q) ** 2).sum()
                covariance = (window * (p - mean_p) * (q - mean_q)).sum()
                c1, c2 = 2.55**2, 7.65**2
                values.append(
                    (2 * mean_p * mean_q + c1)
                    * (2 * covariance + c2)
                    / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))
                )
    return float(np.mean(values))


@pytest.mark.parametrize("crop", [0, 3])
@pytest.mark.parametrize(
    ("luma", "rounded"), [(True, False), (True, True), (False, False)], ids=["y", "y8", "rgb"]
)
def test_equal_the_formulas(sr: Tensor, hr: Tensor, crop: int, luma: bool, rounded: bool) -> None:
    x, y = (_planes(image, crop, luma=luma, rounded=rounded) for image in (sr, hr))
    options = {"crop_border": crop, "y_channel": luma, "round_y": rounded}
    assert psnr(sr, hr, **options).item() == pytest.approx(_psnr_by_hand(x, y), abs=1e-9)
    assert ssim(sr, hr, **options).item() == pytest.approx(_ssim_by_hand(x, y), abs=1e-9)


def test_one_level_everywhere(hr: Tensor) -> None:
    grey = torch.full_like(hr, 100 / 255)
    brighter = torch.full_like(hr, 101 / 255)
    assert psnr(brighter, grey, y_channel=False).item() == pytest.approx(20 * math.log10(255))
    # A level of grey is 219/255 of a level of Y.
    expected = 20 * math.log10(255 * 255 / 219)
    assert psnr(brighter, grey).item() == pytest.approx(expected)


@METRICS
def test_round_to_8_bits_first(metric: type, hr: Tensor) -> None:
    nearly = hr + 0.4 / 255
    assert torch.equal(metric(nearly, hr), metric(hr, hr))
    assert not torch.equal(metric(hr + 0.6 / 255, hr), metric(hr, hr))


@METRICS
def test_clamp_first(metric: type, sr: Tensor, hr: Tensor) -> None:
    wild = (sr - 0.5) * 3 + 0.5
    assert wild.max() > 1
    assert wild.min() < 0
    assert torch.equal(metric(wild, hr), metric(wild.clamp(0, 1), hr))


def test_no_images() -> None:
    none = torch.rand(0, 3, 20, 20)
    assert psnr(none, none).shape == ssim(none, none).shape == (0,)


def test_identical_images(hr: Tensor) -> None:
    many = torch.rand(20, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    assert ssim(many, many, 4).max() <= 1
    assert psnr(hr, hr).tolist() == [math.inf]
    assert ssim(hr, hr).item() == pytest.approx(1, abs=1e-12)


@METRICS
def test_nan_is_not_hidden(metric: type, hr: Tensor) -> None:
    broken = hr.clone()
    broken[0, 1, 12, 10] = math.nan
    assert metric(broken, hr).isnan().all()


@METRICS
def test_the_border_is_not_measured(metric: type, hr: Tensor) -> None:
    framed = hr.clone()
    framed[..., :4, :] = framed[..., -4:, :] = framed[..., :, :4] = framed[..., :, -4:] = 0
    assert torch.equal(metric(framed, hr, 4), metric(hr, hr, 4))
    assert not torch.equal(metric(framed, hr, 3), metric(hr, hr, 3))


@METRICS
def test_every_image_has_its_own_value(metric: type, sr: Tensor, hr: Tensor) -> None:
    batch = torch.cat([sr, hr, 1 - sr])
    together = metric(batch, hr.expand(3, -1, -1, -1), 2)
    alone = torch.cat([metric(image[None], hr, 2) for image in batch])
    assert together.dtype == torch.float64
    assert together.shape == (3,)
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)
    assert len(set(together.tolist())) == 3


@METRICS
def test_channels_are_rgb_in_this_order(metric: type, sr: Tensor, hr: Tensor) -> None:
    assert not torch.equal(metric(sr, hr), metric(sr.flip(1), hr.flip(1)))


def test_ssim_on_rgb_is_the_mean_of_the_channels(sr: Tensor, hr: Tensor) -> None:
    channels = [ssim(sr[:, [c] * 3], hr[:, [c] * 3], 2, y_channel=False).item() for c in range(3)]
    assert ssim(sr, hr, 2, y_channel=False).item() == pytest.approx(sum(channels) / 3)


@METRICS
@pytest.mark.parametrize(
    ("sr_shape", "hr_shape"),
    [
        ((1, 3, 20, 20), (1, 3, 20, 21)),
        ((2, 3, 20, 20), (1, 3, 20, 20)),
        ((3, 20, 20), (3, 20, 20)),
        ((1, 1, 20, 20), (1, 1, 20, 20)),
    ],
)
def test_refuse_other_shapes(
    metric: type, sr_shape: tuple[int, ...], hr_shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"one shape \(B, 3, H, W\)"):
        metric(torch.zeros(sr_shape), torch.zeros(hr_shape))


@METRICS
def test_refuse_integers(metric: type) -> None:
    image = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"torch\.uint8"):
        metric(image, image)


@METRICS
def test_refuse_a_negative_crop(metric: type, hr: Tensor) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        metric(hr, hr, -1)


@METRICS
@pytest.mark.parametrize("height", [0, 5, 8])
def test_refuse_images_that_the_crop_leaves_nothing_of(metric: type, height: int) -> None:
    image = torch.zeros(1, 3, height, 40)
    with pytest.raises(ValueError, match=f"a {height}x40 image is too small"):
        metric(image, image, 4)


def test_smallest_image() -> None:
    image = photo_like(min_size(4), min_size(4))[None]
    assert ssim(image, image, 4).item() == pytest.approx(1)
    with pytest.raises(ValueError, match="a 18x19 image is too small: after cropping 4"):
        ssim(image[..., 1:, :], image[..., 1:, :], 4)
