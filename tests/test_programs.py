"""The networks with programs of our own, in float32 and bf16: close to what they are without."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import photo_like
from test_fuse import make
from torch import Tensor, nn

from sruplift import engine
from sruplift.engine import Engine
from sruplift.fuse import fused
from sruplift.fuse.program_network import ProgramNetwork
from sruplift.fuse.programs import has_programs, in_programs
from sruplift.kernels import Arithmetic, Convolution, Kernels, spare
from sruplift.models.hpinet import HPINet, HPINetConfig
from sruplift.models.layers import Frame, SuperResolver
from sruplift.models.pan import PAN, PANConfig
from sruplift.tiling import Rows, assemble
from sruplift.weights import load_model

EVERY = [(name, scale) for name in ("pan", "a2n", "hpinet-s") for scale in (2, 3, 4)]
EVERY.append(("hpinet-l", 2))


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def computed(arithmetic: Arithmetic, network: nn.Module, *inputs: Tensor | Frame) -> Tensor:
    """What ``network`` makes of them if it is asked for ``arithmetic``."""
    with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic.half):
        result = network(*inputs)
    assert isinstance(result, Tensor)
    assert result.dtype == torch.float32
    return result


def multiplies_bf16(monkeypatch: pytest.MonkeyPatch, *, does: bool = True) -> None:
    """Whatever the kernels have found out before."""
    monkeypatch.setattr(Kernels, "multiplies_half", property(lambda _: does))


def error(result: Tensor, exact: Tensor) -> float:
    return float((result - exact).square().mean().sqrt())


def require_close(
    arithmetic: Arithmetic, quick: nn.Module, plain: nn.Module, image: Tensor, exact: Tensor
) -> None:
    """To ``exact``: in bf16 about as close as PyTorch's."""
    result = computed(arithmetic, quick, image)
    if arithmetic.half:
        assert 0 < error(result, exact) < 1.5 * error(computed(arithmetic, plain, image), exact)
    else:
        assert not torch.equal(result, computed(arithmetic, plain, image))
        torch.testing.assert_close(result, exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_it_is_about_as_close_as_pytorch(arithmetic: Arithmetic, name: str, scale: int) -> None:
    net = make(name, scale)
    plain = fused(net)
    quick = in_programs(plain, arithmetic)
    assert isinstance(quick, ProgramNetwork)
    # HPINet in bf16 that is not the processor's own is slow: one image, of more rows than a band.
    slow = arithmetic.half and name.startswith("hpinet")
    for size in ((50, 33),) if slow else ((48, 60), (70, 33)):
        image = photo_like(*size)[None]
        require_close(arithmetic, quick, plain, image, net(image))


@pytest.mark.parametrize(("name", "scale"), EVERY)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 2), (17, 97)])
def test_any_size(arithmetic: Arithmetic, name: str, scale: int, size: tuple[int, int]) -> None:
    net = make(name, scale)
    image, exact = photo_like(*size)[None], net(photo_like(*size)[None])
    result = computed(arithmetic, in_programs(fused(net), arithmetic), image)
    within = 0.02 * float(exact.abs().max()) if arithmetic.half else 1e-5
    torch.testing.assert_close(result, exact, rtol=0, atol=within)


@pytest.mark.parametrize("name", ["pan", "hpinet-s"])
def test_tiles_give_the_same(kernels: Kernels, name: str) -> None:
    net = make(name, 2)
    quick = in_programs(fused(net), Arithmetic(kernels, half=False))
    tile, frame = photo_like(32, 32)[None], Frame(16, 32, 80, 96)
    torch.testing.assert_close(quick(tile, frame), net(tile, frame), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", ["pan", "a2n", "hpinet-s"])
def test_maps_of_later_tiles_lie_where_those_of_the_first_did(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made: list[int] = []
    empty = torch.empty

    def counted(*args: Any, **options: Any) -> Tensor:
        made.append(args[0])
        return empty(*args, **options)

    monkeypatch.setattr(spare, "torch", SimpleNamespace(empty=counted, int32=torch.int32))
    runner = Engine(make(name, 2), 2, "cpu", "fp32", compile_mode="on")
    image = photo_like(80, 48)[None]
    runs = []
    for height in (80, 48):
        part = image[..., :height, :48]
        plan = runner.plan(Rows.of(part), 48, 24)
        assert assemble(runner.bands(part, 48, 24), 2 * height).shape == (1, 3, 2 * height, 96)
        runs.append((len(plan), list(made)))
        made.clear()
    (many, first), (one, alone) = runs
    assert (many, one) == (3, 1)
    assert sorted(first) == sorted(alone)
    assert alone


def test_between_rows_of_tiles_memory_goes_back_where_it_would_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[int] = []
    monkeypatch.setattr(engine, "give_back", lambda: given.append(1))
    runner = Engine(make("pan", 2), 2, "cpu", "fp32")
    for kept, count in ((False, 0), (True, 3)):
        monkeypatch.setattr(engine, "is_kept", lambda kept=kept: kept)
        list(runner.bands(photo_like(80, 24)[None], 48, 24))
        assert len(given) == count
    given.clear()
    list(runner.bands(photo_like(40, 64)[None], 48, 24))
    assert not given


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_another_arithmetic_is_pytorchs(arithmetic: Arithmetic, name: str, scale: int) -> None:
    plain, image = fused(make(name, scale)), photo_like(20, 21)[None]
    other = Arithmetic(arithmetic.kernels, not arithmetic.half)
    quick = in_programs(plain, arithmetic)
    assert torch.equal(computed(other, quick, image), computed(other, plain, image))


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_images_of_a_batch_are_alone(arithmetic: Arithmetic, name: str, scale: int) -> None:
    quick = in_programs(fused(make(name, scale)), arithmetic)
    images = torch.stack([photo_like(24, 30, seed=seed) for seed in range(3)])
    images = images.contiguous(memory_format=torch.channels_last)
    together = computed(arithmetic, quick, images)
    for image, result in zip(images, together, strict=True):
        assert torch.equal(computed(arithmetic, quick, image[None])[0], result)


def test_pooling_around_a_pixel(arithmetic: Arithmetic) -> None:
    net = make("a2n", 2)
    net.window = 16
    plain, image = fused(net), photo_like(40, 31)[None]
    quick, exact = in_programs(plain, arithmetic), net(image)
    require_close(arithmetic, quick, plain, image, exact)
    net.window = None
    assert error(exact, net(image)) > 2 * error(computed(arithmetic, quick, image), exact)


def test_a_copy_is_of_its_own(arithmetic: Arithmetic) -> None:
    quick = in_programs(fused(make("pan", 2)), arithmetic)
    expected = computed(arithmetic, quick, image := photo_like(16, 18)[None])
    assert torch.equal(computed(arithmetic, copy.deepcopy(quick), image), expected)


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
    """In bf16; in float32 their convolutions are ours."""
    monkeypatch.setattr(engine, "cpu_gains_by_programs", lambda: True)
    multiplies_bf16(monkeypatch)
    odd, image = HPINetConfig(2, patch_sizes=(13,)), photo_like(33, 40)[None]
    for net in (PAN(PANConfig(2, num_features=42)), HPINet(odd)):
        made = Engine(net, 2, "cpu", "bf16", compile_mode="auto")
        assert not made.compiled
        assert made.run(image).shape == (1, 3, 66, 80)
        made = Engine(net, 2, "cpu", "fp32", compile_mode="auto")
        assert any(isinstance(module, Convolution) for module in made.model.modules())
        torch.testing.assert_close(made.run(image), net.eval()(image), rtol=0, atol=1e-5)


def test_a_processor_without_a_description_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)

    def missing(_: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert not engine.cpu_gains_by_programs()
    assert not engine.cpu_computes_bf16()


def test_what_wants_a_gradient_stays_with_pytorch(arithmetic: Arithmetic) -> None:
    """Programs have none; the rewritten network says so itself."""
    with torch.inference_mode(mode=False):
        plain = fused(load_model("pan", 2))
        quick, lr = in_programs(plain, arithmetic), photo_like(12, 14)[None].requires_grad_()
        expected = computed(arithmetic, plain, lr)
        assert torch.equal(computed(arithmetic, quick, lr), expected)
        assert not torch.equal(computed(arithmetic, quick, lr.detach()), expected)


@pytest.mark.usefixtures("kernels")
def test_the_engine_takes_it_where_the_processor_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "cpu_gains_by_programs", lambda: True)
    multiplies_bf16(monkeypatch)
    net = make("pan", 4)
    for precision in ("fp32", "bf16"):
        made = Engine(net, 4, "cpu", precision, compile_mode="on")
        assert isinstance(made.model, ProgramNetwork)
        assert made.model.arithmetic.half == (precision == "bf16")
        assert made.compiled
    assert made.needs == fused(net).needs  # type: ignore[comparison-overlap]
    assert not isinstance(Engine(net, 4, "cpu", "bf16").model, ProgramNetwork)
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
    assert isinstance(made.model, ProgramNetwork)
    monkeypatch.setattr(type(made.model), "by_programs", lambda *_: nothing)
    image = photo_like(16, 18)[None]
    torch.testing.assert_close(made.run(image), net(image), rtol=0, atol=1e-5)


def test_what_has_no_programs_says_so() -> None:
    assert has_programs(fused(make("pan", 2)))
    assert not has_programs(nn.Conv2d(3, 3, 3))
    assert not has_programs(SuperResolver())
