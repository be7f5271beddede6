"""The rewritten networks with ``kernels`` in the place of PyTorch's: float32 on CPUs.

A network's 3x3 convolutions are exchanged where that is faster. Blocks also leave what follows a
convolution to it, PAN's and A2N's tails enlarge where the kernels read, and HPINet's attention
keeps no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.fuse.a2n import FusedAttentionInAttention
from sruplift.fuse.hpinet import FusedAttention
from sruplift.fuse.maffsrn import FusedBlock, FusedGroup
from sruplift.fuse.pan import HALO, FusedSCPA, FusedTail
from sruplift.fuse.rewrites import STRIP_PIXELS, in_strips, members
from sruplift.fuse.srram import FusedResidualAttention
from sruplift.kernels import Kernels, attend, convolution_of, empty_maps, suits
from sruplift.models.layers import Frame, UpsamplingStage
from sruplift.models.maffsrn import NEGATIVE_SLOPE

# Of PAN and A2N.
SLOPE = 0.2
# Pixels of a strip of the tail, up to an eighth of its map. The kernels have buffers of their own:
# a strip need not stay in the cache, and larger ones share fewer rows.
LARGEST_STRIP = 2**17


class CompiledSCPA(nn.Module):
    """``SCPA`` of PAN. Both halves are written into the map that the last convolution reads."""

    def __init__(self, fused: FusedSCPA, kernels: Kernels) -> None:
        super().__init__()
        block, attention = fused.block, fused.block.attention
        self.split = block.plain.in_channels
        self.reduce_plain = convolution_of(kernels, block.reduce_plain, slope=SLOPE)
        self.reduce_attention = convolution_of(kernels, block.reduce_attention, slope=SLOPE)
        self.plain = convolution_of(kernels, block.plain, slope=SLOPE)
        self.gate = convolution_of(kernels, attention.gate, sigmoid=1)
        self.features = convolution_of(kernels, attention.features)
        self.project = convolution_of(kernels, attention.project, slope=SLOPE)
        self.fuse = convolution_of(kernels, block.fuse)

    def forward(self, x: Tensor) -> Tensor:
        both = empty_maps(x.shape)
        self.plain(self.reduce_plain(x), out=both[:, : self.split])
        attended = self.reduce_attention(x)
        attended = self.features(attended, mul=self.gate(attended))
        self.project(attended, out=both[:, self.split :])
        return self.fuse(both, add=x)


class CompiledStage(nn.Module):
    """``UpsamplingStage``."""

    def __init__(self, stage: UpsamplingStage, kernels: Kernels) -> None:
        super().__init__()
        self.scale = stage.scale
        self.conv = convolution_of(kernels, stage.conv, enlarge=stage.scale)
        self.gated = convolution_of(kernels, stage.attention.gate, sigmoid=1, slope=SLOPE)
        self.refine = convolution_of(kernels, stage.refine, slope=SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.refine(self.gated(x, mul=x))


class CompiledTail(nn.Module):
    """``FusedTail``."""

    def __init__(self, fused: FusedTail, kernels: Kernels) -> None:
        super().__init__()
        stages, last = fused.made_of
        made = (CompiledStage(stage, kernels) for stage in members(stages, UpsamplingStage))
        *early, self.final = made
        self.early = nn.ModuleList(early)
        self.last = convolution_of(kernels, last)

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        """The result for ``x`` (B, C, H, W) is added to ``base``, in place."""
        for stage in members(self.early, CompiledStage):
            strips = _large_strips(stage, x, stage.scale)
            x = torch.cat([strip for _, strip in strips], dim=2)
        for rows, strip in _large_strips(self._finish, x, self.final.scale):
            base[:, :, rows] += strip
        return base

    def _finish(self, x: Tensor) -> Tensor:
        return self.last(self.final(x))


def _large_strips(
    run: Callable[[Tensor], Tensor], x: Tensor, scale: int
) -> Iterator[tuple[slice, Tensor]]:
    pixels = max(min(x.shape[-2] * x.shape[-1] // 8, LARGEST_STRIP), STRIP_PIXELS)
    return in_strips(run, x, scale=scale, halo=HALO, pixels=pixels)


class CompiledAttentionInAttention(nn.Module):
    """``AttentionInAttention`` of A2N."""

    def __init__(self, fused: FusedAttentionInAttention, kernels: Kernels) -> None:
        super().__init__()
        branch = fused.attention
        self.first = convolution_of(kernels, fused.first, slope=SLOPE)
        self.look = convolution_of(kernels, branch.look, slope=SLOPE)
        self.gate = convolution_of(kernels, branch.gate, sigmoid=1)
        self.features = convolution_of(kernels, branch.features)
        self.project = convolution_of(kernels, branch.project)
        reduce, self.weights = fused.weights.reduce, fused.weights
        assert isinstance(reduce, nn.Conv2d)
        self.weights.reduce = convolution_of(kernels, reduce)
        self.non_attention = convolution_of(kernels, fused.non_attention)
        self.last = convolution_of(kernels, fused.last)

    def forward(self, x: Tensor, window: int | None) -> Tensor:
        z = self.first(x)
        attended = self.project(self.features(z, mul=self.gate(self.look(z))))
        mixed = torch.lerp(self.non_attention(z), attended, self.weights(z, window))
        return self.last(F.leaky_relu_(mixed, SLOPE), add=x)


class CompiledBlock(nn.Module):
    """``MultiAttentionBlock`` of MAFFSRN."""

    def __init__(self, fused: FusedBlock, kernels: Kernels) -> None:
        super().__init__()
        block = fused.block
        self.first = convolution_of(kernels, block.first, slope=NEGATIVE_SLOPE)
        self.second = convolution_of(kernels, block.second)
        self.reduce = convolution_of(kernels, block.reduce)
        self.increase = convolution_of(kernels, block.increase, sigmoid=2)
        self.near = convolution_of(kernels, block.near)
        self.gate = convolution_of(kernels, block.near_depthwise, sigmoid=1)
        del block.first, block.second, block.reduce, block.increase
        del block.near, block.near_depthwise
        self.fused = fused

    def forward(self, x: Tensor, frame: Frame, out: Tensor, add: Tensor | None = None) -> Tensor:
        """The block's result, and the sum of it and ``add`` if there is one, into ``out``."""
        x = self.second(self.first(x))
        reduced = self.reduce(x)
        far = self.increase(reduced.add_(self.fused.wide(reduced, x, frame)), mul=x)
        return self.gate(self.near(x), mul=far, add=add, out=out)


class CompiledGroup(nn.Module):
    """``FeatureFusionGroup`` of MAFFSRN. Blocks write into the map that the last layer reads."""

    def __init__(self, group: FusedGroup, kernels: Kernels) -> None:
        super().__init__()
        blocks = members(group.blocks, FusedBlock)
        self.blocks = nn.ModuleList(CompiledBlock(block, kernels) for block in blocks)
        self.fuse = convolution_of(kernels, group.fuse)
        self.skip_scale = group.skip_scale

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        batch, channels, height, width = x.shape
        together = empty_maps((batch, channels * len(self.blocks), height, width))
        results = torch.split(together, channels, dim=1)
        self.blocks[0](x, frame, results[0])
        for number in (1, 2):
            before = results[number - 1]
            self.blocks[number](before, frame, results[number], add=before)
        self.blocks[3](results[2], frame, results[3])
        return self.fuse(together).add_(x, alpha=self.skip_scale)


class CompiledResidualAttention(nn.Module):
    """``ResidualAttention`` of SRRAM."""

    def __init__(self, fused: FusedResidualAttention, kernels: Kernels) -> None:
        super().__init__()
        self.conv1 = convolution_of(kernels, fused.block.conv1, slope=0)
        self.conv2 = convolution_of(kernels, fused.block.conv2)
        del fused.block.conv1, fused.block.conv2
        self.fused = fused

    def forward(self, x: Tensor, window: int | None) -> Tensor:
        return self.fused.attend(self.conv2(self.conv1(x)), x, window)


class CompiledAttention(nn.Module):
    """``Attention`` of HPINet."""

    def __init__(self, fused: FusedAttention, kernels: Kernels) -> None:
        super().__init__()
        attention, self.kernels = fused.made_of[0], kernels
        self.norm, self.key, self.value = attention.norm, attention.key, attention.value
        query = attention.query
        shape = query.in_features, query.out_features
        self.query = nn.Linear(*shape, bias=False, dtype=query.weight.dtype)
        self.query.weight.copy_(query.weight * query.out_features**-0.5)

    def forward(self, tokens: Tensor, others: Tensor | None) -> Tensor:
        own = self.norm(tokens)
        source = own if others is None else others
        query, key, value = self.query(own), self.key(source), self.value(source)
        return attend(self.kernels, query, key, value).add_(tokens)


_COMPILED: dict[type[nn.Module], Callable[..., nn.Module]] = {
    FusedSCPA: CompiledSCPA,
    FusedTail: CompiledTail,
    FusedAttentionInAttention: CompiledAttentionInAttention,
    FusedGroup: CompiledGroup,
    FusedResidualAttention: CompiledResidualAttention,
    FusedAttention: CompiledAttention,
}


@torch.no_grad()
def with_kernels(network: nn.Module, kernels: Kernels) -> nn.Module:
    """A network that ``fused`` made, changed in place; its result is the same, to rounding."""
    for name, child in network.named_children():
        make = _COMPILED.get(type(child))
        if make is not None:
            setattr(network, name, make(child, kernels))
        elif isinstance(child, nn.Conv2d) and suits(child):
            setattr(network, name, convolution_of(kernels, child))
        else:
            with_kernels(child, kernels)
    return network
