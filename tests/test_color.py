"""RGB to luma."""

from __future__ import annotations

import pytest
import torch

from sruplift.color import rgb_to_y


def _pixel(red: float, green: float, blue: float) -> torch.Tensor:
    return torch.tensor([red, green, blue], dtype=torch.float64).reshape(1, 3, 1, 1)


# Y of MATLAB's rgb2ycbcr on doubles, times 255: studio range, so black is 16 and white 235.
@pytest.mark.parametrize(
    ("rgb", "luma"),
    [
        ((0, 0, 0), 16.0),
        ((1, 1, 1), 235.0),
        ((1, 0, 0), 81.481),
        ((0, 1, 0), 144.553),
        ((0, 0, 1), 40.966),
        ((0.5, 0.5, 0.5), 125.5),
    ],
)
def test_known_colours(rgb: tuple[float, float, float], luma: float) -> None:
    assert rgb_to_y(_pixel(*rgb)).item() * 255 == pytest.approx(luma, abs=1e-12)


def test_is_the_formula_on_8_bit_levels() -> None:
    levels = torch.randint(0, 256, (2, 3, 5, 7), generator=torch.Generator().manual_seed(1))
    red, green, blue = levels.double().unbind(1)
    expected = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    torch.testing.assert_close(
        rgb_to_y(levels.double() / 255)[:, 0] * 255, expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5), (6, 2, 3, 4, 5)])
def test_keeps_dtype_and_leading_dimensions(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    y = rgb_to_y(torch.rand(shape).to(dtype))
    assert y.dtype == dtype
    assert y.shape == (*shape[:-3], 1, *shape[-2:])


def test_neither_rounds_nor_clamps() -> None:
    assert rgb_to_y(_pixel(-1, -1, -1)).item() < 0
    assert rgb_to_y(_pixel(2, 2, 2)).item() > 1


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (4, 4, 4), (3, 4), (1, 4, 4, 3)])
def test_refuses_other_layouts(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"needs \(\.\.\., 3, H, W\)"):
        rgb_to_y(torch.rand(shape))


def test_refuses_integers() -> None:
    with pytest.raises(ValueError, match=r"torch\.uint8"):
        rgb_to_y(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
