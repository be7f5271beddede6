"""Blocks that two or more networks share, and what every network says of its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Edge of the blocks by which networks pool around a pixel, LR pixels. Tiles start at multiples.
BLOCK = 8


@dataclass(frozen=True)
class InputNeeds:
    """What a network demands of an image or a tile. Sizes are LR pixels.

    Attributes:
        receptive_field: how far it looks on each side. None: there is no bound, because it takes
            statistics of the whole image or matches over it, and a tile sees others than the image.
        min_size: the smallest side of an image that it can take.
        grid: tiles start at multiples of it.
        overlap: what neighbouring tiles should share where there is no ``receptive_field``, as
            measured by ``benchmarks/tiles.py``.
        window: edge of the square over which it should pool in use (its attribute ``window``).
        largest_tile: edge of the largest tile, for one whose cost grows faster than the image.
        memory: how many times as much memory a pixel takes as PAN's, at most.
        frame: whether it wants to know where in the image a tile lies (the argument ``frame``).
    """

    receptive_field: int | None
    min_size: int = 1
    grid: int = 1
    overlap: int | None = None
    window: int | None = None
    largest_tile: int | None = None
    memory: float = 1.0
    frame: bool = False


@dataclass(frozen=True)
class Frame:
    """Where a tile lies: its first pixel, and the size of the image. LR pixels."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def whole(cls, image: Tensor) -> Frame:
        """Of a tile that is the image."""
        return cls(0, 0, *image.shape[-2:])


class SuperResolver(nn.Module):
    """LR (B, 3, H, W) in [0, 1] -> SR (B, 3, H * scale, W * scale), RGB, not clamped; any size.

    A network implements ``enlarge``, which sees images of at least ``needs.min_size``: smaller
    ones are mirrored to it and the result is cropped. ``frame`` says of which image ``lr`` is a
    tile; without it, ``lr`` is the image.

    ``step_sizes``: of parameters with these names training takes steps so many times as large as of
    others, since they are factors of something large or small.
    """

    needs: InputNeeds
    scale: int

    @property
    def step_sizes(self) -> Mapping[str, float]:
        """By a parameter's name; of most networks none."""
        return {}

    def prepare_training(self) -> None:
        """Is called with the weights that training starts from."""

    def forward(self, lr: Tensor, frame: Frame | None = None) -> Tensor:
        height, width = lr.shape[-2:]
        least = self.needs.min_size
        frame = frame or Frame.whole(lr)
        if min(height, width) >= least:
            return self.enlarge(lr, frame)
        # Mirrored pixels are no part of any image; along the other side the tile has its place.
        top, rows = (frame.top, frame.height) if height >= least else (0, least)
        left, columns = (frame.left, frame.width) if width >= least else (0, least)
        lr = mirror(lr, max(height, least), max(width, least))
        sr = self.enlarge(lr, Frame(top, left, rows, columns))
        return sr[..., : height * self.scale, : width * self.scale]

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        """``forward`` for images that are large enough."""
        raise NotImplementedError


def mirror(image: Tensor, height: int, width: int) -> Tensor:
    """``image`` continued to the right and below by its mirror image, edge pixels repeated."""
    rows, columns = (
        torch.arange(target, device=image.device).remainder(2 * size)
        for target, size in zip((height, width), image.shape[-2:], strict=True)
    )
    rows = torch.minimum(rows, 2 * image.shape[-2] - 1 - rows)
    columns = torch.minimum(columns, 2 * image.shape[-1] - 1 - columns)
    return image[..., rows, :][..., columns]


# PAN's and MAFFSRN's features are so many times larger at a random start than the image in [0, 1]
# would make them. Else the gates' logits hardly vary, and training comes to depend on gates that
# are constant. A power of two, with which float16 holds the weights as well.
FEATURE_UNIT = 64.0


@torch.no_grad()
def start_with_large_features(network: nn.Module, sizes: Mapping[str, float]) -> None:
    """Multiply parameters, by their names: those that make features and those that read them."""
    for name, size in sizes.items():
        network.get_parameter(name).mul_(size)


def conv(in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = True) -> nn.Conv2d:
    """A stride-1 convolution that keeps the image's size (zero padding ``kernel_size // 2``)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)


class PixelAttention(nn.Module):
    """``x * sigmoid(conv1x1(x))``: a weight for each pixel of each channel (PAN, section 3.2)."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.gate = conv(num_features, num_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x))


class UpsamplingStage(nn.Module):
    """U-PA (PAN, figure 4): nearest neighbour, convolution, pixel attention, convolution."""

    def __init__(self, in_channels: int, out_channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = conv(in_channels, out_channels, 3)
        self.attention = PixelAttention(out_channels)
        self.refine = conv(out_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.interpolate(x, scale_factor=self.scale, mode="nearest"))
        return leaky(self.refine(leaky(self.attention(x))))


def upsampling_stages(in_channels: int, out_channels: int, scale: int) -> nn.Sequential:
    """PAN's tail: one stage for x2 and x3, two of x2 for x4."""
    factors = stage_factors(scale)
    widths = (in_channels, *(out_channels for _ in factors))
    pairs = zip(widths[:-1], widths[1:], factors, strict=True)
    return nn.Sequential(*(UpsamplingStage(wide, out, factor) for wide, out, factor in pairs))


def stage_factors(scale: int) -> tuple[int, ...]:
    """How networks that enlarge in stages reach ``scale``."""
    return (2, 2) if scale == 4 else (scale,)


def leaky(x: Tensor) -> Tensor:
    """The activation of PAN and of A2N, which was made from it."""
    return F.leaky_relu(x, 0.2)


def bilinear(lr: Tensor, scale: int) -> Tensor:
    """The image that PAN, A2N and HPINet add their result to."""
    return F.interpolate(lr, scale_factor=scale, mode="bilinear", align_corners=False)


def means(x: Tensor) -> Tensor:
    """Mean of each channel, (B, C, H, W) -> (B, C, 1, 1).

    ``x.mean((2, 3))`` with a gradient whose channels are last, as those of the maps in training
    are: sums of maps in two orders are several times slower on CPUs.
    """
    return x.permute(0, 2, 3, 1).mean((1, 2))[:, :, None, None]


def means_around(x: Tensor, window: int) -> Tensor:
    """Mean of each channel in a square around each block of pixels, float32.

    (B, C, H, W) -> (B, C, H / BLOCK, W / BLOCK), rounded up: the last blocks may be cut. The square
    is ``window`` pixels wide, an odd number of blocks. At the borders it is moved inward, and it
    is the image where that is smaller, so that every mean is over about equally many pixels.
    ``at_pixels`` makes maps of the image's size of what is computed from the means.

    A mean around every pixel, by running sums, takes longer than the networks' convolutions.
    """
    return blocks_around(block_means(x.float()), x.shape[-2:], window)


def block_means(x: Tensor) -> Tensor:
    """The mean of each block: (B, C, H, W) -> (B, C, H / BLOCK, W / BLOCK), rounded up."""
    return F.avg_pool2d(x, BLOCK, ceil_mode=True, count_include_pad=False)


def blocks_around(means: Tensor, size: tuple[int, int] | torch.Size, window: int) -> Tensor:
    """``means_around`` of an image of ``size``, of which the blocks' means are given."""
    counts = [block_sizes(length, means.device) for length in size]
    edges = [min(window // BLOCK, len(count)) for count in counts]
    area = counts[0][:, None] * counts[1]
    total = F.avg_pool2d(means * area, edges, stride=1)
    means = total / F.avg_pool2d(area[None, None], edges, stride=1)
    margins = ((edge // 2, edge - 1 - edge // 2) for edge in reversed(edges))
    return F.pad(means, [margin for pair in margins for margin in pair], mode="replicate")


def at_pixels(blocks: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Values of blocks, interpolated for the pixels of an image of ``size`` (height, width)."""
    x = F.interpolate(blocks, scale_factor=BLOCK, mode="bilinear", align_corners=False)
    return x[..., : size[0], : size[1]]


def block_sizes(length: int, device: torch.device | None = None) -> Tensor:
    """How many of an axis's pixels each of its blocks has, float32."""
    starts = torch.arange(0, length, BLOCK, device=device)
    return (length - starts).clamp(max=BLOCK).float()
