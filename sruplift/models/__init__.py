"""The networks, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from sruplift.models.a2n import A2N, A2NConfig
from sruplift.models.hpinet import HPINet, HPINetConfig
from sruplift.models.layers import SuperResolver
from sruplift.models.maffsrn import MAFFSRN, MAFFSRNConfig
from sruplift.models.pan import PAN, PANConfig
from sruplift.models.srram import SRRAM, SRRAMConfig


@dataclass(frozen=True)
class ModelSpec:
    """How to build one network: ``build(scale)``, for each of ``scales``."""

    title: str
    scales: tuple[int, ...]
    build: Callable[[int], SuperResolver]


SCALES = (2, 3, 4)
MODELS: dict[str, ModelSpec] = {
    "pan": ModelSpec("PAN", SCALES, lambda scale: PAN(PANConfig(scale))),
    "a2n": ModelSpec("A2N", SCALES, lambda scale: A2N(A2NConfig(scale))),
    "a2n-m": ModelSpec(
        "A2N-M", SCALES, lambda scale: A2N(A2NConfig(scale, non_attention_kernel=1))
    ),
    "maffsrn": ModelSpec("MAFFSRN", SCALES, lambda scale: MAFFSRN(MAFFSRNConfig(scale))),
    "maffsrn-l": ModelSpec(
        "MAFFSRN-L", SCALES, lambda scale: MAFFSRN(MAFFSRNConfig(scale, num_groups=8))
    ),
    "srram": ModelSpec("SRRAM", SCALES, lambda scale: SRRAM(SRRAMConfig(scale))),
    "srram-l": ModelSpec("SRRAM-L", (2,), lambda scale: SRRAM(SRRAMConfig(scale, num_blocks=64))),
    "hpinet-s": ModelSpec(
        "HPINet-S", SCALES, lambda scale: HPINet(HPINetConfig(scale, 40, 24, 72))
    ),
    "hpinet-m": ModelSpec("HPINet-M", SCALES, lambda scale: HPINet(HPINetConfig(scale))),
    "hpinet-l": ModelSpec(
        "HPINet-L",
        SCALES,
        lambda scale: HPINet(HPINetConfig(scale, 64, 36, 128, (12, 14, 16, 20, 24) * 2)),
    ),
}


def create_model(name: str, scale: int) -> SuperResolver:
    """A network with fresh weights. LR (B, 3, H, W) in [0, 1] -> SR (B, 3, H*scale, W*scale).

    Raises:
        ValueError: the name or the scale is not in ``MODELS``.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r} (valid: {', '.join(MODELS)})")
    spec = MODELS[name]
    if scale not in spec.scales:
        scales = ", ".join(map(str, spec.scales))
        raise ValueError(f"model {name!r} has no scale {scale} (valid: {scales})")
    return spec.build(scale)


def count_parameters(model: nn.Module) -> int:
    """The number of trainable values."""
    return sum(parameter.numel() for parameter in model.parameters())
