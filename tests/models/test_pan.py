from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sruplift.importer import expected_shapes, recognise
from sruplift.models import count_parameters, create_model
from sruplift.models.pan import PAN
from sruplift.weights import import_checkpoint, load_model

SCALES = (2, 3, 4)


def make(scale: int) -> PAN:
    """A PAN with fixed random weights."""
    torch.manual_seed(scale)
    model = create_model("pan", scale).eval()
    assert isinstance(model, PAN)
    return model


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize(("scale", "parameters"), [(2, 261_403), (3, 261_403), (4, 272_419)])
def test_parameters_are_the_papers(scale: int, parameters: int) -> None:
    assert count_parameters(make(scale)) == parameters


@pytest.mark.parametrize("scale", SCALES)
def test_output_is_scale_times_larger_for_every_small_size(scale: int) -> None:
    model = make(scale)
    for height in range(1, 21):
        width = 21 - height
        output = model(torch.rand(1, 3, height, width))
        assert output.shape == (1, 3, height * scale, width * scale)
        assert torch.isfinite(output).all()


@pytest.mark.parametrize("scale", SCALES)
def test_an_image_does_not_see_the_others_of_its_batch(scale: int) -> None:
    model = make(scale)
    batch = torch.rand(3, 3, 12, 17)
    alone = torch.cat([model(image[None]) for image in batch])
    torch.testing.assert_close(model(batch), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_nothing_outside_the_receptive_field_matters(scale: int) -> None:
    """A pixel just outside changes no bit of the outputs that it is outside of."""
    model = make(scale)
    reach = model.receptive_field
    image = torch.rand(1, 3, 4, reach + 6)
    changed = image.clone()
    changed[..., 0] = 1 - changed[..., 0]
    before, after = model(image), model(changed)
    outside = (reach + 1) * scale
    assert torch.equal(before[..., outside:], after[..., outside:])
    assert not torch.equal(before[..., :outside], after[..., :outside])


@pytest.mark.parametrize("scale", SCALES)
def test_the_receptive_field_is_no_larger_than_it_needs_to_be(scale: int) -> None:
    """A pixel at its edge does matter. By gradients: so far away a change is lost in rounding."""
    model = make(scale).double()
    reach = model.receptive_field
    image = torch.rand(1, 3, 3, reach + 2, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        cell = model(image)[..., reach * scale : (reach + 1) * scale]
        (gradient,) = torch.autograd.grad(cell.sum(), image)
    assert gradient[..., 0].abs().max() > 0


@pytest.mark.shared
@pytest.mark.parametrize("scale", SCALES)
def test_the_authors_names_and_shapes_are_all_known(shared: Path, scale: int) -> None:
    layout = json.loads((shared / f"oracles/keys/PAN_x{scale}.json").read_text())
    tensors = {name: torch.empty(shape, device="meta") for name, shape in layout["keys"].items()}
    found = recognise(tensors, "the authors' state dict")
    assert scale in found.scales
    assert {n: tuple(t.shape) for n, t in found.tensors.items()} == expected_shapes("pan", scale)


@pytest.mark.shared
def test_the_authors_weights_give_the_golden_output(shared: Path, tmp_path: Path) -> None:
    source = shared / "oracles/checkpoints/PANx4_DF2K.pth"
    made = import_checkpoint(source, tmp_path / "pan_x4.safetensors", "pan", 4)
    model: nn.Module = load_model("pan", 4, made.path)
    golden = np.load(shared / "oracles/golden/PAN_x4.npz")
    output = model(torch.from_numpy(golden["input"])[None])[0]
    torch.testing.assert_close(output, torch.from_numpy(golden["output"]), rtol=0, atol=1e-5)
