"""The networks against tensors that the authors' own code computed.

The authors' checkpoints are imported. Where there are none, a network gets the weights that the
golden file was made with: random numbers seeded by the crc32 of each tensor's name.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sruplift.importer import expected_shapes, recognise
from sruplift.models import create_model
from sruplift.weights import import_checkpoint, load_model

CHECKPOINTS = [
    ("PANx4_DF2K.pth", "pan", 4, "PAN_x4"),
    ("aan_x2.pt", "a2n", 2, "A2N_x2"),
    ("HPINet-M-x4.pth", "hpinet-m", 4, "HPINet-M_x4"),
    ("HPINet-M-x4.pth", "hpinet-m", 4, "HPINet-M_x4_odd25x37"),
    ("HPINet-M-x4.pth", "hpinet-m", 4, "HPINet-M_x4_odd31x47"),
]
KEYS = {"PAN": "pan", "A2N": "a2n", "MAFFSRN": "maffsrn", "MAFFSRN-L": "maffsrn-l"} | {
    f"HPINet{size}": f"hpinet-{size.lower()}" for size in "SML"
}
# Of the restatement that SRRAM's golden files were made with, and ours.
SRRAM_NAMES = {
    r"blocks\.(\d+)\.squeeze": r"body.\1.fc1",
    r"blocks\.(\d+)\.excite": r"body.\1.fc2",
    r"blocks\.(\d+)\.depthwise": r"body.\1.dw",
    r"blocks\.(\d+)\.(conv\d)": r"body.\1.\2",
    r"trunk_end": "body_conv",
    r"upsample": "up",
    r"last": "recon",
}


@pytest.mark.parametrize(("file", "name", "scale", "golden"), CHECKPOINTS)
def test_the_authors_weights_give_the_golden_output(
    shared: Path, tmp_path: Path, file: str, name: str, scale: int, golden: str
) -> None:
    made = import_checkpoint(shared / "oracles/checkpoints" / file, tmp_path / "a", name, scale)
    compare(load_model(name, scale, made.path), shared, golden)


@pytest.mark.parametrize(("name", "scale"), [("MAFFSRN", 2), ("MAFFSRN", 4), ("MAFFSRN-L", 2)])
def test_maffsrn_gives_the_golden_output(shared: Path, name: str, scale: int) -> None:
    layout = json.loads((shared / f"oracles/keys/{name}_x{scale}.json").read_text())
    tensors = {key: synthetic(key, shape) for key, shape in layout["keys"].items()}
    model = create_model(name.lower(), scale)
    model.load_state_dict(recognise(tensors, name).tensors)
    compare(model, shared, f"synthetic_{name}_x{scale}")


@pytest.mark.parametrize("scale", [2, 4])
def test_srram_gives_the_golden_output(shared: Path, scale: int) -> None:
    model = create_model("srram", scale)
    tensors = {}
    for name, value in model.state_dict().items():
        theirs = name
        for pattern, replacement in SRRAM_NAMES.items():
            theirs = re.sub(f"^{pattern}", replacement, theirs)
        shape = tuple(value.shape)
        linear = ".fc" in theirs and theirs.endswith("weight")
        tensors[name] = synthetic(theirs, shape[:2] if linear else shape).view(shape)
    model.load_state_dict(tensors)
    compare(model, shared, f"synthetic_SRRAM_x{scale}")


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_authors_names_and_shapes_are_all_known(shared: Path, name: str, scale: int) -> None:
    layout = json.loads((shared / f"oracles/keys/{name}_x{scale}.json").read_text())
    tensors = {key: torch.empty(shape, device="meta") for key, shape in layout["keys"].items()}
    found = recognise(tensors, "the authors' state dict")
    assert (found.model, scale in found.scales) == (KEYS[name], True)
    shapes = {key: tuple(tensor.shape) for key, tensor in found.tensors.items()}
    assert shapes == expected_shapes(KEYS[name], scale)


def compare(model: nn.Module, shared: Path, golden: str) -> None:
    """The largest difference from a golden output is at most 1e-5."""
    arrays = np.load(shared / f"oracles/golden/{golden}.npz")
    with torch.no_grad():
        output = model.eval()(torch.from_numpy(arrays["input"])[None])[0]
    torch.testing.assert_close(output, torch.from_numpy(arrays["output"]), rtol=0, atol=1e-5)


def synthetic(key: str, shape: tuple[int, ...]) -> Tensor:
    """The random weights of a tensor by its name."""
    noise = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("weight_g"):
        noise = 0.8 + 0.1 * noise
    elif key.endswith(".scale"):
        noise = 0.7 + 0.1 * noise
    elif len(shape) >= 2:
        noise *= 0.8 / np.sqrt(np.prod(shape[1:]))
    else:
        noise *= 0.02
    return torch.from_numpy(noise.astype(np.float32))
