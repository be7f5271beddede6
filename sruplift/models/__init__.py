"""The networks, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from sruplift.models.pan import PAN, PANConfig


@dataclass(frozen=True)
class ModelSpec:
    """How to build one network: ``build(scale)``, for each of ``scales``."""

    title: str
    scales: tuple[int, ...]
    build: Callable[[int], nn.Module]


MODELS: dict[str, ModelSpec] = {
    "pan": ModelSpec("PAN", (2, 3, 4), lambda scale: PAN(PANConfig(scale=scale))),
}


def create_model(name: str, scale: int) -> nn.Module:
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
