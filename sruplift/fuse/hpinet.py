"""HPINet for inference: sums in place, its last maps in sub-pixel blocks.

One projection for query, key and value at once was tried: what it saves is less than the copies
cost that make its parts contiguous.
"""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.fuse.rewrites import for_spread, in_blocks, members, spread
from sruplift.models.hpinet import (
    NEGATIVE_SLOPE,
    Attention,
    HPINet,
    PatchGrid,
    PixelIntegration,
    divide,
    put_together,
    scaled_dot_product,
)
from sruplift.models.layers import Frame, SuperResolver, bilinear, stage_factors


class FusedAttention(nn.Module):
    """``Attention`` with its scale in the queries' weights."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.norm, self.key, self.value = attention.norm, attention.key, attention.value
        self.query = copy.deepcopy(attention.query)
        self.query.weight.mul_(self.query.out_features**-0.5)

    def forward(self, tokens: Tensor, others: Tensor | None) -> Tensor:
        own = self.norm(tokens)
        source = own if others is None else others
        query, key, value = self.query(own), self.key(source), self.value(source)
        return scaled_dot_product(query, key, value).add_(tokens)


class FusedPixelIntegration(nn.Module):
    """``PixelIntegration``."""

    def __init__(self, block: PixelIntegration) -> None:
        super().__init__()
        self.patch_size, self.match, self.conv = block.patch_size, block.match, block.conv
        self.feed_forwards = block.feed_forwards
        self.attentions = nn.ModuleList(
            FusedAttention(attention) for attention in members(block.attentions, Attention)
        )

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        rows = PatchGrid(x.shape[-2], self.patch_size, frame.top, frame.height)
        columns = PatchGrid(x.shape[-1], self.patch_size, frame.left, frame.width)
        tokens = divide(x, rows, columns)
        others: Tensor | None = self.match(tokens)
        for attend, feed_forward in zip(self.attentions, self.feed_forwards, strict=True):
            tokens = feed_forward(attend(tokens, others))
            others = None
        return self.conv(put_together(tokens, rows, columns)).add_(x)


class FusedHPINet(SuperResolver):
    """``HPINet`` for inference."""

    def __init__(self, net: HPINet) -> None:
        super().__init__()
        self.scale, self.needs = net.scale, net.needs
        self.head = net.head
        self.blocks = nn.ModuleList(
            FusedPixelIntegration(block) for block in members(net.blocks, PixelIntegration)
        )
        self.factors = stage_factors(net.scale)
        widen = zip(members(net.upsample, nn.Conv2d), self.factors, strict=True)
        self.widen = nn.ModuleList(for_spread(conv, factor) for conv, factor in widen)
        self.last = in_blocks(net.last, self.factors[-1])

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        x = self.head(lr)
        for block in self.blocks:
            x = block(x, frame)
        for widen, factor in zip(self.widen, self.factors, strict=True):
            x = F.leaky_relu_(spread(widen(x), factor), NEGATIVE_SLOPE)
        return bilinear(lr, self.scale).add_(spread(self.last(x), self.factors[-1]))
