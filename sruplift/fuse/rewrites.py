"""Rewrites of convolutions that leave the result as it is, to rounding, and take less work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.models.layers import bilinear

# LR pixels of a strip, before it is enlarged: two maps of it stay in a CPU's last-level cache.
STRIP_PIXELS = 2**15

Kind = TypeVar("Kind", bound=nn.Module)


def members(modules: Iterable[nn.Module], kind: type[Kind]) -> list[Kind]:
    """A ``ModuleList``'s modules, with the type that it forgets."""
    found = [module for module in modules if isinstance(module, kind)]
    assert len(found) == len(list(modules))
    return found


def make_conv(
    weight: Tensor, bias: Tensor | None, *, padding: int = 0, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution with this weight (O, I / groups, kH, kW) and bias (O,)."""
    outputs, inputs = weight.shape[0], weight.shape[1] * groups
    made = nn.Conv2d(
        inputs,
        outputs,
        (weight.shape[2], weight.shape[3]),
        padding=padding,
        stride=stride,
        groups=groups,
        bias=bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    made.weight.data.copy_(weight)
    if bias is not None:
        assert made.bias is not None
        made.bias.data.copy_(bias)
    return made


def scaled(conv: nn.Conv2d, *, before: float = 1, after: float | Tensor = 1) -> nn.Conv2d:
    """``conv`` of its input times ``before``, and that times ``after``."""
    bias = None if conv.bias is None else conv.bias * after
    padding = int(conv.padding[0])
    return make_conv(conv.weight * (before * after), bias, padding=padding, stride=conv.stride[0])


def of_nearest(conv: nn.Conv2d, factor: int) -> nn.Conv2d:
    """A 3x3 ``conv`` of a map enlarged ``factor`` times by nearest neighbour, on the small map.

    An output pixel sees at most two small pixels along an axis, each by the sum of one to three
    taps. So this is a 2x2 convolution with padding 1, and ``factor**2`` times as many channels:
    ``spread`` makes of its result, (H + 1, W + 1), the large map with one row and column more on
    the first sides and ``factor - 1`` on the last. Beyond the border the small map is zero, and so
    is the large one. For x2 it takes 16 products instead of 36, for x3 36 instead of 81.
    """
    outputs, inputs = conv.weight.shape[:2]
    weight = conv.weight.new_zeros(factor, factor, outputs, inputs, 2, 2)
    for row in range(factor):
        for column in range(factor):
            for i in range(3):
                for j in range(3):
                    # Output row ``factor * r + row - 1`` has its tap i on small row r - 1 or r.
                    place = int(row + i >= 2), int(column + j >= 2)
                    weight[row, column, :, :, place[0], place[1]] += conv.weight[:, :, i, j]
    assert conv.bias is not None
    return make_conv(weight.flatten(0, 2), conv.bias.repeat(factor**2), padding=1)


def in_blocks(conv: nn.Conv2d, factor: int) -> nn.Conv2d:
    """``conv`` (stride 1, odd kernel) for ``factor**2`` output pixels at once; see ``spread``.

    It multiplies by zeros too, but a convolution with three outputs leaves most of a vector
    register empty, and this one does not.
    """
    outputs, inputs, kernel, _ = conv.weight.shape
    edge = kernel + factor - 1
    weight = conv.weight.new_zeros(factor, factor, outputs, inputs, edge, edge)
    for row in range(factor):
        for column in range(factor):
            weight[row, column, :, :, row : row + kernel, column : column + kernel] = conv.weight
    assert conv.bias is not None
    bias = conv.bias.repeat(factor**2)
    return make_conv(weight.flatten(0, 2), bias, padding=kernel // 2, stride=factor)


def for_spread(conv: nn.Conv2d, factor: int) -> nn.Conv2d:
    """``conv`` with its channels in the order of ``spread`` instead of ``pixel_shuffle``'s."""

    order = torch.arange(conv.out_channels).view(-1, factor**2).T.flatten()
    assert conv.bias is not None
    return make_conv(conv.weight[order], conv.bias[order], padding=int(conv.padding[0]))


def spread(x: Tensor, factor: int) -> Tensor:
    """Blocks to pixels: (B, factor**2 * C, H, W) -> (B, C, H * factor, W * factor), a copy.

    Channels are (row, column, C) of a block, while ``pixel_shuffle`` takes (C, row, column): so
    the pixels of a row lie together, which is faster to copy where channels are last.
    """
    batch, channels, height, width = x.shape
    depth = channels // factor**2
    x = x.permute(0, 2, 3, 1).reshape(batch, height, width, factor, factor * depth)
    x = x.transpose(2, 3).reshape(batch, height * factor, width * factor, depth)
    return x.permute(0, 3, 1, 2)


def as_pixels(x: Tensor, factor: int) -> Tensor:
    """The pixels of ``spread`` in another order, without a copy: (B, C, H, W * factor**2).

    For what treats every pixel alike. ``as_blocks`` undoes it.
    """
    batch, channels, height, width = x.shape
    x = x.permute(0, 2, 3, 1).reshape(batch, height, width * factor**2, channels // factor**2)
    return x.permute(0, 3, 1, 2)


def as_blocks(x: Tensor, factor: int) -> Tensor:
    """The inverse of ``as_pixels``."""
    batch, channels, height, width = x.shape
    x = x.permute(0, 2, 3, 1).reshape(batch, height, width // factor**2, channels * factor**2)
    return x.permute(0, 3, 1, 2)


def clear_border(x: Tensor) -> Tensor:
    """``x`` with its outermost rows and columns set to zero, in place."""
    for dim in (-2, -1):
        x.select(dim, 0).zero_()
        x.select(dim, -1).zero_()
    return x


def in_strips(
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    scale: int,
    halo: int,
) -> Iterator[tuple[slice, Tensor]]:
    """``run(x)``, ``scale`` times as large, on CPUs a strip at a time: its rows, and what they are.

    A small strip's feature maps stay in the cache, and the memory for them is used again instead of
    given back to the system. ``halo`` is how many rows of ``x`` a row of the result looks beyond
    its own on each side.
    """
    for rows in strips_of(x, 4 * halo):
        start = max(rows.start - halo, 0)
        result = run(x[:, :, start : rows.stop + halo])
        kept = slice((rows.start - start) * scale, (rows.stop - start) * scale)
        yield slice(rows.start * scale, rows.stop * scale), result[:, :, kept]


def strips_of(x: Tensor, least: int = 1, grid: int = 1) -> Iterator[slice]:
    """The rows of ``x`` in strips of at least so many, on a grid; in one if it is not on a CPU."""
    height, width = x.shape[-2:]
    rows = max(STRIP_PIXELS // width // grid * grid, least) if x.device.type == "cpu" else height
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def kernel_of(
    run: Callable[[Tensor], Tensor], inputs: int, scale: int, reach: int
) -> tuple[Tensor, Tensor]:
    """The one convolution that linear layers ``run`` amount to away from borders.

    Found by what they make of a dot in each channel.

    Args:
        run: (B, inputs, H, W) -> (B, C, H * scale, W * scale), float64.
        inputs: its input channels.
        scale: how many times larger its result is.
        reach: how many input pixels a block of ``scale`` x ``scale`` output pixels looks beyond
            its own on each side.

    Returns:
        Weight (scale**2 * C, inputs, 2 * reach + 1, 2 * reach + 1) and bias, float64, for
        ``spread``.
    """
    # The blocks that see the dot do not see the border.
    size, middle = 4 * reach + 1, 2 * reach
    dots = torch.zeros(inputs + 1, inputs, size, size, dtype=torch.float64)
    channels = torch.arange(inputs)
    dots[channels, channels, middle, middle] = 1
    blocks = run(dots).reshape(inputs + 1, -1, size, scale, size, scale)
    blocks = blocks[:, :, reach : size - reach, :, reach : size - reach, :]
    # (inputs + 1, C, place, row, place, column); the last input has no dot.
    still = blocks[-1:]
    # A block that lies before the dot has it at a tap after its middle.
    weight = (blocks[:-1] - still).flip(2, 4).permute(3, 5, 1, 0, 2, 4).flatten(0, 2)
    return weight, still[0, :, 0, :, 0].permute(1, 2, 0).flatten()


class Bilinear(nn.Module):
    """``layers.bilinear``, for x2 and x4 as a convolution of the image with its edges repeated.

    PyTorch's own takes three times as long where channels are last (CPU, x4). Of x3 the places of
    its pixels are rounded in float32, the further from the corner the more.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv: nn.Conv2d | None = None
        if scale in (2, 4):
            weight, _ = kernel_of(lambda lr: bilinear(lr, scale), 3, scale, 1)
            self.conv = make_conv(weight.float(), None)

    def forward(self, lr: Tensor) -> Tensor:
        if self.conv is None:
            return bilinear(lr, self.scale)
        with torch.autocast(lr.device.type, enabled=False):
            blocks = self.conv(F.pad(lr, (1, 1, 1, 1), mode="replicate"))
        return spread(blocks, self.scale)
