"""Colours under transparency, and pictures on white."""

from __future__ import annotations

import pytest
import torch

from sruplift.alpha import bleed, composite


def disc(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (min(height, width) / 3) ** 2
    return inside.float()[None, None]


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (1, 40), (3, 2)])
def test_a_colour_on_black_fills_everything(size: tuple[int, int]) -> None:
    alpha = disc(*size)
    alpha[..., 0, 0] = 1
    colour = torch.tensor([0.9, 0.4, 0.1])[None, :, None, None]
    result = bleed(colour * alpha, alpha)
    torch.testing.assert_close(result, colour.expand_as(result), rtol=0, atol=1e-6)


def test_visible_pixels_are_unchanged() -> None:
    alpha = disc(20, 20) * torch.rand(1, 1, 20, 20)
    image = torch.rand(1, 3, 20, 20)
    visible = (alpha > 0).expand_as(image)
    assert torch.equal(bleed(image, alpha)[visible], image[visible])


def test_the_nearer_colour_wins() -> None:
    image = torch.zeros(1, 1, 4, 32)
    alpha = torch.zeros(1, 1, 4, 32)
    alpha[..., 0], alpha[..., -1] = 1, 1
    image[..., -1] = 1
    result = bleed(image, alpha)
    assert result[..., :8].max() < 0.25
    assert result[..., -8:].min() > 0.75


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_alpha_needs_nothing(value: float) -> None:
    image = torch.rand(1, 3, 5, 5)
    assert bleed(image, torch.full((1, 1, 5, 5), value)) is image


def test_composite_mixes_with_the_background() -> None:
    image = torch.tensor([0.2, 0.2, 0.2]).reshape(1, 1, 1, 3)
    alpha = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3)
    torch.testing.assert_close(composite(image, alpha).flatten(), torch.tensor([1.0, 0.6, 0.2]))
    torch.testing.assert_close(composite(image, alpha, 0).flatten(), torch.tensor([0.0, 0.1, 0.2]))
