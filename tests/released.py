"""A made-up release of PAN weights in a made-up package folder, for tests of the real code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from sruplift.manifest import Manifest, Metrics, WeightsEntry, sha256_of, write_manifest
from sruplift.models import count_parameters, create_model
from sruplift.weights import save_weights

HUB_REPO = "someone/sruplift-weights"


@dataclass(frozen=True)
class Release:
    """The one released file's entry and bytes, and the folder that stands for the package."""

    entry: WeightsEntry
    content: bytes
    package: Path


def make_release(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, bundled: bool, scale: int = 2
) -> Release:
    """Release PAN with random weights, in a package under ``folder``; bundled with it or not."""
    package = folder / "checkout" / "sruplift"
    pretrained = package / "pretrained"
    pretrained.mkdir(parents=True)
    monkeypatch.setattr("sruplift.manifest._PACKAGE", package)
    torch.manual_seed(0)
    model = create_model("pan", scale)
    path = pretrained / f"pan_x{scale}.safetensors"
    save_weights(path, model.state_dict(), model="pan", scale=scale, metadata={"iterations": 7})
    entry = WeightsEntry(
        model="pan",
        scale=scale,
        file=path.name,
        sha256=sha256_of(path),
        size=path.stat().st_size,
        parameters=count_parameters(model),
        licence="Apache-2.0",
        config=f"pan_x{scale}",
        training_data="noise",
        iterations=7,
        device="cpu",
        command="none",
        metrics={"Set5": Metrics(psnr_y=37.5, ssim_y=0.95)},
        metrics_command="none",
    )
    write_manifest(Manifest(weights=(entry,)))
    content = path.read_bytes()
    if not bundled:
        path.unlink()
    return Release(entry, content, package)
