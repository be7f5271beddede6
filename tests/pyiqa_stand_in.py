"""A module that behaves as pyiqa does where sruplift touches it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor


class Metric:
    """Mean absolute difference from the reference, or the mean of SR alone."""

    def __init__(self, mode: str, lower_better: bool) -> None:
        self.metric_mode = mode
        self.lower_better = lower_better
        self.seen: list[tuple[Tensor, ...]] = []

    def __call__(self, *images: Tensor) -> Tensor:
        assert len(images) == (2 if self.metric_mode == "FR" else 1)
        for image in images:
            assert image.ndim == 4
            assert image.shape[1] == 3
            assert image.dtype == torch.float32
            assert 0 <= float(image.min()) <= float(image.max()) <= 1
        self.seen.append(images)
        sys.stdout.write("pyiqa talks\n")
        first, second = images if len(images) == 2 else (images[0], torch.zeros(()))
        return (first - second).abs().mean().reshape(1)


def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put the stand-in in pyiqa's place; its ``made`` are the metrics by name."""
    module: Any = ModuleType("pyiqa")
    module.__version__ = "0.0.stand-in"
    module.made = {}
    modes = {"lpips": ("FR", True), "niqe": ("NR", True), "musiq": ("NR", False)}

    def create_metric(name: str, as_loss: bool = False, device: object = None) -> Metric:
        assert not as_loss
        assert isinstance(device, torch.device)
        sys.stdout.write(f"Loading pretrained model {name}\n")
        module.made[name] = Metric(*modes[name])
        return module.made[name]

    module.list_models = lambda: sorted(modes)
    module.create_metric = create_metric
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    return module
