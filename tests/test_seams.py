"""Tiled against whole, on a network whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import photo_like
from torch import Tensor, nn

from sruplift.engine import Engine
from sruplift.models.layers import InputNeeds
from sruplift.seams import SeamReport, verify_seams


class Blur(nn.Module):
    """Twice as large, each pixel the mean of a square that reaches 8 pixels far."""

    needs = InputNeeds(receptive_field=8)

    def forward(self, x: Tensor) -> Tensor:
        blurred = F.avg_pool2d(x, 17, 1, 8, count_include_pad=False)
        return F.interpolate(blurred, scale_factor=2, mode="nearest")


class Brightness(nn.Module):
    """Twice as large, and the mean of all that it sees."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return F.interpolate(x, scale_factor=2, mode="nearest") * 0 + mean


def measured(engine: Engine, image: Tensor, *tiles: int) -> SeamReport:
    report = verify_seams(engine, image, *tiles)
    assert report is not None
    return report


def test_tiles_that_see_enough_equal_the_whole() -> None:
    report = measured(Engine(Blur(), 2, "cpu", "fp32"), photo_like(200, 400)[None])
    assert (report.crop, report.tile_size, report.overlap) == ((200, 384), 160, 16)
    assert report.worst < 1e-3
    assert report.psnr > 100


def test_tiles_that_see_too_little_are_told() -> None:
    engine = Engine(Blur(), 2, "cpu", "fp32")
    image = photo_like(60, 90)[None]
    report = measured(engine, image, 40, 4)
    assert 0.1 < report.worst < 255
    assert 20 < report.psnr < 70
    assert "tiles of 40 with overlap 4" in str(report)


def test_the_error_is_in_levels() -> None:
    """Halves of 0.2 and 0.6: the whole is 0.4, the tiles are 0.2 and 0.6."""
    image = torch.cat([torch.full((1, 3, 40, 40), v) for v in (0.2, 0.6)], dim=-1)
    report = measured(Engine(Brightness(), 2, "cpu", "fp32"), image, 40, 0)
    assert report.worst == pytest.approx(0.2 * 255, abs=1e-3)
    assert report.psnr == pytest.approx(-20 * math.log10(0.2), abs=1e-3)


def test_an_image_of_one_tile_has_none() -> None:
    assert verify_seams(Engine(Blur(), 2, "cpu", "fp32"), photo_like(8, 10)[None]) is None
