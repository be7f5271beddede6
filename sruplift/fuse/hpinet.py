"""HPINet for inference: one projection into an attention, its last maps in sub-pixel blocks."""

from __future__ import annotations

import torch
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


def _make_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight.data.copy_(weight)
    if bias is not None:
        made.bias.data.copy_(bias)
    return made


class FusedAttention(nn.Module):
    """``Attention`` of a patch's pixels on their own, or ``across``, on another patch's."""

    def __init__(self, attention: Attention, *, across: bool) -> None:
        super().__init__()
        self.norm = attention.norm
        query, key, value = attention.query.weight, attention.key.weight, attention.value.weight
        self.scale = query.shape[0] ** -0.5
        self.widths = [len(query), len(key), len(value)]
        self.query = _make_linear(query, None) if across else None
        self.project = _make_linear(
            torch.cat([key, value] if across else [query, key, value]), None
        )

    def forward(self, tokens: Tensor, others: Tensor | None) -> Tensor:
        own = self.norm(tokens)
        if self.query is None:
            query, key, value = self.project(own).split(self.widths, dim=-1)
        else:
            query = self.query(own)
            key, value = self.project(others).split(self.widths[1:], dim=-1)
        return scaled_dot_product(query, key, value, self.scale).add_(tokens)


class FusedPixelIntegration(nn.Module):
    """``PixelIntegration``."""

    def __init__(self, block: PixelIntegration) -> None:
        super().__init__()
        self.patch_size, self.match, self.conv = block.patch_size, block.match, block.conv
        self.feed_forwards = block.feed_forwards
        self.attentions = nn.ModuleList(
            FusedAttention(attention, across=number == 0)
            for number, attention in enumerate(members(block.attentions, Attention))
        )

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        rows = PatchGrid(x.shape[-2], self.patch_size, frame.top, frame.height)
        columns = PatchGrid(x.shape[-1], self.patch_size, frame.left, frame.width)
        tokens = divide(x, rows, columns)
        others = self.match(tokens)
        for attend, feed_forward in zip(self.attentions, self.feed_forwards, strict=True):
            tokens = feed_forward(attend(tokens, others))
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
