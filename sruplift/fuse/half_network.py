"""What rewritten networks in bf16 with programs of our own have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from sruplift.kernels import Kernels
from sruplift.models.layers import Frame, SuperResolver


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
