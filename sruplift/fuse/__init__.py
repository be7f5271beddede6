"""The networks rewritten for inference: the same result, to rounding, for less work."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from sruplift.fuse.pan import FusedPAN
from sruplift.models.pan import PAN

_FUSED: dict[type[nn.Module], Callable[..., nn.Module]] = {PAN: FusedPAN}


@torch.no_grad()
def fused(model: nn.Module) -> nn.Module:
    """``model`` for inference, with the same call and attributes; ``model`` stays as it is.

    What is not one of our networks comes back itself.
    """
    make = _FUSED.get(type(model))
    return model if make is None else make(copy.deepcopy(model)).eval().requires_grad_(False)
