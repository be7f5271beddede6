"""The networks with our own kernels give what they gave, and leave little to PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from conftest import photo_like
from test_fuse import EVERY, make
from torch import nn

from sruplift.engine import Engine
from sruplift.fuse import fused
from sruplift.fuse.compiled import with_kernels
from sruplift.kernels import Convolution, Kernels, convolution_of
from sruplift.models.layers import Frame
from sruplift.weights import load_model


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_networks_give_the_same(kernels: Kernels, name: str, scale: int) -> None:
    with torch.no_grad():
        net = make(name, scale)
    quick = with_kernels(fused(net), kernels)
    assert any(isinstance(module, Convolution) for module in quick.modules())
    for image in (photo_like(33, 47)[None], photo_like(1, 7)[None]):
        expected = net(image)
        assert expected.std() > 0
        torch.testing.assert_close(quick(image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["a2n", "srram"])
def test_pooling_around_a_pixel_gives_the_same(kernels: Kernels, name: str) -> None:
    net = make(name, 2)
    net.window = 16
    quick = with_kernels(fused(net), kernels)
    image = photo_like(40, 31)[None]
    torch.testing.assert_close(quick(image), net(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["maffsrn", "hpinet-s"])
def test_tiles_give_the_same(kernels: Kernels, name: str) -> None:
    net = make(name, 2)
    quick = with_kernels(fused(net), kernels)
    tile, frame = photo_like(32, 32)[None], Frame(16, 32, 80, 96)
    torch.testing.assert_close(quick(tile, frame), net(tile, frame), rtol=0, atol=1e-5)


def test_the_original_stays_as_it_is(kernels: Kernels) -> None:
    net = load_model("pan", 2)
    image = photo_like(12, 10)[None]
    before = net(image)
    Engine(net, 2, "cpu", "fp32", compile_mode="on")
    assert torch.equal(net(image), before)
    assert not any(isinstance(module, Convolution) for module in net.modules())
    conv = nn.Conv2d(8, 8, 3)
    made = convolution_of(kernels, conv)
    conv.weight.zero_()
    assert made.packed.abs().max() > 0
