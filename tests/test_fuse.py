"""Networks rewritten for inference give what they gave, at every border, for less work."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import photo_like
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sruplift.complexity import count_mult_adds
from sruplift.datasets import read_hr
from sruplift.engine import Engine
from sruplift.fuse import fused, rewrites
from sruplift.fuse.hpinet import FusedAttention
from sruplift.importer import read_tensors, recognise
from sruplift.models import MODELS, create_model
from sruplift.models.hpinet import Attention, scaled_dot_product
from sruplift.models.layers import Frame, SuperResolver, bilinear, conv
from sruplift.models.srram import SRRAM
from sruplift.resize import bicubic
from sruplift.weights import load_model

EVERY = [(name, scale) for name, spec in MODELS.items() for scale in spec.scales]
ONE_OF_EACH = [("pan", 2), ("pan", 3), ("pan", 4), ("a2n", 3), ("maffsrn", 4), ("srram", 4)]
DAMPED = {"hpinet": "last.", "srram": "last.weight", "maffsrn": ("scale3", "scale5")}
CLOSE = {"rtol": 0, "atol": 1e-6}


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.no_grad():
        yield


def make(name: str, scale: int) -> SuperResolver:
    """Bundled weights for PAN. Else random ones, with every bias, norm and scalar in use.

    The last layer is damped, so that results are within pictures' range.
    """
    if name == "pan":
        net = load_model(name, scale)
        assert isinstance(net, SuperResolver)
        return net
    torch.manual_seed(scale)
    net = create_model(name, scale).eval()
    for parameter_name, parameter in net.named_parameters():
        if parameter.dim() < 2:
            parameter += 0.1 * torch.randn_like(parameter)
        if "weight_g" in parameter_name:
            parameter *= 1 + 0.1 * torch.randn_like(parameter)
        if "decide" in parameter_name:
            parameter *= 100  # else each branch of A2N counts half
        if "squeeze.weight" in parameter_name:
            parameter *= 100  # SRRAM's variances are small at the start
        if parameter_name.startswith(DAMPED.get(name.partition("-")[0], "none")):
            parameter *= 0.1
    return net


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_the_result_is_the_same(name: str, scale: int) -> None:
    net = make(name, scale)
    quick = fused(net)
    assert quick is not net
    # It takes less memory; what it wants of a tile is the same.
    assert replace(quick.needs, memory=net.needs.memory) == net.needs
    assert quick.needs.memory <= net.needs.memory
    assert quick.scale == net.scale
    images = [photo_like(33, 47)[None], photo_like(1, 7)[None], photo_like(1, 1)[None]]
    for image in images:
        expected = net(image)
        assert expected.std() > 0
        torch.testing.assert_close(quick(image), expected, **CLOSE)


@pytest.mark.parametrize("name", ["pan", "a2n-m", "maffsrn", "srram", "hpinet-s"])
def test_a_batch_and_channels_last_and_a_frame(name: str) -> None:
    net = make(name, 2)
    quick = fused(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = torch.stack([photo_like(36, 42), photo_like(36, 42, seed=1)])
    frame = Frame(6, 12, 60, 90)
    result = quick(batch.contiguous(memory_format=torch.channels_last), frame)
    torch.testing.assert_close(result, net(batch, frame), **CLOSE)


@pytest.mark.parametrize("name", ["a2n", "srram"])
def test_pooling_around_each_pixel(name: str) -> None:
    net = make(name, 2)
    net.window = 12  # type: ignore[assignment]
    quick = fused(net)
    assert quick.window == 12
    image = photo_like(20, 31)[None]
    local = quick(image)
    torch.testing.assert_close(local, net(image), **CLOSE)
    quick.window = None  # type: ignore[assignment]
    assert (quick(image) - local).abs().max() > 1e-6


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_srram_takes_its_image_past_half_precision(scale: int) -> None:
    torch.manual_seed(scale)
    net = create_model("srram", scale).eval()
    assert isinstance(net, SRRAM)
    # Less of the features, which half precision rounds, too.
    net.last.weight[:, 3:] *= 0.1
    assert net.holds_the_image
    quick = fused(net)
    for size in ((33, 47), (6, 6), (5, 9), (1, 1)):
        image = photo_like(*size)[None]
        torch.testing.assert_close(quick(image), net(image), **CLOSE)
    image = photo_like(33, 47)[None]
    inner = slice(scale, -scale)
    exact = net(image)[..., inner, inner]
    with torch.autocast("cpu", torch.bfloat16):
        errors = [(each(image)[..., inner, inner] - exact).std() for each in (net, quick)]
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize(("name", "scale"), [("pan", 2), ("pan", 3), ("pan", 4), ("a2n-m", 4)])
@pytest.mark.parametrize("pixels", [1, 12 * 40])
def test_strips_join_without_a_trace(
    monkeypatch: pytest.MonkeyPatch, name: str, scale: int, pixels: int
) -> None:
    net = make(name, scale)
    image = photo_like(37, 40)[None]
    whole = fused(net)(image)
    monkeypatch.setattr(rewrites, "STRIP_PIXELS", pixels)
    torch.testing.assert_close(fused(net)(image), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["pan", "a2n", "maffsrn", "srram", "hpinet-s"])
def test_the_given_network_stays_as_it_is(name: str) -> None:
    net = make(name, 2).train()
    before = copy.deepcopy(net.state_dict())
    quick = fused(net)
    for parameter in quick.parameters():
        assert not parameter.requires_grad
        parameter.zero_()
    assert net.training
    assert not quick.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("name", "scale", "share"),
    [
        ("pan", 2, 0.95),
        ("pan", 3, 0.93),
        ("pan", 4, 0.90),
        ("a2n", 4, 0.97),
        ("maffsrn", 4, 0.96),
        ("srram", 2, 0.90),
        ("srram", 4, 0.65),
    ],
)
def test_there_is_less_to_compute(name: str, scale: int, share: float) -> None:
    net = make(name, scale)
    quick = fused(net)
    assert isinstance(quick, SuperResolver)
    before, after = (count_mult_adds(x, 64, 64).total for x in (net, quick))
    assert after < before * share


class Weights(TorchDispatchMode):
    """Notes how many weights of attention are made at once."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        if "exp_" in func.name():
            self.counts.append(made.numel())
        return made


def test_hpinet_holds_the_weights_of_a_few_patches_only(monkeypatch: pytest.MonkeyPatch) -> None:
    net = fused(make("hpinet-s", 2))
    image = photo_like(60, 60)[None]
    whole = net(image)
    for pairs in (500_000, 1):
        monkeypatch.setattr("sruplift.fuse.hpinet.CACHED_WEIGHTS", pairs)
        with Weights() as weights:
            torch.testing.assert_close(net(image), whole, rtol=0, atol=1e-6)
        assert max(weights.counts) <= max(pairs, 24**4)


def test_hpinet_attends_as_pytorch_does() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 2, 5, 144, 32, generator=generator)
    value = torch.randn(2, 5, 144, 56, generator=generator)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=0.2)
    torch.testing.assert_close(scaled_dot_product(query, key, value, 0.2), expected)


@pytest.mark.parametrize(
    ("strength", "alike"),
    [(1.0, False), (25.0, False), (20.0, True)],
    ids=["weak", "scores of thousands", "all weights too small"],
)
@torch.no_grad()
def test_hpinet_attends_rewritten_as_before(strength: float, alike: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(8, 4).eval()
    attention.query.weight.copy_(strength * torch.eye(4, 8))
    attention.key.weight.copy_((-strength if alike else strength) * torch.eye(4, 8))
    tokens = torch.randn(1, 3, 36, 8)
    if alike:  # each query far from each key, so that nothing is left of exp(-|q| |k|)
        tokens[:] = tokens[:, :, :1]
    others = None if alike else torch.randn(1, 3, 36, 8)
    quick = FusedAttention(attention)
    torch.testing.assert_close(quick(tokens, others), attention(tokens, others), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 7), (33, 20)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bilinear(scale: int, height: int, width: int) -> None:
    image = torch.rand(2, 3, height, width)
    torch.testing.assert_close(
        rewrites.Bilinear(scale)(image), bilinear(image, scale), rtol=0, atol=2e-7
    )


@pytest.mark.parametrize(("name", "scale"), [*ONE_OF_EACH, ("hpinet-s", 2)])
def test_bf16_is_no_further_from_fp32_than_before(name: str, scale: int) -> None:
    net = make(name, scale)
    image = photo_like(48, 60)[None]
    exact = net(image)
    errors = [
        (Engine(net, scale, "cpu", "bf16", local=False, fuse=fuse).run(image) - exact).square()
        for fuse in (False, True)
    ]
    before, after = (float(error.mean().sqrt()) for error in errors)
    assert 0 < after < 1.1 * before


def test_the_engine_runs_the_rewritten_network(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[nn.Module] = []

    def watched(model: nn.Module) -> nn.Module:
        seen.append(model)
        return fused(model)

    monkeypatch.setattr("sruplift.engine.fused", watched)
    net = make("pan", 2)
    Engine(net, 2, "cpu", "fp32", fuse=False)
    assert not seen
    engine = Engine(net, 2, "cpu", "fp32")
    assert seen == [net]
    assert type(engine.model) is type(fused(net))


def test_what_is_not_ours_comes_back_itself() -> None:
    net = nn.Conv2d(3, 3, 3)
    assert fused(net) is net


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3)])
def test_a_convolution_after_nearest_neighbour(factor: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    original = conv(4, 5, 3)
    x = torch.randn(2, 4, *size)
    expected = original(F.interpolate(x, scale_factor=factor, mode="nearest"))
    height, width = expected.shape[-2:]
    large = rewrites.spread(rewrites.of_nearest(original, factor)(x), factor)
    torch.testing.assert_close(large[..., 1 : height + 1, 1 : width + 1], expected, **CLOSE)


@pytest.mark.parametrize(("kernel", "factor"), [(3, 2), (3, 3), (5, 2)])
def test_a_convolution_in_blocks(kernel: int, factor: int) -> None:
    torch.manual_seed(0)
    original = conv(4, 3, kernel)
    x = torch.randn(2, 4, 2 * factor, 3 * factor)
    result = rewrites.spread(rewrites.in_blocks(original, factor)(x), factor)
    torch.testing.assert_close(result, original(x), **CLOSE)


def test_spread_is_pixel_shuffle_in_another_order() -> None:
    torch.manual_seed(0)
    original = conv(4, 18, 3)
    x = torch.randn(2, 4, 5, 6)
    result = rewrites.spread(rewrites.for_spread(original, 3)(x), 3)
    torch.testing.assert_close(result, F.pixel_shuffle(original(x), 3), **CLOSE)


def test_the_kernel_of_a_chain() -> None:
    torch.manual_seed(0)
    first, second = conv(2, 8, 3).double(), conv(2, 3, 3).double()

    def chain(x: Tensor) -> Tensor:
        return second(F.pixel_shuffle(first(x), 2))

    weight, bias = rewrites.kernel_of(chain, 2, 2, 2)
    x = torch.randn(1, 2, 9, 8, dtype=torch.float64)
    result = rewrites.spread(F.conv2d(x, weight, bias, padding=2), 2)
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(result[inside], chain(x)[inside])
    # At the border a chain sees zeros where this continues: nothing to compute away.
    assert (result - chain(x)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("file", "atol"),
    [("PANx4_DF2K.pth", 1e-6), ("aan_x2.pt", 1e-6), ("HPINet-M-x4.pth", 3e-6)],
)
def test_the_authors_weights(shared: Path, file: str, atol: float) -> None:
    """HPINet's own result is up to 1.3e-6 off its result in float64."""
    path = shared / "oracles" / "checkpoints" / file
    found = recognise(read_tensors(path)[0], str(path))
    net = create_model(found.model, found.scales[0]).eval()
    net.load_state_dict(found.tensors)
    hr = read_hr(shared / "benchmarks" / "Set5" / "HR" / "butterfly.png")
    image = bicubic(hr, size=(61, 67))[None].float() / 255
    torch.testing.assert_close(fused(net)(image), net(image), rtol=0, atol=atol)
