"""Quarters: what each sees, and where it goes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sruplift import chop as module
from sruplift.chop import chop


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (30, 41), (64, 90)])
def test_quarters_come_together_again(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size)

    def fn(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")

    assert torch.equal(chop(fn, image, 2), fn(image))


def test_each_quarter_sees_ten_pixels_over_the_middle() -> None:
    seen: list[tuple[int, ...]] = []

    def fn(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape[-2:]))
        return x

    chop(fn, torch.rand(1, 3, 40, 61), 1)
    assert seen == [(30, 40)] * 4


def test_large_quarters_are_cut_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_QUARTER", 1000)
    image = torch.rand(1, 3, 60, 60)
    sizes = []

    def fn(x: Tensor) -> Tensor:
        sizes.append(x.shape[-1])
        return x

    assert torch.equal(chop(fn, image, 1), image)
    assert sizes == [30] * 16
