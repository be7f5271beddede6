"""MATLAB's ``imresize(image, ..., 'bicubic')`` in PyTorch.

Keys' cubic kernel with a = -0.5, widened by the scale when shrinking (antialiasing), symmetric
edge extension, weights normalised, the axis that shrinks most first. ``uint8`` input is rounded
half away from zero and clipped to 0..255 after each of the two passes, as MATLAB does:
super-resolution papers made their LR images that way, and rounding once gives other pixels.

Source of the kernel: R. Keys, "Cubic convolution interpolation for digital image processing",
IEEE Trans. ASSP 29(6), 1981.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

KERNEL_WIDTH = 4.0


def bicubic(
    image: Tensor,
    scale: float | Fraction | None = None,
    *,
    size: tuple[int, int] | None = None,
    antialias: bool = True,
) -> Tensor:
    """Resize ``image`` as MATLAB does.

    Args:
        image: (..., H, W), ``uint8`` in 0..255 or floating point in any range, on any device.
        scale: output size over input size, e.g. ``1 / 4``; the size is rounded up.
        size: output (height, width), instead of ``scale``.
        antialias: widen the kernel when shrinking (MATLAB's default).

    Returns:
        (..., H', W') of the input's dtype. Float results are not clamped: the kernel overshoots.

    Raises:
        ValueError: neither or both of ``scale`` and ``size``, an empty image or an empty result.
    """
    if (scale is None) == (size is None):
        raise ValueError("give either scale or size")
    height, width = image.shape[-2:]
    if size is None:
        assert scale is not None
        # A scale such as 1/3 is not a float: 255 * (1/3) must be 85, not 85.00000000000001.
        exact = Fraction(scale).limit_denominator(10_000)
        size = (math.ceil(height * exact), math.ceil(width * exact))
        scales = (float(scale), float(scale))
    else:
        scales = (size[0] / max(height, 1), size[1] / max(width, 1))
    if min(height, width, *size) < 1:
        raise ValueError(f"cannot resize {height}x{width} to {size[0]}x{size[1]}")
    # MATLAB resizes the axis with the smaller factor first, height first when they are equal.
    axes = (-2, -1) if scales[0] <= scales[1] else (-1, -2)
    for axis in axes:
        image = _resize_axis(image, axis, size[axis], scales[axis], antialias)
    return image


def rows_needed(height: int, new_height: int, start: int, stop: int) -> tuple[int, int]:
    """Which rows of an image of ``height`` the rows ``start`` to ``stop`` of the result use."""
    _, indices = contributions(height, new_height, new_height / height)
    used = indices[start:stop]
    return int(used.min()), int(used.max()) + 1


def bicubic_rows(
    rows: Tensor, first: int, height: int, size: tuple[int, int], start: int, stop: int
) -> Tensor:
    """Rows ``start`` to ``stop`` of ``bicubic(image, size=size)``, of floating point.

    Width is resized before height, whichever shrinks more: without rounding it is the same.

    Args:
        rows: (..., h, W), the image's rows from ``first`` on, as many as ``rows_needed`` says.
        first: where they begin.
        height: of the image.
        size: (height, width) of the whole result.
        start: first row of the result.
        stop: the row behind the last one.
    """
    weights, indices = contributions(height, size[0], size[0] / height)
    indices = indices[start:stop] - first
    wide = _resize_axis(rows, -1, size[1], size[1] / rows.shape[-1], antialias=True)
    return _weighted_taps(wide, -2, weights[start:stop], indices)


class RowResizer:
    """``bicubic(image, size=size)`` of an image whose rows arrive from top to bottom.

    Args:
        height: of the image.
        size: (height, width) of the result.
    """

    def __init__(self, height: int, size: tuple[int, int]) -> None:
        self.height, self.size = height, size
        self._indices = contributions(height, size[0], size[0] / height)[1]
        # From each row of the result on, the first row of the image that is still used.
        self._first_used = self._indices.amin(1).flip(0).cummin(0).values.flip(0)
        self._last_used = self._indices.amax(1)
        self._rows: Tensor | None = None
        self._first = self._done = 0

    def push(self, rows: Tensor) -> Tensor:
        """The next rows (..., h, W) of the image -> the rows of the result that they complete."""
        held = rows if self._rows is None else torch.cat([self._rows, rows], dim=-2)
        end = self._first + held.shape[-2]
        waiting = (self._last_used[self._done :] >= end).nonzero()
        stop = self._done + int(waiting[0]) if len(waiting) else self.size[0]
        result = bicubic_rows(held, self._first, self.height, self.size, self._done, stop)
        keep = int(self._first_used[stop]) if stop < self.size[0] else end
        self._rows = held[..., keep - self._first :, :].clone()
        self._first, self._done = keep, stop
        return result


def modcrop(image: Tensor, scale: int) -> Tensor:
    """(..., H, W) without its last rows and columns, so that both are multiples of ``scale``."""
    height, width = image.shape[-2:]
    return image[..., : height - height % scale, : width - width % scale]


def _resize_axis(image: Tensor, axis: int, length: int, scale: float, antialias: bool) -> Tensor:
    """One pass over ``axis`` (-2 or -1); integers are rounded and clipped at its end."""
    weights, indices = contributions(image.shape[axis], length, scale, antialias)
    return _weighted_taps(image, axis, weights, indices)


def _weighted_taps(image: Tensor, axis: int, weights: Tensor, indices: Tensor) -> Tensor:
    """Weighted sums over ``axis``, with weights and indices as ``contributions`` gives them."""
    integer = image.dtype == torch.uint8
    compute = torch.float64 if integer or image.dtype == torch.float64 else torch.float32
    weights = weights.to(image.device, compute)
    indices = indices.to(image.device)
    if axis == -2:
        weights = weights[:, :, None]
    result: Tensor | None = None
    for tap_weights, tap_indices in zip(weights.unbind(1), indices.unbind(1), strict=True):
        tap = image.index_select(axis, tap_indices).to(compute) * tap_weights
        result = tap if result is None else result.add_(tap)
    assert result is not None
    if integer:
        return result.add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)
    return result.to(image.dtype)


def contributions(
    in_length: int, out_length: int, scale: float, antialias: bool = True
) -> tuple[Tensor, Tensor]:
    """Weights and input indices of each output pixel, both (out_length, taps); float64, int64."""
    kernel_scale = min(scale, 1.0) if antialias else 1.0
    kernel_width = KERNEL_WIDTH / kernel_scale
    # Output pixel centres on the input's grid, counting from 1 as MATLAB does.
    centres = torch.arange(1, out_length + 1, dtype=torch.float64) / scale + 0.5 * (1 - 1 / scale)
    left = torch.floor(centres - kernel_width / 2)
    taps = math.ceil(kernel_width) + 2
    indices = left[:, None] + torch.arange(taps, dtype=torch.float64)
    weights = kernel_scale * _cubic(kernel_scale * (centres[:, None] - indices))
    weights = weights / weights.sum(dim=1, keepdim=True)
    mirrored = torch.cat([torch.arange(in_length), torch.arange(in_length - 1, -1, -1)])
    positions = mirrored[(indices.long() - 1) % (2 * in_length)]
    used = weights.abs().amax(dim=0) > 0
    return weights[:, used], positions[:, used]


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel, a = -0.5, non-zero on (-2, 2)."""
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))
