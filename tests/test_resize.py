"""MATLAB's imresize: its own output where the shared data is, exact arithmetic everywhere."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import photo_like
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from sruplift.resize import bicubic

SCALES = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(2), Fraction(3), Fraction(3, 2)]


def _levels(height: int, width: int, seed: int = 0) -> Tensor:
    return photo_like(height, width, seed=seed).mul(255).round().to(torch.uint8)


def _read(path: Path) -> Tensor:
    pixels = np.array(Image.open(path))
    return torch.from_numpy(pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("name", "count"), [("Set5", 5), ("Set14", 14)])
def test_every_pixel_is_matlabs(shared: Path, name: str, count: int, scale: int) -> None:
    folder = shared / "benchmarks" / name
    paths = sorted((folder / "HR").glob("*.png"))
    assert len(paths) == count
    for path in paths:
        hr = _read(path)
        height, width = (side - side % scale for side in hr.shape[-2:])
        lr = bicubic(hr[..., :height, :width], 1 / scale)
        matlab = _read(folder / "LR_matlab" / f"x{scale}" / f"{path.stem}x{scale}.png")
        assert torch.equal(lr, matlab), path.name


def _keys(x: Fraction) -> Fraction:
    """Keys' cubic convolution kernel, a = -1/2."""
    x = abs(x)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    if x <= 2:
        return -Fraction(1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2
    return Fraction(0)


def _resize_exactly(row: list[int], scale: Fraction, *, antialias: bool = True) -> list[Fraction]:
    """A row by the definition, in rational numbers: one output pixel, all taps, no tricks."""
    shrink = min(scale, Fraction(1)) if antialias else Fraction(1)
    length = len(row)
    result = []
    for out in range(math.ceil(length * scale)):
        centre = (out + Fraction(1, 2)) / scale - Fraction(1, 2)
        reach = math.ceil(2 / shrink) + 1
        total = weight_sum = Fraction(0)
        for tap in range(math.floor(centre) - reach, math.floor(centre) + reach + 2):
            weight = _keys((centre - tap) * shrink)
            mirrored = tap % (2 * length)
            total += weight * row[min(mirrored, 2 * length - 1 - mirrored)]
            weight_sum += weight
        result.append(total / weight_sum)
    return result


@given(
    row=st.lists(st.integers(0, 255), min_size=1, max_size=14),
    scale=st.sampled_from(SCALES),
    antialias=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_row_is_the_definition(row: list[int], scale: Fraction, antialias: bool) -> None:
    exact = _resize_exactly(row, scale, antialias=antialias)
    column = torch.tensor(row, dtype=torch.float64)[None, :, None]
    size = (len(exact), 1)
    # Along one axis alone: the other has one pixel before and after.
    result = bicubic(column.expand(1, -1, 1), scale, antialias=antialias)[0, :, 0]
    assert result.tolist() == pytest.approx([float(value) for value in exact], abs=1e-9)
    if size[0] != len(row) * scale:
        return
    integers = bicubic(column.to(torch.uint8), size=size, antialias=antialias)[0, :, 0].tolist()
    for value, level in zip(exact, integers, strict=True):
        rounded = min(max(math.floor(value + Fraction(1, 2)), 0), 255)
        # At an exact half, float64 may come out on either side.
        on_a_half = (value + Fraction(1, 2)).denominator == 1
        assert level == rounded or (on_a_half and abs(level - rounded) == 1)


def test_weights_of_a_half() -> None:
    """The response to a single bright pixel, worked out on paper: k(x/2)/2 at quarter steps."""
    image = torch.zeros(16, 1, dtype=torch.float64)
    image[8] = 512
    column = bicubic(image.expand(16, 2), 0.5)[:, 0]
    assert column.tolist() == [0, 0, -6, 58, 222, -18, 0, 0]


def test_axes_are_independent() -> None:
    image = photo_like(24, 20)[0].double()
    both = bicubic(image, 0.25)
    height_first = bicubic(bicubic(image, size=(6, 20)), size=(6, 5))
    width_first = bicubic(bicubic(image, size=(24, 5)), size=(6, 5))
    torch.testing.assert_close(both, height_first, rtol=0, atol=1e-12)
    torch.testing.assert_close(both, width_first, rtol=0, atol=1e-12)


def test_integers_are_rounded_after_each_pass_height_first() -> None:
    image = _levels(96, 80)
    result = bicubic(image, 0.25)
    assert torch.equal(result, bicubic(bicubic(image, size=(24, 80)), size=(24, 20)))
    once = bicubic(image.double(), 0.25).add(0.5).floor().clamp(0, 255).to(torch.uint8)
    assert not torch.equal(result, once)
    assert (result.int() - once.int()).abs().max() <= 12


def test_the_axis_that_shrinks_more_goes_first() -> None:
    image = _levels(48, 48)
    width_first = bicubic(bicubic(image, size=(48, 12)), size=(24, 12))
    height_first = bicubic(bicubic(image, size=(24, 48)), size=(24, 12))
    assert not torch.equal(width_first, height_first)
    assert torch.equal(bicubic(image, size=(24, 12)), width_first)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_constants_stay(scale: Fraction, level: int) -> None:
    image = torch.full((3, 13, 7), level, dtype=torch.uint8)
    assert (bicubic(image, scale) == level).all()
    assert bicubic(image.double(), scale).sub(level).abs().max() < 1e-10


@pytest.mark.parametrize("scale", [Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(2)])
def test_mirrors(scale: Fraction) -> None:
    image = photo_like(24, 36).double()
    result = bicubic(image, scale)
    for axis in (-2, -1):
        mirrored = bicubic(image.flip(axis), scale).flip(axis)
        torch.testing.assert_close(mirrored, result, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("sides", "scale", "expected"),
    [
        ((255, 3), 1 / 3, (85, 1)),
        ((256, 7), 1 / 3, (86, 3)),
        ((7, 5), 0.5, (4, 3)),
        ((1, 1), 0.25, (1, 1)),
        ((5, 7), 3, (15, 21)),
        ((10, 4), 1.5, (15, 6)),
    ],
)
def test_sizes_are_rounded_up(
    sides: tuple[int, int], scale: float, expected: tuple[int, int]
) -> None:
    assert bicubic(torch.zeros(sides), scale).shape == expected


def test_same_size_changes_nothing() -> None:
    image = _levels(9, 11)
    assert torch.equal(bicubic(image, 1), image)
    assert torch.equal(bicubic(image, size=(9, 11)), image)


def test_integers_clip_and_floats_overshoot() -> None:
    edge = torch.zeros(4, 16)
    edge[:, 8:] = 1
    enlarged = bicubic(edge, 2)
    assert enlarged.min() < 0
    assert enlarged.max() > 1
    levels = bicubic((edge * 255).to(torch.uint8), 2)
    assert levels.dtype == torch.uint8
    assert (levels.min(), levels.max()) == (0, 255)
    # A wrapped overshoot would be a bright pixel on the dark side.
    assert (levels[:, :14] == 0).all()


def test_leading_dimensions_and_dtypes() -> None:
    image = torch.rand(2, 5, 3, 8, 12)
    result = bicubic(image, 0.5)
    assert result.shape == (2, 5, 3, 4, 6)
    assert result.dtype == torch.float32
    assert torch.equal(result[1, 4, 2], bicubic(image[1, 4, 2], 0.5))
    torch.testing.assert_close(bicubic(image.double(), 0.5).float(), result, rtol=0, atol=1e-6)


def test_gradients_flow() -> None:
    image = torch.rand(1, 8, 8, requires_grad=True)
    bicubic(image, 0.5).sum().backward()
    assert image.grad is not None
    assert image.grad.sum().item() == pytest.approx(16)


@pytest.mark.parametrize(
    ("sides", "arguments", "message"),
    [
        ((4, 4), {}, "either scale or size"),
        ((4, 4), {"scale": 2, "size": (8, 8)}, "either scale or size"),
        ((0, 4), {"scale": 2}, "cannot resize 0x4"),
        ((4, 0), {"size": (8, 8)}, "cannot resize 4x0 to 8x8"),
        ((4, 4), {"size": (0, 8)}, "cannot resize 4x4 to 0x8"),
    ],
)
def test_errors(sides: tuple[int, int], arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bicubic(torch.zeros(sides), **arguments)  # type: ignore[arg-type]


@pytest.mark.cuda
def test_the_gpu_gives_the_same_pixels() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    image = _levels(96, 80)
    for scale in SCALES:
        assert torch.equal(bicubic(image.cuda(), scale).cpu(), bicubic(image, scale))
