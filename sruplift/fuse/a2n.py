"""A2N for inference: PAN's tail, and branches weighed by what is pooled from ten channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sruplift.fuse.pan import FusedTail, leaky_
from sruplift.fuse.rewrites import Bilinear, make_conv, members, scaled
from sruplift.models.a2n import (
    A2N,
    RGB_RANGE,
    TEMPERATURE,
    AttentionInAttention,
    DynamicWeights,
)
from sruplift.models.layers import Frame, SuperResolver, at_pixels, means_around


class FusedWeights(nn.Module):
    """``DynamicWeights``: the attention branch's share only, (B, 1, 1, 1) or (B, 1, H, W).

    The first layer is linear, so it goes before the mean and leaves a quarter of the channels.
    The softmax of two numbers is the sigmoid of their difference.
    """

    def __init__(self, weights: DynamicWeights) -> None:
        super().__init__()
        self.reduce: nn.Module = make_conv(weights.reduce.weight[:, :, None, None], None)
        first, second = weights.decide.weight
        self.difference = nn.Parameter((first - second) / TEMPERATURE)

    def forward(self, x: Tensor, window: int | None) -> Tensor:
        return self.share(self.reduce(x).float(), window)

    def share(self, x: Tensor, window: int | None) -> Tensor:
        """``forward``, of what ``reduce`` has made, in float32."""
        size = x.shape[-2:]
        mean = x.mean((2, 3), keepdim=True) if window is None else means_around(x, window)
        decided = mean.relu_().movedim(1, -1).mul(self.difference).sum(-1)[:, None]
        share = torch.sigmoid(decided)
        return share if window is None else at_pixels(share, size)


class FusedAttentionInAttention(nn.Module):
    """``AttentionInAttention``, activations and products in place."""

    def __init__(self, block: AttentionInAttention) -> None:
        super().__init__()
        self.first, self.last = block.first, block.last
        self.weights = FusedWeights(block.weights)
        self.attention, self.non_attention = block.attention, block.non_attention

    def forward(self, x: Tensor, window: int | None) -> Tensor:
        z, branch = leaky_(self.first(x)), self.attention
        gate = branch.gate(leaky_(branch.look(z))).sigmoid_()
        attended = branch.project(branch.features(z).mul_(gate))
        share = self.weights(z, window).to(z.dtype)
        mixed = torch.lerp(self.non_attention(z), attended, share)
        return self.last(leaky_(mixed)).add_(x)


class FusedA2N(SuperResolver):
    """``A2N`` for inference. The range of 0 to 255 is in the first and last weights."""

    def __init__(self, net: A2N) -> None:
        super().__init__()
        self.scale, self.needs, self.window = net.scale, net.needs, net.window
        self.head = scaled(net.head, before=RGB_RANGE)
        self.bilinear = Bilinear(net.scale)
        self.blocks = nn.ModuleList(
            FusedAttentionInAttention(block) for block in members(net.blocks, AttentionInAttention)
        )
        self.trunk_end = net.trunk_end
        self.tail = FusedTail(net.upsample, scaled(net.last, after=1 / RGB_RANGE))

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        shallow = self.head(lr)
        deep = shallow
        for block in self.blocks:
            deep = block(deep, self.window)
        return self.tail(self.trunk_end(deep).add_(shallow), self.bilinear(lr))
