"""The rewritten networks with programs of our own (``kernels``), in bf16 or float32, on CPUs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from sruplift.fuse.a2n import FusedA2N
from sruplift.fuse.hpinet import FusedHPINet
from sruplift.fuse.pan import FusedPAN
from sruplift.fuse.program_hpinet import ProgramHPINet
from sruplift.fuse.program_network import ProgramNetwork
from sruplift.fuse.program_trunk import program_a2n, program_pan
from sruplift.kernels import Arithmetic, UnsuitedError

_PROGRAMMED: dict[type[nn.Module], Callable[..., ProgramNetwork]] = {
    FusedPAN: program_pan,
    FusedA2N: program_a2n,
    FusedHPINet: ProgramHPINet,
}


def has_programs(network: nn.Module) -> bool:
    """Whether ``in_programs`` takes ``network``."""
    return type(network) in _PROGRAMMED


@torch.no_grad()
def in_programs(network: nn.Module, arithmetic: Arithmetic) -> nn.Module:
    """A network that ``fused`` made, for calls in float32, or under autocast to bf16, on the CPU.

    What is rounded between layers in bf16 is rounded less often than with PyTorch's convolutions;
    what the filtering of 3x3 kernels takes the difference of is rounded more. A network whose sizes
    the kernels do not take comes back itself.
    """
    try:
        return _PROGRAMMED[type(network)](network, arithmetic)
    except UnsuitedError:
        return network
