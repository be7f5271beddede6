"""Networks rewritten for export give what they gave, for images and tiles of any size."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import photo_like
from exports import NAMES, small_network
from torch import nn

from sruplift.errors import UsageError
from sruplift.exportable import exportable, means_around
from sruplift.models import create_model, layers

CLOSE = {"rtol": 0, "atol": 2e-6}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [2, 3, 4])
@torch.no_grad()
def test_the_result_is_the_same(name: str, scale: int) -> None:
    net = small_network(name, scale)
    before = copy.deepcopy(net.state_dict())
    made = exportable(net)
    if net.needs.window is not None:
        net.window = net.needs.window  # type: ignore[assignment]
    for height, width in ((13, 70), (64, 33)):
        image = photo_like(height, width)[None]
        expected = net(image)
        assert expected.std() > 0.01
        # Of what random weights make, which is as large as 5.
        size = max(1.0, float(expected.abs().max()))
        assert (made(image) - expected).abs().max() <= CLOSE["atol"] * size
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@torch.no_grad()
def test_a_tile_knows_its_place() -> None:
    net = small_network("maffsrn")
    made = exportable(net)
    assert made.framed
    tile = photo_like(36, 42)[None]
    result = made(tile, torch.tensor([6, 12, 61, 90]))
    torch.testing.assert_close(result, net(tile, layers.Frame(6, 12, 61, 90)), **CLOSE)
    assert (result - made(tile)).abs().max() > 100 * CLOSE["atol"]


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (24, 23), (61, 13)])
def test_means_around_blocks(shape: tuple[int, int]) -> None:
    x = photo_like(*shape)[None]
    torch.testing.assert_close(means_around(x, 24), layers.means_around(x, 24), **CLOSE)


def test_hpinet_is_refused() -> None:
    with pytest.raises(UsageError, match="HPINet cannot be exported"):
        exportable(create_model("hpinet-s", 2))


def test_what_is_not_ours_stays_as_it_is() -> None:
    net = nn.Conv2d(3, 3, 3)
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(exportable(net)(image), net(image))
