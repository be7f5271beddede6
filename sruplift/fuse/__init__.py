"""The networks rewritten for inference: the same result, to rounding, for less work."""

from __future__ import annotations

import copy
import dataclasses
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
from sruplift.models.layers import SuperResolver
from sruplift.models.maffsrn import MAFFSRN
from sruplift.models.pan import PAN
from sruplift.models.srram import SRRAM

_FUSED: dict[type[nn.Module], Callable[..., SuperResolver]] = {
    PAN: FusedPAN,
    A2N: FusedA2N,
    HPINet: FusedHPINet,
    MAFFSRN: FusedMAFFSRN,
    SRRAM: FusedSRRAM,
}


# ``InputNeeds.memory`` of what comes out, by scale: its maps at high resolution exist in strips,
# and HPINet's weights of attention for some patches at a time. Measured as the engine's constants
# are, at 256x256 LR pixels (HPINet: 320x320), all variants, in bf16 and in fp32 with and without
# ``kernels``; the largest, rounded up. ``programs`` take far less,
# HPINet's an eighth, but not everything is computed by them.
_MEMORY: dict[type[nn.Module], dict[int, float]] = {
    PAN: {2: 0.75, 3: 0.85, 4: 0.45},
    A2N: {2: 1.1, 3: 0.85, 4: 0.45},
    MAFFSRN: {2: 1.15, 3: 0.75, 4: 0.45},
    SRRAM: {2: 1.25, 3: 0.7, 4: 0.5},
    HPINet: {2: 2.8, 3: 2.8, 4: 2.3},
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
    # What is random in it is replaced: nobody's generator is to go on by that.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        made = make(copy.deepcopy(model).cpu().eval()).to(device).requires_grad_(False).eval()
    memory = _MEMORY.get(type(model), {}).get(made.scale)
    if memory is not None:
        made.needs = dataclasses.replace(made.needs, memory=memory)
    return made
