"""MAFFSRN for inference: weight normalisation and scalars in the weights, linear chains in one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.fuse.rewrites import for_spread, kernel_of, make_conv, members, spread, strips_of
from sruplift.models.layers import Frame, SuperResolver
from sruplift.models.maffsrn import (
    MAFFSRN,
    NEGATIVE_SLOPE,
    POOL_STRIDE,
    POOL_WINDOW,
    FeatureFusionGroup,
    MultiAttentionBlock,
    WeightNormConv,
    enlarge_bicubic,
    stretched,
)

# LR pixels that an enlarged one is made of, beyond its own, by bicubic interpolation.
BICUBIC_REACH = 2


class FusedBlock(nn.Module):
    """``MultiAttentionBlock``, activations, sums and products in place."""

    def __init__(self, block: MultiAttentionBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        block = self.block
        x = block.second(_activate_(block.first(x)))
        reduced = block.reduce(x)
        far = block.increase(reduced.add_(self.wide(reduced, x, frame))).relu_().sigmoid_()
        near = block.near_depthwise(block.near(x)).sigmoid_()
        return far.mul_(x).mul_(near)

    def wide(self, reduced: Tensor, x: Tensor, frame: Frame) -> Tensor:
        """What few pixels say of their surroundings, (B, C, H, W) as ``reduced``."""
        block = self.block
        pooled = F.max_pool2d(block.shrink(reduced), POOL_WINDOW, POOL_STRIDE)
        wide = _activate_(block.dilated(pooled)).add_(_activate_(block.plain(pooled)))
        rows, columns = stretched(wide, x, frame)
        # Channels stay last only where they are the last dimension.
        wide = wide.permute(0, 2, 3, 1).index_select(1, rows).index_select(2, columns)
        return wide.permute(0, 3, 1, 2)


class FusedGroup(nn.Module):
    """``FeatureFusionGroup``: the blocks' results go through one convolution instead of three.

    The three are linear, each on the one before and on a block's result, channels in turn.
    """

    def __init__(self, group: FeatureFusionGroup) -> None:
        super().__init__()
        blocks = members(group.blocks, MultiAttentionBlock)
        self.blocks = nn.ModuleList(FusedBlock(block) for block in blocks)
        first, *others = members(group.fuse, WeightNormConv)
        weight, bias = _in_turn(first).flatten(1), first.bias.double()
        for fuse in others:
            so_far, added = _in_turn(fuse).unbind(1)
            weight = torch.cat([so_far @ weight, added], dim=1)
            bias = so_far @ bias + fuse.bias.double()
        scale = group.result_scale.scale.double()
        self.fuse = make_conv((weight * scale)[:, :, None, None].float(), (bias * scale).float())
        self.skip_scale = float(group.skip_scale.scale)

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        first = self.blocks[0](x, frame)
        second = self.blocks[1](first, frame).add_(first)
        third = self.blocks[2](second, frame).add_(second)
        fourth = self.blocks[3](third, frame)
        # In strips, since four maps in one would not stay in the cache.
        result = torch.empty_like(x)
        for rows in strips_of(x):
            parts = [part[:, :, rows] for part in (first, second, third, fourth)]
            together = self.fuse(torch.cat(parts, dim=1))
            torch.add(together, x[:, :, rows], alpha=self.skip_scale, out=result[:, :, rows])
        return result


class FusedMAFFSRN(SuperResolver):
    """``MAFFSRN`` for inference: one last convolution, and one that enlarges the image."""

    def __init__(self, net: MAFFSRN) -> None:
        super().__init__()
        self.scale, self.needs = net.scale, net.needs
        self.head = make_conv(net.head.weight, net.head.bias, padding=1)
        self.groups = nn.ModuleList(
            FusedGroup(group) for group in members(net.groups, FeatureFusionGroup)
        )
        self.tail = for_spread(_tail(net), net.scale)
        # The places of thirds are rounded in float32, the further from the corner the more.
        self.bicubic = None if net.scale == 3 else _bicubic(net.scale)

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        x = self.head(lr).float()  # in half precision too, groups add up in float32
        for group in self.groups:
            x = group(x, frame)
        detail = self.tail(x)
        if self.bicubic is None:
            return enlarge_bicubic(lr, self.scale).add_(spread(detail, self.scale))
        with torch.autocast(lr.device.type, enabled=False):
            base = self.bicubic(F.pad(lr, (BICUBIC_REACH,) * 4, mode="replicate"))
        return spread(base.add_(detail), self.scale)


def _activate_(x: Tensor) -> Tensor:
    return F.leaky_relu_(x, NEGATIVE_SLOPE)


def _in_turn(fuse: WeightNormConv) -> Tensor:
    """Its matrix (outputs, 2, inputs / 2), float64, for two maps whose channels come in turn."""
    matrix = fuse.weight.flatten(1).double()
    return torch.stack([matrix[:, 0::2], matrix[:, 1::2]], dim=1)


def _tail(net: MAFFSRN) -> nn.Conv2d:
    """Both last convolutions as one of 5x5."""
    fine, coarse = net.tail3, net.tail5
    weight = F.pad(fine.weight * net.scale3.scale, (1, 1, 1, 1)) + coarse.weight * net.scale5.scale
    bias = fine.bias * net.scale3.scale + coarse.bias * net.scale5.scale
    return make_conv(weight, bias, padding=2)


def _bicubic(scale: int) -> nn.Conv2d:
    """Bicubic interpolation as a convolution, for ``spread``, of an image with edges repeated."""
    weight, _ = kernel_of(lambda lr: enlarge_bicubic(lr, scale), 3, scale, BICUBIC_REACH)
    return make_conv(weight.float(), None)
