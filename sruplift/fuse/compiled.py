"""MAFFSRN and SRRAM with ``kernels`` in the place of PyTorch's: float32 on CPUs.

A network's 3x3 convolutions are exchanged where that is faster, which is also done for what
``programs`` does not take. Blocks also leave what follows a convolution to it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sruplift.fuse.maffsrn import FusedBlock, FusedGroup
from sruplift.fuse.rewrites import members
from sruplift.fuse.srram import FusedResidualAttention
from sruplift.kernels import Kernels, convolution_of, empty_maps, suits
from sruplift.models.layers import Frame
from sruplift.models.maffsrn import NEGATIVE_SLOPE


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


_COMPILED: dict[type[nn.Module], Callable[..., nn.Module]] = {
    FusedGroup: CompiledGroup,
    FusedResidualAttention: CompiledResidualAttention,
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
