from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sruplift.models import create_model
from sruplift.models.pan import PAN

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


@pytest.mark.parametrize("scale", SCALES)
def test_nothing_outside_the_receptive_field_matters(scale: int) -> None:
    """A pixel just outside changes no bit of the outputs that it is outside of."""
    model = make(scale)
    reach = model.needs.receptive_field
    assert reach is not None
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
    reach = model.needs.receptive_field
    assert reach is not None
    image = torch.rand(1, 3, 3, reach + 2, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        cell = model(image)[..., reach * scale : (reach + 1) * scale]
        (gradient,) = torch.autograd.grad(cell.sum(), image)
    assert gradient[..., 0].abs().max() > 0
