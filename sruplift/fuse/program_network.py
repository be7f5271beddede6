"""What rewritten networks with programs of our own have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sruplift.kernels import Arithmetic, Part, PlaneMap, Program
from sruplift.models.layers import Frame, SuperResolver


class ProgramNetwork(SuperResolver):
    """Computes by programs in their arithmetic, and in another, or elsewhere, as ``fused`` does."""

    def __init__(self, fused: SuperResolver, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.fused, self.arithmetic = fused, arithmetic
        self.scale, self.needs = fused.scale, fused.needs

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        # Programs have no gradient.
        differentiated = torch.is_grad_enabled() and lr.requires_grad
        if lr.device.type != "cpu" or differentiated or not self._is_asked_for(lr):
            return self.fused(lr, frame)
        with torch.autocast("cpu", enabled=False):
            return self.by_programs(lr.float(), frame)

    def _is_asked_for(self, lr: Tensor) -> bool:
        """Whether convolutions of ``lr`` are to be in the programs' arithmetic."""
        lower = torch.is_autocast_enabled("cpu")
        if self.arithmetic.half:
            return lower and torch.get_autocast_dtype("cpu") == torch.bfloat16
        return not lower and lr.dtype == torch.float32

    def by_programs(self, lr: Tensor, frame: Frame) -> Tensor:
        """``enlarge``, on the CPU."""
        raise NotImplementedError


class Head:
    """A first convolution of the image, which bf16 alone has too few levels for.

    There it and the weights are each sums of two numbers in bf16, which have 16 bits together; the
    product of the small ones is left out.
    """

    def __init__(self, conv: nn.Conv2d, arithmetic: Arithmetic) -> None:
        self.arithmetic, self.program = arithmetic, Program(arithmetic)
        weight = conv.weight
        if arithmetic.half:
            large, small = _two(weight)
            weight = torch.cat([large, large, small], dim=1)
        self.image = self.program.room(weight.shape[1])
        self.result: Part = self.program.convolve(
            self.image, weight, conv.bias, exact=arithmetic.half
        )

    def run(self, image: Tensor, result: PlaneMap) -> None:
        """Write the result for ``image`` (C, H, W)."""
        if self.arithmetic.half:
            large, small = _two(image)
            image = torch.cat([large, small, large])
        given = PlaneMap.of(self.arithmetic, image)
        self.program.run((result.height, result.width), {self.image: given, self.result: result})


def _two(x: Tensor) -> tuple[Tensor, Tensor]:
    """What bf16 holds of it, and the rest."""
    large = x.bfloat16().float()
    return large, x - large
