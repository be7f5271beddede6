"""The rewritten networks in bf16 with programs of our own (``kernels``)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from sruplift.fuse.a2n import FusedA2N
from sruplift.fuse.half_hpinet import HalfHPINet
from sruplift.fuse.half_network import HalfNetwork
from sruplift.fuse.half_trunk import half_a2n, half_pan
from sruplift.fuse.hpinet import FusedHPINet
from sruplift.fuse.pan import FusedPAN
from sruplift.kernels import Kernels, UnsuitedError

_IN_HALF: dict[type[nn.Module], Callable[..., HalfNetwork]] = {
    FusedPAN: half_pan,
    FusedA2N: half_a2n,
    FusedHPINet: HalfHPINet,
}


def has_programs(network: nn.Module) -> bool:
    """Whether ``in_half`` takes ``network``."""
    return type(network) in _IN_HALF


@torch.no_grad()
def in_half(network: nn.Module, kernels: Kernels) -> nn.Module:
    """A network that ``fused`` made, for calls under autocast to bf16 on the CPU.

    What is rounded between layers is rounded less often than with PyTorch's convolutions; what
    the filtering of 3x3 kernels takes the difference of is rounded more. A network whose sizes the
    kernels do not take comes back itself.
    """
    try:
        return _IN_HALF[type(network)](network, kernels)
    except UnsuitedError:
        return network
