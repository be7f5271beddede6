"""The networks in bf16 with programs of our own: close to float32, and float32 where asked."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import photo_like
from test_fuse import make
from torch import Tensor, nn

from sruplift import engine
from sruplift.engine import Engine
from sruplift.fuse import fused
from sruplift.fuse.half import has_programs, in_half
from sruplift.fuse.half_network import HalfNetwork
from sruplift.kernels import Kernels
from sruplift.models.hpinet import HPINet, HPINetConfig
from sruplift.models.layers import Frame, SuperResolver
from sruplift.models.pan import PAN, PANConfig
from sruplift.weights import load_model

EVERY = [(name, scale) for name in ("pan", "a2n", "hpinet-s") for scale in (2, 3, 4)]
EVERY.append(("hpinet-l", 2))


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def bf16(network: nn.Module, *inputs: Tensor | Frame) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        result = network(*inputs)
    assert isinstance(result, Tensor)
    assert result.dtype == torch.float32
    return result


def multiplies_bf16(monkeypatch: pytest.MonkeyPatch, *, does: bool = True) -> None:
    """Whatever the kernels have found out before."""
    monkeypatch.setattr(Kernels, "in_half", property(lambda _: does))


def error(result: Tensor, exact: Tensor) -> float:
    return float((result - exact).square().mean().sqrt())


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_it_is_about_as_close_to_float32_as_pytorch(
    kernels: Kernels, name: str, scale: int
) -> None:
    net = make(name, scale)
    plain = fused(net)
    quick = in_half(plain, kernels)
    assert isinstance(quick, HalfNetwork)
    for image in (photo_like(48, 60)[None], photo_like(70, 33)[None]):
        exact = net(image)
        assert 0 < error(bf16(quick, image), exact) < 1.5 * error(bf16(plain, image), exact)


@pytest.mark.parametrize(("name", "scale"), EVERY)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 2), (17, 97)])
def test_any_size(kernels: Kernels, name: str, scale: int, size: tuple[int, int]) -> None:
    net = make(name, scale)
    image, exact = photo_like(*size)[None], net(photo_like(*size)[None])
    result = bf16(in_half(fused(net), kernels), image)
    torch.testing.assert_close(result, exact, rtol=0, atol=0.02 * float(exact.abs().max()))


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_float32_is_float32(kernels: Kernels, name: str, scale: int) -> None:
    net = make(name, scale)
    plain = fused(net)
    image = photo_like(20, 21)[None]
    assert torch.equal(in_half(plain, kernels)(image), plain(image))


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_images_of_a_batch_are_alone(kernels: Kernels, name: str, scale: int) -> None:
    quick = in_half(fused(make(name, scale)), kernels)
    images = torch.stack([photo_like(24, 30, seed=seed) for seed in range(3)])
    images = images.contiguous(memory_format=torch.channels_last)
    together = bf16(quick, images)
    for image, result in zip(images, together, strict=True):
        assert torch.equal(bf16(quick, image[None])[0], result)


def test_pooling_around_a_pixel(kernels: Kernels) -> None:
    net = make("a2n", 2)
    net.window = 16
    plain, image = fused(net), photo_like(40, 31)[None]
    quick, exact = in_half(plain, kernels), net(image)
    assert 0 < error(bf16(quick, image), exact) < 1.5 * error(bf16(plain, image), exact)
    net.window = None
    assert error(exact, net(image)) > 2 * error(bf16(quick, image), exact)


def test_a_copy_is_of_its_own(kernels: Kernels) -> None:
    quick = in_half(fused(make("pan", 2)), kernels)
    image = photo_like(16, 18)[None]
    assert torch.equal(bf16(copy.deepcopy(quick), image), bf16(quick, image))


@pytest.mark.parametrize("ensemble", [False, True])
def test_one_pixel_through_the_engine(monkeypatch: pytest.MonkeyPatch, *, ensemble: bool) -> None:
    """It passes for contiguous in any order of its channels."""
    monkeypatch.setattr(engine, "cpu_gains_by_programs", lambda: True)
    multiplies_bf16(monkeypatch)
    net, image = make("pan", 2), photo_like(1, 1)[None]
    for lr in (image, image.contiguous(memory_format=torch.channels_last)):
        made = Engine(net, 2, "cpu", "bf16", compile_mode="auto", self_ensemble=ensemble)
        expected = Engine(net, 2, "cpu", "fp32", compile_mode="off", self_ensemble=ensemble)
        torch.testing.assert_close(made.run(lr), expected.run(lr), rtol=0, atol=0.02)


@pytest.mark.usefixtures("kernels")
def test_networks_of_other_sizes_stay_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "cpu_gains_by_programs", lambda: True)
    multiplies_bf16(monkeypatch)
    odd = HPINetConfig(2, patch_sizes=(13,))
    for net in (PAN(PANConfig(2, num_features=42)), HPINet(odd)):
        made = Engine(net, 2, "cpu", "bf16", compile_mode="auto")
        assert not made.compiled
        assert made.run(photo_like(33, 40)[None]).shape == (1, 3, 66, 80)


def test_a_processor_without_a_description_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)

    def missing(_: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert not engine.cpu_gains_by_programs()
    assert not engine.cpu_computes_bf16()


def test_what_wants_a_gradient_stays_with_pytorch(kernels: Kernels) -> None:
    """Programs have none; the rewritten network says so itself."""
    with torch.inference_mode(mode=False), torch.autocast("cpu", torch.bfloat16):
        plain = fused(load_model("pan", 2))
        quick, lr = in_half(plain, kernels), photo_like(12, 14)[None].requires_grad_()
        assert torch.equal(quick(lr), plain(lr))
        assert not torch.equal(quick(lr.detach()), plain(lr.detach()))


@pytest.mark.usefixtures("kernels")
def test_the_engine_takes_it_where_the_processor_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "cpu_gains_by_programs", lambda: True)
    multiplies_bf16(monkeypatch)
    net = make("pan", 4)
    made = Engine(net, 4, "cpu", "bf16", compile_mode="on")
    assert isinstance(made.model, HalfNetwork)
    assert made.compiled
    assert made.needs == fused(net).needs  # type: ignore[comparison-overlap]
    assert not isinstance(Engine(net, 4, "cpu", "bf16").model, HalfNetwork)
    multiplies_bf16(monkeypatch, does=False)
    assert not Engine(net, 4, "cpu", "bf16", compile_mode="auto").compiled
    multiplies_bf16(monkeypatch)
    monkeypatch.setattr(engine, "cpu_gains_by_programs", lambda: False)
    assert not Engine(net, 4, "cpu", "bf16", compile_mode="auto").compiled


@pytest.mark.usefixtures("kernels")
def test_what_comes_out_as_no_number_runs_in_float32_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "cpu_gains_by_programs", lambda: True)
    multiplies_bf16(monkeypatch)

    nothing = torch.full((1, 3, 32, 36), float("nan"))
    net = make("pan", 2)
    made = Engine(net, 2, "cpu", "bf16", compile_mode="on")
    assert isinstance(made.model, HalfNetwork)
    monkeypatch.setattr(type(made.model), "in_half", lambda *_: nothing)
    image = photo_like(16, 18)[None]
    torch.testing.assert_close(made.run(image), net(image), rtol=0, atol=1e-5)


def test_what_has_no_programs_says_so() -> None:
    assert has_programs(fused(make("pan", 2)))
    assert not has_programs(nn.Conv2d(3, 3, 3))
    assert not has_programs(SuperResolver())
