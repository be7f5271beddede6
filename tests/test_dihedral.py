"""Flips and rotations, and the ensemble over them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.dihedral import TRANSFORMS, SelfEnsemble, dihedral, undo_dihedral
from sruplift.engine import Engine


class Shift(nn.Module):
    """Twice as large, and all moved one LR pixel to the right: no symmetry at all."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x.roll(1, -1), scale_factor=2, mode="nearest")


def test_all_eight_differ_and_are_undone() -> None:
    image = torch.arange(12.0).view(3, 4)
    seen = [dihedral(image, transform) for transform in range(TRANSFORMS)]
    assert len({tuple(map(tuple, each.tolist())) for each in seen}) == 8
    for transform, turned in enumerate(seen):
        assert torch.equal(undo_dihedral(turned, transform), image)


def test_the_ensemble_is_the_mean_over_all_directions() -> None:
    """Of a network that moves to the right: a quarter each to the right, left, down and up."""
    image = torch.rand(2, 3, 6, 9)
    expected = sum(image.roll(by, dim) for by in (1, -1) for dim in (-1, -2)) / 4
    enlarged = F.interpolate(expected, scale_factor=2, mode="nearest")
    torch.testing.assert_close(SelfEnsemble(Shift())(image), enlarged)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_engine_does_it_when_asked(precision: str) -> None:
    image = torch.rand(1, 3, 6, 9)
    plain, ensemble = (
        Engine(Shift(), 2, "cpu", precision, self_ensemble=asked).run(image)
        for asked in (False, True)
    )
    torch.testing.assert_close(plain, Shift()(image))
    torch.testing.assert_close(ensemble, SelfEnsemble(Shift())(image))
