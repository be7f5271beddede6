"""The rewritten networks in bf16 with programs of our own (``kernels.Program``)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sruplift.fuse.pan import FusedPAN, FusedSCPA
from sruplift.fuse.rewrites import members
from sruplift.kernels import Kernels, PairMap, Part, Program
from sruplift.models.layers import Frame, SuperResolver, UpsamplingStage, bilinear
from sruplift.models.pan import SCPA

# Of PAN and A2N.
SLOPE = 0.2


class HalfNetwork(SuperResolver):
    """What computes in bf16 if it is asked to, by autocast, and else as ``fused`` does."""

    def __init__(self, fused: SuperResolver, kernels: Kernels) -> None:
        super().__init__()
        self.fused, self.kernels = fused, kernels
        self.scale, self.needs = fused.scale, fused.needs

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        if lr.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return self.fused(lr, frame)
        with torch.autocast("cpu", enabled=False):
            return self.in_half(lr.float(), frame)

    def in_half(self, lr: Tensor, frame: Frame) -> Tensor:
        """``enlarge`` in bf16."""
        raise NotImplementedError


def upsample(program: Program, x: Part, stage: UpsamplingStage) -> Part:
    """``UpsamplingStage``, of PAN and A2N."""
    gate, refine = stage.attention.gate, stage.refine
    x = program.convolve(x, stage.conv.weight, stage.conv.bias, enlarge=stage.scale)
    x = program.convolve(x, gate.weight, gate.bias, sigmoid=1, mul=x, slope=SLOPE)
    return program.convolve(x, refine.weight, refine.bias, slope=SLOPE)


class HalfPAN(HalfNetwork):
    """``PAN``: a program a block, since threads wait for each other's rows only between them."""

    def __init__(self, fused: FusedPAN, kernels: Kernels) -> None:
        super().__init__(fused, kernels)
        stages, last = fused.tail.made_of
        blocks = [block.block for block in members(fused.blocks, FusedSCPA)]
        self.features = fused.head.out_channels
        self.head = Program(kernels)
        self.image = self.head.room(3)
        self.shallow = self.head.convolve(self.image, fused.head.weight, fused.head.bias)
        self.programs = [self._block(block) for block in blocks]
        self.tail = Program(kernels)
        self.deep, self.skip = self.tail.room(self.features), self.tail.room(self.features)
        end = fused.trunk_end
        x = self.tail.convolve(self.deep, end.weight, end.bias, add=self.skip)
        for stage in members(stages, UpsamplingStage):
            x = upsample(self.tail, x, stage)
        self.result = self.tail.convolve(x, last.weight, last.bias)

    def _block(self, block: SCPA) -> tuple[Program, Part, Part]:
        """The program, what it reads and what it makes."""
        program = Program(self.kernels)
        attention = block.attention
        x, both = program.room(self.features), program.room(self.features)
        reduce = torch.cat([block.reduce_plain.weight, block.reduce_attention.weight])
        plain, attended = program.convolve(x, reduce, slope=SLOPE).halves()
        program.convolve(plain, block.plain.weight, slope=SLOPE, out=both.halves()[0])
        gate = program.convolve(attended, attention.gate.weight, attention.gate.bias, sigmoid=1)
        gated = program.convolve(attended, attention.features.weight, mul=gate)
        program.convolve(gated, attention.project.weight, slope=SLOPE, out=both.halves()[1])
        return program, x, program.convolve(both, block.fuse.weight, add=x)

    def in_half(self, lr: Tensor, frame: Frame) -> Tensor:
        """``enlarge`` in bf16."""
        result = bilinear(lr.contiguous(), self.scale)
        for image, base in zip(lr, result, strict=True):
            self._add(image, base)
        return result

    def _add(self, image: Tensor, base: Tensor) -> None:
        """Add what is missing in ``base``, (3, H * scale, W * scale), to it."""
        size = (image.shape[-2], image.shape[-1])
        shallow, *rooms = (PairMap(self.kernels, self.features, *size) for _ in range(3))
        self.head.run(size, {self.image: PairMap.of(self.kernels, image), self.shallow: shallow})
        x = shallow
        for number, (program, before, after) in enumerate(self.programs):
            program.run(size, {before: x, after: rooms[number % 2]})
            x = rooms[number % 2]
        self.tail.run(size, {self.deep: x, self.skip: shallow, self.result: base})


_IN_HALF: dict[type[nn.Module], Callable[..., HalfNetwork]] = {FusedPAN: HalfPAN}


def has_programs(network: nn.Module) -> bool:
    """Whether ``in_half`` takes ``network``."""
    return type(network) in _IN_HALF


@torch.no_grad()
def in_half(network: nn.Module, kernels: Kernels) -> nn.Module:
    """A network that ``fused`` made, for calls under autocast to bf16 on the CPU; else the same.

    The result is closer to float32's than with PyTorch's convolutions, whose sums between layers
    are rounded more often.
    """
    return _IN_HALF[type(network)](network, kernels)
