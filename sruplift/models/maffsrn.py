"""MAFFSRN: Ultra Lightweight Image Super-Resolution with Multi-Attention Layers (Muqeet et al.,
ECCV Workshops 2020).

Implements the network of the authors' released code (AbdulMoqeet/MAFFSRN). It departs from the
paper's text: the pooling of stride 3 follows a convolution of stride 2, a block's scalars begin at
1 (the text says 0.5), a ReLU precedes the sigmoid of the first attention, and the first and last
block of a group have no skip connection. Every scale is reached in one pixel shuffle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.models.layers import (
    FEATURE_UNIT,
    Frame,
    InputNeeds,
    SuperResolver,
    conv,
    start_with_large_features,
)

NEGATIVE_SLOPE = 0.05
# The pooling of the far attention: window and stride on a map of half size, so of 6 pixels.
POOL_WINDOW, POOL_STRIDE = 7, 3
PERIOD = 2 * POOL_STRIDE
NUM_BLOCKS = 4
REDUCTION = 4
# These parameters, and training's steps of them, are so many times as large as without the unit.
SIZES = {
    "head.weight_g": FEATURE_UNIT,
    "head.bias": FEATURE_UNIT,
    "tail3.weight_g": 1 / FEATURE_UNIT,
    "tail3.bias": 1 / FEATURE_UNIT,
    "tail5.weight_g": 1 / FEATURE_UNIT,
    "tail5.bias": 1 / FEATURE_UNIT,
}
# The lengths of the head's kernels, which are 0.6 at random, and 64 times that here.
LARGE = 6.0


@dataclass(frozen=True)
class MAFFSRNConfig:
    """Sizes of a MAFFSRN. The paper's network is the default; MAFFSRN-L has 8 groups."""

    scale: int = 4
    num_features: int = 32
    num_groups: int = 4


class WeightNormConv(nn.Module):
    """A convolution whose kernels are directions ``weight_v`` and lengths ``weight_g``."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        made = conv(in_channels, out_channels, kernel_size)
        assert made.bias is not None
        self.weight_v = nn.Parameter(made.weight.detach().clone())
        self.weight_g = nn.Parameter(self._length().detach().clone())
        self.bias = nn.Parameter(made.bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """The kernels themselves."""
        return self.weight_v * (self.weight_g / self._length())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding="same")

    def _length(self) -> Tensor:
        return self.weight_v.square().sum((1, 2, 3), keepdim=True).sqrt()


class Scale(nn.Module):
    """A learned number."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([start]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class MultiAttentionBlock(nn.Module):
    """MAB (figure 3): two convolutions, then an attention from afar and one from nearby."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        few = num_features // REDUCTION
        self.first = conv(num_features, num_features, 3)
        self.second = conv(num_features, num_features, 3)
        self.reduce = conv(num_features, few, 1)
        self.shrink = nn.Conv2d(few, few, 3, stride=2, padding=1)
        self.dilated = nn.Conv2d(few, few, 3, padding=2, dilation=2)
        self.plain = conv(few, few, 3)
        self.increase = conv(few, num_features, 1)
        self.near = conv(num_features, num_features, 1)
        self.near_depthwise = nn.Conv2d(
            num_features, num_features, 5, padding=2, groups=num_features
        )

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        x = self.second(_activate(self.first(x)))
        return self._from_afar(x, frame) * x * self._from_nearby(x)

    def _from_afar(self, x: Tensor, frame: Frame) -> Tensor:
        reduced = self.reduce(x)
        pooled = F.max_pool2d(self.shrink(reduced), POOL_WINDOW, POOL_STRIDE)
        wide = _activate(self.dilated(pooled)) + _activate(self.plain(pooled))
        rows, columns = stretched(wide, x, frame)
        # Channels stay last only where they are the last dimension.
        wide = wide.permute(0, 2, 3, 1).index_select(1, rows).index_select(2, columns)
        wide = wide.permute(0, 3, 1, 2)
        # The sum has the first one's order, which is the image's.
        return torch.sigmoid(F.relu(self.increase(reduced + wide)))

    def _from_nearby(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.near_depthwise(self.near(x)))


class FeatureFusionGroup(nn.Module):
    """FFG (figure 2): four blocks, whose results are shuffled together one by one."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MultiAttentionBlock(num_features) for _ in range(NUM_BLOCKS))
        self.fuse = nn.ModuleList(
            WeightNormConv(2 * num_features, num_features, 1) for _ in range(NUM_BLOCKS - 1)
        )
        self.result_scale = Scale(1.0)
        self.skip_scale = Scale(1.0)

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        first = self.blocks[0](x, frame)
        second = self.blocks[1](first, frame) + first
        third = self.blocks[2](second, frame) + second
        fourth = self.blocks[3](third, frame)
        result = _fuse(self.fuse[0], first, second)
        result = _fuse(self.fuse[1], result, third)
        result = _fuse(self.fuse[2], result, fourth)
        return self.result_scale(result) + self.skip_scale(x)


class MAFFSRN(SuperResolver):
    """LR (B, 3, H, W) in [0, 1] -> SR (B, 3, H * scale, W * scale), RGB, not clamped.

    A block's far attention is pooled with a period of 6 pixels, from at least 13, and stretched to
    the image's size, whatever that is: a tile must know where in the image it lies.
    """

    def __init__(self, config: MAFFSRNConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        self.needs = InputNeeds(
            receptive_field=None, min_size=13, grid=PERIOD, memory=1.2, frame=True
        )
        features, output = config.num_features, 3 * config.scale**2
        self.head = WeightNormConv(3, features, 3)
        self.groups = nn.ModuleList(FeatureFusionGroup(features) for _ in range(config.num_groups))
        self.tail3 = WeightNormConv(features, output, 3)
        self.tail5 = WeightNormConv(features, output, 5)
        self.scale3 = Scale(0.5)
        self.scale5 = Scale(0.5)
        start_with_large_features(self, SIZES)

    @property
    def step_sizes(self) -> Mapping[str, float]:
        """Of weights that began with large features; the authors' and our first ones did not."""
        return SIZES if float(self.head.weight_g.detach().mean()) > LARGE else {}

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        x = self.head(lr)
        for group in self.groups:
            x = group(x, frame)
        fine = F.pixel_shuffle(self.scale3(self.tail3(x)), self.scale)
        coarse = F.pixel_shuffle(self.scale5(self.tail5(x)), self.scale)
        return fine + coarse + enlarge_bicubic(lr, self.scale)


def enlarge_bicubic(lr: Tensor, scale: int) -> Tensor:
    """The image that the network adds its result to."""
    return F.interpolate(lr, scale_factor=scale, mode="bicubic", align_corners=False)


def stretched(pooled: Tensor, x: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
    """For each row and each column of ``x`` the one of ``pooled`` that it takes.

    By nearest neighbour as for the image of ``frame``, whose part ``x`` is.
    """
    rows = _places(x.shape[-2], frame.top, frame.height, pooled.shape[-2], x.device)
    columns = _places(x.shape[-1], frame.left, frame.width, pooled.shape[-1], x.device)
    return rows, columns


def _places(size: int, start: int, length: int, pooled: int, device: torch.device) -> Tensor:
    """Of ``size`` pixels from ``start`` on, a multiple of the period, of an image's ``length``."""
    in_image = ((length + 1) // 2 - POOL_WINDOW) // POOL_STRIDE + 1
    ratio = torch.tensor(in_image / length, dtype=torch.float32, device=device)
    place = torch.arange(start, start + size, device=device, dtype=torch.float32)
    index = (place * ratio).floor().long().clamp(max=in_image - 1) - start // PERIOD
    return index.clamp(0, pooled - 1)


def _fuse(conv: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """``conv`` of the channels of two maps in turn: a0, b0, a1, b1, …

    Its kernels are put in order instead of the maps, whose channels stay last so, theirs and those
    of their gradients.
    """
    assert isinstance(conv, WeightNormConv | nn.Conv2d)  # the latter where it is exported
    weight = torch.cat([conv.weight[:, 0::2], conv.weight[:, 1::2]], dim=1)
    return F.conv2d(torch.cat([first, second], dim=1), weight, conv.bias)


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, NEGATIVE_SLOPE)
