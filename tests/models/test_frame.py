"""Networks whose tiles depend on their place: told it, they compute what the image does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import photo_like
from torch import Tensor

from sruplift.datasets import read_hr
from sruplift.dihedral import SelfEnsemble
from sruplift.engine import Engine
from sruplift.models.hpinet import HPINet, HPINetConfig, PatchGrid
from sruplift.models.layers import Frame, SuperResolver
from sruplift.models.maffsrn import MAFFSRN, MAFFSRNConfig, MultiAttentionBlock, stretched
from sruplift.tiling import assemble, plan_tiles, run_tiled
from sruplift.weights import load_model

BRIDGE = Path(__file__).parent.parent / "images" / "bridge.png"


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def tiled(net: SuperResolver | SelfEnsemble, image: Tensor, tile: int, overlap: int) -> Tensor:
    """``net``, at x2, on tiles that know their place."""
    height, width = image.shape[-2:]

    def fn(part: Tensor, at: tuple[int, int]) -> Tensor:
        return net(part, Frame(*at, height, width))  # type: ignore[no-any-return]

    plan = plan_tiles(height, width, tile, overlap, 0, 6)
    assert len(plan) > 1
    return assemble(run_tiled(fn, image, plan, 2), height * 2)


@pytest.mark.parametrize(("model", "edge", "short"), [("hpinet-s", 128, 20), ("maffsrn", 64, 12)])
@pytest.mark.parametrize("lying", [True, False])
def test_tiles_of_a_thin_image_know_their_place_along_it(
    model: str, edge: int, short: int, lying: bool
) -> None:
    """They are mirrored to what the network needs, on one side; not knowing gave errors above 5."""
    engine = Engine(load_model(model, 2), 2, "cpu", "fp32")
    image = read_hr(BRIDGE)[None, :, 100 : 100 + short, :240] / 255
    image = image if lying else image.mT.contiguous()
    rows = 2 * image.shape[-2]
    whole = assemble(engine.bands(image, 240, 0), rows)
    part = assemble(engine.bands(image, edge), rows)
    assert (part - whole).abs().max() * 255 < 1


@pytest.mark.parametrize("wrap", [lambda net: net, SelfEnsemble])
def test_maffsrn_in_tiles_equals_the_whole(wrap: type[SelfEnsemble]) -> None:
    """One group of four blocks, each of which looks about 40 pixels far."""
    torch.manual_seed(0)
    fresh = MAFFSRN(MAFFSRNConfig(2, num_groups=1)).eval().double()
    for name, parameter in fresh.named_parameters():
        if "dilated" in name or "increase" in name:
            parameter.mul_(8)  # Fresh weights hardly look afar.
    net = wrap(fresh)
    image = photo_like(13, 700)[None].double()
    whole = net(image)
    part = tiled(net, image, 500, 360)
    assert (part - whole).abs().max() < 1e-9
    # Not told, it stretches the far attention as for a smaller image.
    plain = net(image[..., 300:600])[..., 200:300]
    assert (plain - whole[..., 800:900]).abs().max() > 1e-6


def test_a_maffsrn_block_stretches_as_torch_does() -> None:
    torch.manual_seed(0)
    block = MultiAttentionBlock(32)
    for size in (13, 14, 40, 61):
        x = torch.rand(1, 32, size, size + 5)
        pooled = torch.nn.functional.max_pool2d(block.shrink(block.reduce(x)), 7, 3)
        expected = torch.nn.functional.interpolate(pooled, size=x.shape[-2:], mode="nearest")
        assert torch.equal(_by_block(pooled, x), expected)


def _by_block(pooled: Tensor, x: Tensor) -> Tensor:
    rows, columns = stretched(pooled, x, Frame.whole(x))
    return pooled.index_select(-2, rows).index_select(-1, columns)


def test_hpinet_in_tiles_divides_as_the_whole_does() -> None:
    """With one partner to choose from, only the division could differ, and the ends of a tile."""
    torch.manual_seed(0)
    net = HPINet(HPINetConfig(2, 8, 8, 16, (12, 14))).eval().double()
    for block in net.blocks:
        block.match.forward = lambda tokens: tokens  # type: ignore[method-assign, assignment]
    image = photo_like(24, 301)[None].double()
    whole = net(image)
    assert (tiled(net, image, 204, 120) - whole).abs().max() < 1e-9
    assert (net(image[..., 6:210])[..., 200:220] - whole[..., 212:232]).abs().max() > 1e-6


def test_patches_of_a_whole_image_are_the_authors() -> None:
    grid = PatchGrid(31, 12, 0, 31)
    assert grid.starts == [0, 10, 19]
    # Two patches meet in pixels 10 and 11; three pixels more in 19 to 21.
    weights = grid.weights(torch.device("cpu"))
    assert weights[[9, 10, 11, 12, 18, 19, 21, 22]].tolist() == [1, 0.5, 0.5, 1, 1, 0.5, 0.5, 1]


def test_patches_of_a_part_lie_where_the_image_has_them() -> None:
    grid = PatchGrid(length=40, size=12, start=24, total=200)
    # The image's patches begin at 30, 40 and 50; the ends of the part have none that is whole.
    assert grid.starts == [0, 6, 16, 26, 28]
    count = torch.zeros(40)
    for start in grid.starts:
        count[start : start + 12] += 1
    mean = grid.weights(torch.device("cpu")) * count
    torch.testing.assert_close(mean, torch.ones(40))
