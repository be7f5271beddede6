"""SRRAM for inference: the tail, which is linear, as one convolution.

It holds where the tail's maps do not end, so a border of one LR pixel is computed as before. The
image in the first channels, where a network has it there, does not go through half precision.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.fuse.rewrites import (
    for_spread,
    kernel_of,
    make_conv,
    members,
    scaled,
    spread,
    strips_of,
)
from sruplift.models.layers import (
    BLOCK,
    Frame,
    SuperResolver,
    block_means,
    blocks_around,
    stage_factors,
)
from sruplift.models.srram import IMAGE_UNIT, RGB_RANGE, SRRAM, ResidualAttention

# LR pixels that an output pixel depends on beyond its own, through all of the tail.
REACH = 2


class FusedTail(nn.Module):
    """Every convolution of the tail, (B, C, H, W) -> (B, 3, H * scale, W * scale)."""

    def __init__(self, net: SRRAM) -> None:
        super().__init__()
        self.scale, self.factors = net.scale, stage_factors(net.scale)
        widen = zip(members(net.upsample, nn.Conv2d), self.factors, strict=True)
        self.widen = nn.ModuleList(for_spread(conv, factor) for conv, factor in widen)
        self.last = scaled(net.last, after=1 / RGB_RANGE)
        exact = copy.deepcopy(self).double()
        weight, bias = kernel_of(exact.stepwise, self.last.in_channels, self.scale, REACH)
        self.image: nn.Conv2d | None = None
        if net.holds_the_image:
            of_colours = weight[:, :3] * (RGB_RANGE / IMAGE_UNIT)
            self.image = make_conv(of_colours.float(), None, padding=REACH)
            weight[:, :3] = 0
        self.whole = make_conv(weight.float(), bias.float(), padding=REACH)

    def stepwise(self, x: Tensor) -> Tensor:
        """The tail as it was trained."""
        for widen, factor in zip(self.widen, self.factors, strict=True):
            x = spread(widen(x), factor)
        return self.last(x)

    def forward(self, x: Tensor, colours: Tensor) -> Tensor:
        """The result for features ``x`` of the image ``colours``, in float32, less its mean."""
        sides = 1 + REACH
        if min(x.shape[-2:]) < 2 * sides:
            return self.stepwise(x)
        result, edge = spread(self.whole(x), self.scale), self.scale
        if self.image is not None:
            with torch.autocast(colours.device.type, enabled=False):
                result = spread(self.image(colours), self.scale).add_(result)
        result[..., :edge, :] = self.stepwise(x[..., :sides, :])[..., :edge, :]
        result[..., -edge:, :] = self.stepwise(x[..., -sides:, :])[..., -edge:, :]
        result[..., :edge] = self.stepwise(x[..., :sides])[..., :edge]
        result[..., -edge:] = self.stepwise(x[..., -sides:])[..., -edge:]
        return result


class FusedResidualAttention(nn.Module):
    """``ResidualAttention``, activations, sums and products in place."""

    def __init__(self, block: ResidualAttention) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, window: int | None) -> Tensor:
        block = self.block
        return self.attend(block.conv2(F.relu_(block.conv1(x))), x, window)

    def attend(self, features: Tensor, x: Tensor, window: int | None) -> Tensor:
        """``x`` and the features that the block made of it, gated."""
        block = self.block
        channel = block.for_channels(_variance(features, window), window, x.shape[-2:])
        return block.depthwise(features).add_(channel).sigmoid_().mul_(features).add_(x)


class FusedSRRAM(SuperResolver):
    """``SRRAM`` for inference. The range of 0 to 255 is in the first and last weights."""

    mean: Tensor

    def __init__(self, net: SRRAM) -> None:
        super().__init__()
        self.scale, self.needs, self.window = net.scale, net.needs, net.window
        # The mean colour stays out of the bias: zero padding comes after it.
        self.register_buffer("mean", net.mean, persistent=False)
        self.head = scaled(net.head, before=RGB_RANGE)
        blocks = members(net.blocks, ResidualAttention)
        self.blocks = nn.ModuleList(FusedResidualAttention(block) for block in blocks)
        self.trunk_end = net.trunk_end
        self.tail = FusedTail(net)

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        colours = lr - self.mean
        shallow = deep = self.head(colours)
        for block in self.blocks:
            deep = block(deep, self.window)
        deep = self.trunk_end(deep).add_(shallow)
        return torch.add(self.mean, self.tail(deep, colours).float())


def _variance(x: Tensor, window: int | None) -> Tensor:
    """As ``models.srram`` has it, in strips: in float32 a whole map does not stay in the cache."""
    if window is None:
        strips = [x[:, :, rows] for rows in strips_of(x)]
        area = x.shape[-2] * x.shape[-1]
        sums = [strip.float().sum((2, 3), keepdim=True) for strip in strips]
        mean = torch.stack(sums).sum(0) / area
        sums = [(strip - mean).square_().sum((2, 3), keepdim=True) for strip in strips]
        return torch.stack(sums).sum(0) / area
    blocks = []
    for rows in strips_of(x, BLOCK, BLOCK):
        strip = x[:, :, rows].to(torch.float32, copy=True)
        means = block_means(strip)
        blocks.append(torch.cat([means, block_means(strip.square_())], dim=1))
    both = blocks_around(torch.cat(blocks, dim=2), x.shape[-2:], window)
    mean, mean_square = both.chunk(2, dim=1)
    return (mean_square - mean.square()).clamp_(0)
