"""PAN and A2N with programs (``kernels.Program``): one or two a block, and one of the tail."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sruplift.fuse.a2n import FusedA2N, FusedAttentionInAttention
from sruplift.fuse.pan import FusedPAN, FusedSCPA
from sruplift.fuse.program_network import Head, ProgramNetwork
from sruplift.fuse.rewrites import members
from sruplift.kernels import Arithmetic, Part, PlaneMap, Program
from sruplift.models.layers import Frame, UpsamplingStage, bilinear
from sruplift.models.pan import SCPA

# Of PAN and A2N.
SLOPE = 0.2


def upsample(program: Program, x: Part, stage: UpsamplingStage) -> Part:
    """``UpsamplingStage``, of PAN and A2N."""
    gate, refine = stage.attention.gate, stage.refine
    x = program.convolve(x, stage.conv.weight, stage.conv.bias, enlarge=stage.scale)
    x = program.convolve(x, gate.weight, gate.bias, sigmoid=1, mul=x, slope=SLOPE)
    return program.convolve(x, refine.weight, refine.bias, slope=SLOPE)


class ProgramBlock:
    """One of a trunk's blocks, with programs of its own."""

    def run(self, size: tuple[int, int], x: PlaneMap, result: PlaneMap, window: int | None) -> None:
        """Write its result for ``x``, of (height, width) ``size``."""
        raise NotImplementedError


class ProgramTrunk(ProgramNetwork):
    """PAN and A2N: a head, blocks, and an end with the tail."""

    def __init__(
        self,
        fused: FusedPAN | FusedA2N,
        arithmetic: Arithmetic,
        blocks: Sequence[ProgramBlock],
        window: int | None = None,
    ) -> None:
        super().__init__(fused, arithmetic)
        self.blocks, self.window = blocks, window
        stages, last = fused.tail.made_of
        self.features = fused.head.out_channels
        self.head = Head(fused.head, arithmetic)
        self.tail = Program(arithmetic)
        self.deep, self.skip = self.tail.room(self.features), self.tail.room(self.features)
        end = fused.trunk_end
        x = self.tail.convolve(self.deep, end.weight, end.bias, add=self.skip)
        for stage in members(stages, UpsamplingStage):
            x = upsample(self.tail, x, stage)
        self.result = self.tail.convolve(x, last.weight, last.bias)

    def by_programs(self, lr: Tensor, frame: Frame) -> Tensor:
        """``enlarge``, on the CPU."""
        # Twice, since an image of one pixel passes for contiguous in any order.
        result = bilinear(lr.contiguous(), self.scale).contiguous()
        for image, base in zip(lr, result, strict=True):
            self._add(image, base)
        return result

    def _add(self, image: Tensor, base: Tensor) -> None:
        """Add what is missing in ``base``, (3, H * scale, W * scale), to it."""
        size = (image.shape[-2], image.shape[-1])
        shallow, *rooms = (PlaneMap(self.arithmetic, self.features, *size) for _ in range(3))
        self.head.run(image, shallow)
        x = shallow
        for number, block in enumerate(self.blocks):
            block.run(size, x, rooms[number % 2], self.window)
            x = rooms[number % 2]
        self.tail.run(size, {self.deep: x, self.skip: shallow, self.result: base})


class ProgramSCPA(ProgramBlock):
    """``SCPA`` of PAN."""

    def __init__(self, block: SCPA, arithmetic: Arithmetic) -> None:
        self.program = program = Program(arithmetic)
        attention, features = block.attention, block.fuse.out_channels
        self.x, both = program.room(features), program.room(features)
        reduce = torch.cat([block.reduce_plain.weight, block.reduce_attention.weight])
        reduced = program.convolve(self.x, reduce, slope=SLOPE)
        plain, attended = reduced.part(0, 2), reduced.part(1, 2)
        program.convolve(plain, block.plain.weight, slope=SLOPE, out=both.part(0, 2))
        gate = program.convolve(attended, attention.gate.weight, attention.gate.bias, sigmoid=1)
        gated = program.convolve(attended, attention.features.weight, mul=gate)
        program.convolve(gated, attention.project.weight, slope=SLOPE, out=both.part(1, 2))
        self.result = program.convolve(both, block.fuse.weight, add=self.x)

    def run(self, size: tuple[int, int], x: PlaneMap, result: PlaneMap, window: int | None) -> None:
        """Write the block's result for ``x``; nothing is pooled."""
        self.program.run(size, {self.x: x, self.result: result})


class ProgramAttentionInAttention(ProgramBlock):
    """``AttentionInAttention`` of A2N: a program until what is pooled, and one from there."""

    def __init__(self, fused: FusedAttentionInAttention, arithmetic: Arithmetic) -> None:
        features, branch = fused.first.out_channels, fused.attention
        self.arithmetic, self.weights = arithmetic, fused.weights
        reduce = fused.weights.reduce
        assert isinstance(reduce, nn.Conv2d)
        self.features, self.pooled = features, reduce.out_channels
        self.first, self.second = Program(arithmetic), Program(arithmetic)
        self.x = self.first.room(features)
        self.z = self.first.convolve(self.x, fused.first.weight, slope=SLOPE)
        self.reduced = self.first.convolve(self.z, reduce.weight)
        program = self.second
        z, self.skip, self.share = program.room(features), program.room(features), program.plane()
        look = program.convolve(z, branch.look.weight, slope=SLOPE)
        gate = program.convolve(look, branch.gate.weight, branch.gate.bias, sigmoid=1)
        gated = program.convolve(z, branch.features.weight, mul=gate)
        plain = program.convolve(z, fused.non_attention.weight)
        mixed = program.convolve(
            gated, branch.project.weight, add=plain, share=self.share, slope=SLOPE
        )
        self.again = z
        self.result = program.convolve(mixed, fused.last.weight, add=self.skip)

    def run(self, size: tuple[int, int], x: PlaneMap, result: PlaneMap, window: int | None) -> None:
        """Write the block's result for ``x``."""
        z = PlaneMap(self.arithmetic, self.features, *size)
        reduced = torch.zeros(self.pooled, *size, dtype=torch.float32, device="cpu")
        self.first.run(size, {self.x: x, self.z: z, self.reduced: reduced})
        share = self.weights.share(reduced[None], window)[0].expand(1, *size).contiguous()
        maps = {self.again: z, self.skip: x, self.result: result}
        self.second.run(size, {**maps, self.share: share})


def program_pan(fused: FusedPAN, arithmetic: Arithmetic) -> ProgramTrunk:
    """``PAN``."""
    blocks = members(fused.blocks, FusedSCPA)
    return ProgramTrunk(
        fused, arithmetic, [ProgramSCPA(block.block, arithmetic) for block in blocks]
    )


def program_a2n(fused: FusedA2N, arithmetic: Arithmetic) -> ProgramTrunk:
    """``A2N``."""
    blocks = members(fused.blocks, FusedAttentionInAttention)
    made = [ProgramAttentionInAttention(block, arithmetic) for block in blocks]
    return ProgramTrunk(fused, arithmetic, made, fused.window)
