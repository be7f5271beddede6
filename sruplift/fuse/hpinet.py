"""HPINet for inference: sums in place, its last maps in sub-pixel blocks.

One projection for query, key and value at once was tried: what it saves is less than the copies
cost that make its parts contiguous.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.fuse.rewrites import (
    Bilinear,
    for_spread,
    in_blocks,
    in_strips,
    members,
    spread,
)
from sruplift.models.hpinet import (
    CACHED_WEIGHTS,
    NEGATIVE_SLOPE,
    Attention,
    HPINet,
    PatchGrid,
    PixelIntegration,
    divide,
    put_together,
)
from sruplift.models.layers import Frame, SuperResolver, stage_factors

# The last stage's convolution and the network's own look so many LR pixels far, at most.
HALO = 2
# Of so many pixels the features stay in the cache from one layer to the next.
CACHED_PIXELS = 8192


class FusedAttention(nn.Module):
    """``Attention`` whose softmax is an exponential and a division.

    softmax(q k) v = (exp(q k - c) v) / (exp(q k - c) 1) for any c that a query has of its own. With
    c = |q| max |k| no exponent is above zero. That c is one more feature of the queries, times
    minus one of the keys, and 1 one more of the values, so the products do all of it.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.norm = attention.norm
        width = attention.query.out_features
        self.query = _one_more(attention.query, width**-0.5, 0)
        self.key = _one_more(attention.key, 1, 1)
        self.value = _one_more(attention.value, 1, 1)
        # For ``programs``; in a tuple, so that it is no part of the network.
        self.made_of = (attention,)

    def forward(self, tokens: Tensor, others: Tensor | None) -> Tensor:
        own = self.norm(tokens)
        source = own if others is None else others
        query, key, value = self.query(own), self.key(source), self.value(source)
        # Of the keys it is the length with the 1: a little more than need be.
        longest = torch.linalg.vector_norm(key, dim=-1).amax(-1, keepdim=True)
        query[..., -1] = torch.linalg.vector_norm(query, dim=-1).mul_(longest).neg_()
        return attend(query, key, value).add_(tokens)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The values' means by exp(query key^T), whose sums are the last value: (B, P, N, C - 1).

    Where all of a query's weights are too small for the format, as softmax has them.
    """
    patches = max(CACHED_WEIGHTS // (query.shape[-2] * key.shape[-2]), 1)
    factors = (torch.split(x.flatten(0, 1), patches) for x in (query, key, value))
    parts = []
    for q, k, v in zip(*factors, strict=True):
        total = (q @ k.mT).exp_() @ v
        if not bool((total[..., -1] > 0).all()):
            total = (q @ k.mT).softmax(-1) @ v
        parts.append(total[..., :-1] / total[..., -1:])
    return torch.cat(parts).view(*value.shape[:-1], value.shape[-1] - 1)


def _one_more(linear: nn.Linear, scale: float, last: float) -> nn.Linear:
    """``linear`` times ``scale``, and a feature that is always ``last``."""
    shape = linear.in_features, linear.out_features + 1
    made = nn.Linear(*shape, bias=last != 0, dtype=linear.weight.dtype)
    made.weight.zero_()
    made.weight[:-1] = linear.weight * scale
    if last != 0:
        made.bias.zero_()
        made.bias[-1] = last
    return made


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
        patches = max(CACHED_PIXELS // tokens.shape[2], 1)
        parts = (torch.split(each, patches, dim=1) for each in (tokens, self.match(tokens)))
        for part, others in zip(*parts, strict=True):
            part.copy_(self._integrate(part, others))
        return self.conv(put_together(tokens, rows, columns)).add_(x)

    def _integrate(self, tokens: Tensor, others: Tensor | None) -> Tensor:
        for attend_to, feed_forward in zip(self.attentions, self.feed_forwards, strict=True):
            tokens = feed_forward(attend_to(tokens, others))
            others = None
        return tokens


class FusedHPINet(SuperResolver):
    """``HPINet`` for inference."""

    def __init__(self, net: HPINet) -> None:
        super().__init__()
        self.scale, self.needs = net.scale, net.needs
        self.head = net.head
        self.bilinear = Bilinear(net.scale)
        self.blocks = nn.ModuleList(
            FusedPixelIntegration(block) for block in members(net.blocks, PixelIntegration)
        )
        self.factors = stage_factors(net.scale)
        widen = zip(members(net.upsample, nn.Conv2d), self.factors, strict=True)
        self.widen = nn.Sequential(*(for_spread(conv, factor) for conv, factor in widen))
        self.last = in_blocks(net.last, self.factors[-1])
        # For ``programs``; in a tuple, so that it is no part of the network.
        self.made_of = (net.last,)

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        x = self.head(lr)
        for block in self.blocks:
            x = block(x, frame)
        for stage in range(len(self.factors) - 1):
            x = self._widen(x, stage)
        sr = self.bilinear(lr)
        for rows, strip in in_strips(self._finish, x, scale=self.factors[-1], halo=HALO):
            sr[:, :, rows] += strip
        return sr

    def _widen(self, x: Tensor, stage: int) -> Tensor:
        x = spread(self.widen[stage](x), self.factors[stage])
        return F.leaky_relu_(x, NEGATIVE_SLOPE)

    def _finish(self, x: Tensor) -> Tensor:
        return spread(self.last(self._widen(x, -1)), self.factors[-1])
