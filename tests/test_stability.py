"""Released networks stay sane on pictures that are nothing like their training images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import photo_like
from torch import Tensor

from sruplift.manifest import WeightsEntry, read_manifest
from sruplift.weights import load_model

# Of white 1, how far from bicubic interpolation. Dots of black and white overshoot by some of it;
# what is amplified from block to block is beyond by thousands, or by millions.
FAR = 8


def pictures() -> dict[str, Tensor]:
    """Noisy, dithered and palette pictures, (3, 32, 32) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    photo = photo_like(32, 32, seed=0)
    made = {}
    for strength in (0.1, 0.2, 0.35, 0.5, 1.0):
        for kind, channels in (("grey", 1), ("coloured", 3)):
            noise = torch.randn(channels, 32, 32, generator=generator) * strength
            made[f"{kind} noise {strength}"] = (photo + noise).clamp(0, 1)
    bits = torch.randint(2, (3, 32, 32), generator=generator).float()
    made["random bits"] = bits[:1].expand(3, -1, -1)
    made["random bits of each channel"] = bits
    ordered = torch.tensor([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) / 16
    made["dithered"] = (photo.mean(0) > ordered.repeat(8, 8)).float().expand(3, -1, -1)
    palette = torch.rand(16, 3, generator=generator)
    made["random palette"] = palette[torch.randint(16, (32, 32), generator=generator)].movedim(2, 0)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    made["checkerboard"] = ((rows + columns) % 2).float().expand(3, -1, -1)
    made["stripes"] = (columns % 2).float().expand(3, -1, -1)
    return made


@pytest.mark.parametrize("entry", read_manifest().weights, ids=lambda entry: entry.file)
def test_nothing_is_amplified(entry: WeightsEntry) -> None:
    inputs = pictures()
    lr = torch.stack(list(inputs.values()))
    with torch.inference_mode():
        sr = load_model(entry.model, entry.scale).eval()(lr)
    plain = F.interpolate(lr, scale_factor=entry.scale, mode="bicubic")
    beyond = (sr - plain).abs().amax((1, 2, 3)).tolist()
    wild = {name: far for name, far in zip(inputs, beyond, strict=True) if far > FAR}
    assert not wild
