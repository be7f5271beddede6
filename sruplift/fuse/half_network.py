"""What rewritten networks in bf16 with programs of our own have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sruplift.kernels import Kernels, PairMap, Part, Program
from sruplift.models.layers import Frame, SuperResolver


class HalfNetwork(SuperResolver):
    """What computes in bf16 if it is asked to, by autocast, and else as ``fused`` does."""

    def __init__(self, fused: SuperResolver, kernels: Kernels) -> None:
        super().__init__()
        self.fused, self.kernels = fused, kernels
        self.scale, self.needs = fused.scale, fused.needs

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        half = torch.is_autocast_enabled("cpu")
        half = half and torch.get_autocast_dtype("cpu") == torch.bfloat16
        # Programs have no gradient.
        if lr.device.type != "cpu" or not half or (torch.is_grad_enabled() and lr.requires_grad):
            return self.fused(lr, frame)
        with torch.autocast("cpu", enabled=False):
            return self.in_half(lr.float(), frame)

    def in_half(self, lr: Tensor, frame: Frame) -> Tensor:
        """``enlarge`` in bf16."""
        raise NotImplementedError


class Head:
    """A first convolution of the image, which bf16 alone has too few levels for.

    It and the weights are each sums of two numbers in bf16, which have 16 bits together; the
    product of the small ones is left out.
    """

    def __init__(self, conv: nn.Conv2d, kernels: Kernels) -> None:
        self.kernels, self.program = kernels, Program(kernels)
        self.image = self.program.room(3 * conv.in_channels)
        weight, rest = _two(conv.weight)
        weight = torch.cat([weight, weight, rest], dim=1)
        self.result: Part = self.program.convolve(self.image, weight, conv.bias, exact=True)

    def run(self, image: Tensor, result: PairMap) -> None:
        """Write the result for ``image`` (C, H, W)."""
        large, small = _two(image)
        given = PairMap.of(self.kernels, torch.cat([large, small, large]))
        self.program.run((result.height, result.width), {self.image: given, self.result: result})


def _two(x: Tensor) -> tuple[Tensor, Tensor]:
    """What bf16 holds of it, and the rest."""
    large = x.bfloat16().float()
    return large, x - large
