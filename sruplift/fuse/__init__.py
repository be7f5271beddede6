"""The networks rewritten for inference: the same result, to rounding, for less work."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from sruplift.fuse.a2n import FusedA2N
from sruplift.fuse.hpinet import FusedHPINet
from sruplift.fuse.maffsrn import FusedMAFFSRN
from sruplift.fuse.pan import FusedPAN
from sruplift.fuse.srram import FusedSRRAM
from sruplift.models.a2n import A2N
from sruplift.models.hpinet import HPINet
from sruplift.models.maffsrn import MAFFSRN
from sruplift.models.pan import PAN
from sruplift.models.srram import SRRAM

_FUSED: dict[type[nn.Module], Callable[..., nn.Module]] = {
    PAN: FusedPAN,
    A2N: FusedA2N,
    HPINet: FusedHPINet,
    MAFFSRN: FusedMAFFSRN,
    SRRAM: FusedSRRAM,
}


@torch.no_grad()
def fused(model: nn.Module) -> nn.Module:
    """``model`` for inference, with the same call and attributes; ``model`` stays as it is.

    What it gives differs by rounding only. What is not one of our networks comes back itself.
    """
    make = _FUSED.get(type(model))
    if make is None:
        return model
    device = next(model.parameters()).device
    return make(copy.deepcopy(model).cpu().eval()).to(device).requires_grad_(False).eval()
