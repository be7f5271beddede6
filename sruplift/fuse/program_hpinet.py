"""HPINet with its patches by ``kernels.PatchLayers``, the rest by programs."""

from __future__ import annotations

from torch import Tensor, nn

from sruplift.fuse.hpinet import FusedAttention, FusedHPINet, FusedPixelIntegration
from sruplift.fuse.program_network import Head, ProgramNetwork
from sruplift.fuse.rewrites import members
from sruplift.kernels import Arithmetic, PatchLayers, PlaneMap, Program, UnsuitedError, join
from sruplift.models.hpinet import NEGATIVE_SLOPE, Attention, FeedForward, PatchGrid
from sruplift.models.layers import Frame, bilinear

Layer = tuple[Tensor, Tensor | None]
# Of layer norms, in patches.h.
NORM_EPS = 1e-5


class ProgramPixelIntegration:
    """``PixelIntegration``."""

    def __init__(self, fused: FusedPixelIntegration, arithmetic: Arithmetic) -> None:
        self.arithmetic, self.side, self.match = arithmetic, fused.patch_size, fused.match
        attentions = [each.made_of[0] for each in members(fused.attentions, FusedAttention)]
        pairs = zip(attentions, members(fused.feed_forwards, FeedForward), strict=True)
        steps = [_step(*pair, first=number == 0) for number, pair in enumerate(pairs)]
        self.layers = PatchLayers(arithmetic, fused.patch_size, steps)
        channels, self.program = fused.conv.out_channels, Program(arithmetic)
        self.patches, self.skip = self.program.room(channels), self.program.room(channels)
        self.result = self.program.convolve(
            self.patches,
            fused.conv.weight,
            fused.conv.bias,
            add=self.skip,
            exact=arithmetic.half,
        )

    def run(self, x: PlaneMap, frame: Frame) -> PlaneMap:
        """Its result for ``x``."""
        grids = (
            PatchGrid(x.height, self.side, frame.top, frame.height),
            PatchGrid(x.width, self.side, frame.left, frame.width),
        )
        tops, lefts = (grid.starts for grid in grids)
        patches = self.layers.run(x, tops, lefts, self._partners)
        rows, columns = (grid.weights(patches.device) for grid in grids)
        joined = join(self.arithmetic, patches, (tops, lefts), (rows, columns))
        result = PlaneMap(self.arithmetic, x.channels, x.height, x.width)
        maps = {self.patches: joined, self.skip: x, self.result: result}
        self.program.run((x.height, x.width), maps)
        return result

    def _partners(self, means: Tensor) -> Tensor:
        return self.match.likeness(means[None])[0].argmax(-1)


class ProgramHPINet(ProgramNetwork):
    """``HPINet``."""

    def __init__(self, fused: FusedHPINet, arithmetic: Arithmetic) -> None:
        super().__init__(fused, arithmetic)
        self.channels, self.head = fused.head.out_channels, Head(fused.head, arithmetic)
        blocks = members(fused.blocks, FusedPixelIntegration)
        self.blocks = [ProgramPixelIntegration(block, arithmetic) for block in blocks]
        self.tail, (last,) = Program(arithmetic), fused.made_of
        self.deep = x = self.tail.room(self.channels)
        for widen, factor in zip(members(fused.widen, nn.Conv2d), fused.factors, strict=True):
            x = self.tail.convolve(
                x, widen.weight, widen.bias, shuffle=factor, slope=NEGATIVE_SLOPE
            )
        self.result = self.tail.convolve(x, last.weight, last.bias)

    def by_programs(self, lr: Tensor, frame: Frame) -> Tensor:
        """``enlarge``, on the CPU."""
        size = (lr.shape[-2], lr.shape[-1])
        # Twice, since an image of one pixel passes for contiguous in any order.
        result = bilinear(lr.contiguous(), self.scale).contiguous()
        for image, base in zip(lr, result, strict=True):
            x = PlaneMap(self.arithmetic, self.channels, *size)
            self.head.run(image, x)
            for block in self.blocks:
                x = block.run(x, frame)
            self.tail.run(size, {self.deep: x, self.result: base})
        return result


def _step(attention: Attention, after: FeedForward, *, first: bool) -> list[Layer]:
    """The layers of one step, with what normalisation multiplies by and adds in them."""
    norm, scale = attention.norm, attention.query.out_features**-0.5
    if any(each.eps != NORM_EPS for each in (norm, after.norm)):
        raise UnsuitedError("another normalisation")
    query, bias = _after(norm, attention.query.weight * scale)
    widen = _after(after.norm, after.widen.weight, after.widen.bias)
    others = attention.key.weight, attention.value.weight
    key, value = ((weight, None) if first else _after(norm, weight) for weight in others)
    return [(query, bias), key, value, widen, (after.narrow.weight, after.narrow.bias)]


def _after(norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None = None) -> Layer:
    more = weight @ norm.bias
    return weight * norm.weight, more if bias is None else more + bias
