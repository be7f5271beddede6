"""PAN for inference: its tail on the small map and in strips, products in place.

What was tried and bought nothing (bf16, one core with AVX-512): one convolution for the two 1x1
that split a block's input, whose halves must then be copied apart; channels padded to 24 or 32;
oneDNN's convolutions with an activation or a product attached; weights kept in bf16; blocks in
strips of 24 to 90 rows, as the tail is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.fuse.rewrites import (
    Bilinear,
    as_blocks,
    as_pixels,
    clear_border,
    in_blocks,
    in_strips,
    make_conv,
    members,
    of_nearest,
    spread,
)
from sruplift.models.layers import Frame, SuperResolver, UpsamplingStage
from sruplift.models.pan import PAN, SCPA

# A stage's three convolutions, the last one's with the network's own, look two LR pixels far.
HALO = 2


def leaky_(x: Tensor) -> Tensor:
    """``layers.leaky`` in place."""
    return F.leaky_relu_(x, 0.2)


class FusedStage(nn.Module):
    """``UpsamplingStage``: what comes before ``refine`` is computed on the small map."""

    def __init__(self, stage: UpsamplingStage) -> None:
        super().__init__()
        self.scale = stage.scale
        self.conv = of_nearest(stage.conv, stage.scale)
        self.gate = stage.attention.gate
        self.refine = make_conv(stage.refine.weight, stage.refine.bias)

    def forward(self, x: Tensor) -> Tensor:
        height, width = (size * self.scale for size in x.shape[-2:])
        x = as_pixels(self.conv(x), self.scale)
        x = leaky_(x.mul_(self.gate(x).sigmoid_()))
        x = spread(as_blocks(x, self.scale), self.scale)
        # One row and column around the map, which ``refine`` needs as its padding.
        x = clear_border(x[..., : height + 2, : width + 2])
        return leaky_(self.refine(x))


class FusedTail(nn.Module):
    """Upsampling stages and the last convolution."""

    def __init__(self, stages: nn.Sequential, last: nn.Conv2d) -> None:
        super().__init__()
        *early, final = (FusedStage(stage) for stage in members(stages, UpsamplingStage))
        self.early, self.final = nn.ModuleList(early), final
        self.last = in_blocks(last, final.scale)
        # For ``programs``; in a tuple, so that it is no part of the network.
        self.made_of = (stages, last)

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        """The result for ``x`` (B, C, H, W) is added to ``base``, in place."""
        for stage in members(self.early, FusedStage):
            strips = in_strips(stage, x, scale=stage.scale, halo=HALO)
            x = torch.cat([strip for _, strip in strips], dim=2)
        for rows, strip in in_strips(self._finish, x, scale=self.final.scale, halo=HALO):
            base[:, :, rows] += strip
        return base

    def _finish(self, x: Tensor) -> Tensor:
        return spread(self.last(self.final(x)), self.final.scale)


class FusedSCPA(nn.Module):
    """``SCPA``, activations and products in place."""

    def __init__(self, block: SCPA) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        block, attention = self.block, self.block.attention
        plain = block.plain(leaky_(block.reduce_plain(x)))
        attended = leaky_(block.reduce_attention(x))
        gate = attention.gate(attended).sigmoid_()
        attended = attention.project(attention.features(attended).mul_(gate))
        return block.fuse(leaky_(torch.cat([plain, attended], dim=1))).add_(x)


class FusedPAN(SuperResolver):
    """``PAN`` for inference."""

    def __init__(self, net: PAN) -> None:
        super().__init__()
        self.scale, self.needs = net.scale, net.needs
        self.head = net.head
        self.bilinear = Bilinear(net.scale)
        self.blocks = nn.Sequential(*(FusedSCPA(block) for block in members(net.blocks, SCPA)))
        self.trunk_end = net.trunk_end
        self.tail = FusedTail(net.upsample, net.last)

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        shallow = self.head(lr)
        deep = self.trunk_end(self.blocks(shallow)).add_(shallow)
        return self.tail(deep, self.bilinear(lr))
