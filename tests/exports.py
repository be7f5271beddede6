"""Small networks for tests of what is exported."""

from __future__ import annotations

import torch

from sruplift.models.a2n import A2N, A2NConfig
from sruplift.models.layers import SuperResolver
from sruplift.models.maffsrn import MAFFSRN, MAFFSRNConfig
from sruplift.models.pan import PAN, PANConfig
from sruplift.models.srram import SRRAM, SRRAMConfig

NAMES = ("pan", "a2n", "maffsrn", "srram")
MISSING = "sruplift[onnx] is not installed"


@torch.no_grad()
def small_network(name: str, scale: int = 2) -> SuperResolver:
    """One of each kind with few blocks and random weights, every bias and scalar in use."""
    torch.manual_seed(scale)
    made: dict[str, SuperResolver] = {
        "pan": PAN(PANConfig(scale, 8, 6, 1)),
        "a2n": A2N(A2NConfig(scale, 8, 6, 1)),
        "maffsrn": MAFFSRN(MAFFSRNConfig(scale, 8, 1)),
        "srram": SRRAM(SRRAMConfig(scale, 16, 1)),
    }
    net = made[name].eval()
    for parameter_name, parameter in net.named_parameters():
        if parameter.dim() < 2 or "weight_g" in parameter_name:
            parameter += 0.1 * torch.randn_like(parameter)
        if "decide" in parameter_name:
            parameter *= 100  # else each branch of A2N counts half
        if "increase" in parameter_name:
            parameter *= 10  # else MAFFSRN's attention from afar is the same everywhere
    return net
