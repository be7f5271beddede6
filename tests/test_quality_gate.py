"""No fast path costs quality: PSNR on Set14 of each against plain float32, for every network."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import mean

import pytest
import torch
from torch import Tensor

from sruplift.datasets import read_hr
from sruplift.engine import Engine, cpu_computes_bf16
from sruplift.importer import read_tensors, recognise
from sruplift.manifest import read_manifest
from sruplift.metrics import psnr
from sruplift.models import create_model
from sruplift.models.layers import SuperResolver
from sruplift.resize import bicubic
from sruplift.weights import load_model

# dB. Half a unit of the papers' last digit.
ALLOWED = 0.01
RELEASED = sorted({entry.model for entry in read_manifest().weights if entry.scale == 4})
AUTHORS = {"a2n": "aan_x2.pt", "hpinet-m": "HPINet-M-x4.pth"}
# What we have no weights of is measured with its authors'.
EVERY = [*RELEASED, *(name for name in AUTHORS if name not in RELEASED)]


@cache
def pictures(folder: Path, scale: int) -> list[tuple[Tensor, Tensor]]:
    """LR and HR, (1, 3, h, w) in [0, 1]."""
    found = []
    for path in sorted(folder.glob("*.png")):
        hr = read_hr(path)
        height, width = (size // scale * scale for size in hr.shape[-2:])
        hr = hr[:, :height, :width]
        lr = bicubic(hr, size=(height // scale, width // scale))
        found.append((lr[None].float() / 255, hr[None].float() / 255))
    assert len(found) == 14
    return found


def network(name: str, shared: Path) -> SuperResolver:
    if name in RELEASED:
        return load_model(name, 4)
    path = shared / "oracles" / "checkpoints" / AUTHORS[name]
    found = recognise(read_tensors(path)[0], str(path))
    net = create_model(name, found.scales[0])
    net.load_state_dict(found.tensors)
    return net


@pytest.mark.parametrize("name", EVERY)
def test_every_fast_path_is_as_good_as_float32(
    name: str, shared: Path, record_property: Callable[[str, object], None]
) -> None:
    net = network(name, shared).eval().to(memory_format=torch.channels_last)
    # Precision, whether it is rewritten, and whether with our own kernels where they can be had.
    paths = {"fp32 rewritten": ("fp32", True, "off"), "fp32 kernels": ("fp32", True, "auto")}
    if cpu_computes_bf16():
        paths |= {"bf16": ("bf16", False, "off"), "bf16 rewritten": ("bf16", True, "off")}
        paths |= {"bf16 kernels": ("bf16", True, "auto")}
    engines = {
        path: Engine(net, net.scale, "cpu", precision, local=False, fuse=fuse, compile_mode=mode)
        for path, (precision, fuse, mode) in paths.items()
    }
    plain, fast = [], {path: [] for path in paths}
    for lr, hr in pictures(shared / "benchmarks" / "Set14" / "HR", net.scale):
        with torch.inference_mode():
            sr = net(lr.contiguous(memory_format=torch.channels_last))
        plain.append(float(psnr(sr, hr, net.scale)))
        for path, engine in engines.items():
            fast[path].append(float(psnr(engine.run(lr), hr, net.scale)))
    lost = {path: mean(plain) - mean(values) for path, values in fast.items()}
    record_property("lost", lost)
    assert mean(plain) > 26
    assert all(abs(value) < ALLOWED for value in lost.values()), lost
