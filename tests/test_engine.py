"""Devices, precisions, tiles that fit, and what happens when they do not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import photo_like
from torch import Tensor, nn

from sruplift import engine as engine_module
from sruplift.engine import Engine, choose_device, choose_precision
from sruplift.errors import NumericalError, SrupliftError, UsageError
from sruplift.models import create_model
from sruplift.models.pan import PAN, PANConfig
from sruplift.tiling import DEFAULT_OVERLAP, Rows, assemble

CPU = torch.device("cpu")


class Nearest(nn.Module):
    """Twice as large; ``spoil`` may change a result, and ``shapes`` says what came in."""

    def __init__(self, spoil: Callable[[Tensor, Tensor], Tensor] = lambda _, sr: sr) -> None:
        super().__init__()
        self.spoil = spoil
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape[-2:]))
        return self.spoil(x, F.interpolate(x, scale_factor=2, mode="nearest"))


def out_of_memory_above(pixels: int) -> Callable[[Tensor, Tensor], Tensor]:
    def spoil(x: Tensor, sr: Tensor) -> Tensor:
        if x.shape[-1] * x.shape[-2] > pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB.")
        return sr

    return spoil


def whole(engine: Engine, image: Tensor, tile: int | None, overlap: int = 4) -> Tensor:
    height = image.shape[-2] * engine.scale
    return assemble(engine.bands(image, tile, overlap), height)


@pytest.fixture(autouse=True)
def no_memory_of_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test's device could not hold is nothing to the next."""
    monkeypatch.setattr(engine_module, "_WORKED", {})


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "meta", "hpu"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown device .*valid: auto, cpu, cuda"):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'cuda' is not available: .* sees 0 CUDA devices"):
        choose_device("cuda")


def test_auto_device_prefers_cuda_then_xpu_then_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    backends = (torch.cuda, torch.xpu, torch.backends.mps)
    for backend in backends:
        monkeypatch.setattr(backend, "is_available", lambda: True)
    for backend, name in zip(backends, ("cuda", "xpu", "mps"), strict=True):
        assert choose_device("auto").type == name
        monkeypatch.setattr(backend, "is_available", lambda: False)
    assert choose_device("auto") == CPU


@pytest.mark.parametrize("name", ["xpu", "mps"])
def test_another_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    backend = {"xpu": torch.xpu, "mps": torch.backends.mps}[name]
    monkeypatch.setattr(backend, "is_available", lambda: False)
    with pytest.raises(UsageError, match=f"device '{name}' is not available on this machine"):
        choose_device(name)


def test_auto_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("auto", torch.device("cuda")) == "fp16"
    assert choose_precision("auto", torch.device("xpu")) == "fp16"
    assert choose_precision("auto", torch.device("mps")) == "fp32"
    for has_it, expected in [(True, "bf16"), (False, "fp32")]:
        monkeypatch.setattr(engine_module, "cpu_computes_bf16", lambda has_it=has_it: has_it)
        assert choose_precision("auto", CPU) == expected


def test_a_precision_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown precision 'fp8'"):
        choose_precision("fp8", CPU)
    with pytest.raises(UsageError, match="needs a GPU"):
        choose_precision("fp16", CPU)


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16", "avx2"])
def test_bf16_needs_the_instructions(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True}, raising=False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert engine_module.cpu_computes_bf16() == (flag != "avx2")


def test_bf16_needs_pytorch_to_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"bf16": True}, raising=False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not engine_module.cpu_computes_bf16()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_skip_connection_and_output_are_float32(precision: str) -> None:
    torch.manual_seed(0)
    net = create_model("pan", 2)
    image = photo_like(20, 24)[None]
    nn.init.zeros_(net.last.weight)
    nn.init.zeros_(net.last.bias)
    result = Engine(net, 2, "cpu", precision).run(image)
    assert result.dtype == torch.float32
    expected = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


def test_bf16_is_close_to_fp32_and_not_the_same() -> None:
    torch.manual_seed(0)
    net = create_model("pan", 2)
    image = photo_like(20, 24)[None]
    exact, rough = (Engine(net, 2, "cpu", name).run(image) for name in ("fp32", "bf16"))
    assert 0 < (exact - rough).abs().max() < 0.005


def test_an_image_that_fits_runs_whole() -> None:
    net = Nearest()
    engine = Engine(net, 2, "cpu", "fp32")
    image = torch.rand(1, 3, 60, 90)
    assert torch.equal(whole(engine, image, None), net(image))
    assert net.shapes[0] == (60, 90)


@pytest.mark.parametrize("tile", [30, 40, None])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_by_default_tiles_equal_the_whole(
    monkeypatch: pytest.MonkeyPatch, tile: int | None, precision: str
) -> None:
    torch.manual_seed(0)
    net = PAN(PANConfig(scale=2, num_blocks=2)).eval()
    assert net.needs.receptive_field == 8
    monkeypatch.setattr(engine_module, "available_memory", lambda _: 4 * 2**20)
    engine = Engine(net, 2, "cpu", precision)
    image = photo_like(66, 70)[None]
    calls: list[float] = []
    height = 2 * image.shape[-2]
    tiled = assemble(engine.bands(image, tile, None, calls.append), height)
    assert len(calls) > 1
    assert (tiled - engine.run(image)).abs().max() < (1e-5 if precision == "fp32" else 2e-3)


def test_the_default_overlap_is_what_the_network_needs() -> None:
    assert Engine(create_model("pan", 4), 4, "cpu").default_overlap() == 72
    assert Engine(create_model("pan", 4), 4, "cpu").default_overlap(tile_size=100) == 50
    assert Engine(Nearest(), 2, "cpu").default_overlap() == DEFAULT_OVERLAP


@pytest.mark.parametrize(("overlap", "ramp"), [(15, 8), (16, 0), (19, 3), (40, 8)])
def test_what_agrees_is_not_blended(overlap: int, ramp: int) -> None:
    net = PAN(PANConfig(scale=2, num_blocks=2))
    assert Engine(net, 2, "cpu")._ramp(overlap) == ramp


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (333, 222), (20, 900)])
def test_little_memory_gives_small_tiles_of_one_shape(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(engine_module, "available_memory", lambda _: 64 * 2**20)
    net = Nearest()
    engine = Engine(net, 2, "cpu", "fp32")
    image = torch.rand(1, 3, *size)
    limit = engine_module.largest_tile(CPU, "fp32", 2)
    result = whole(engine, image, None, overlap=8)
    assert len({*net.shapes}) == 1
    assert max(height * width for height, width in net.shapes) <= limit < 64 * 64 * 4
    torch.testing.assert_close(result, net(image), rtol=0, atol=1e-6)


def test_more_memory_than_is_useful_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "available_memory", lambda _: 2**50)
    assert engine_module.largest_tile(CPU, "fp32", 4) == engine_module.LARGEST_TILE["cpu"]


def test_out_of_memory_halves_the_tile_and_goes_on() -> None:
    net = Nearest(out_of_memory_above(40 * 40))
    engine = Engine(net, 2, "cpu", "fp32")
    image = torch.rand(1, 3, 100, 100)
    result = whole(engine, image, 100)
    torch.testing.assert_close(result, F.interpolate(image, scale_factor=2), rtol=0, atol=1e-6)
    assert net.shapes[:4] == [(100, 100), (50, 100), (50, 50), (32, 50)]


def test_the_tile_that_worked_is_remembered() -> None:
    net = Nearest(out_of_memory_above(40 * 50))
    engine = Engine(net, 2, "cpu", "fp32")
    image = torch.rand(1, 3, 100, 100)
    whole(engine, image, None)
    net.shapes.clear()
    whole(engine, image, None)
    assert max(height * width for height, width in net.shapes) <= 40 * 50
    again = Nearest(out_of_memory_above(40 * 50))
    whole(Engine(again, 2, "cpu", "fp32"), image, None)
    assert again.shapes == net.shapes
    other = Engine(Nearest(), 3, "cpu", "fp32")
    assert other.choose_tile(100, 100, 48) == (100, 100)


def test_after_out_of_memory_finished_rows_are_not_done_again() -> None:
    state = {"calls": 0}

    def spoil(_: Tensor, sr: Tensor) -> Tensor:
        state["calls"] += 1
        if state["calls"] == 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return sr

    net = Nearest(spoil)
    engine = Engine(net, 2, "cpu", "fp32")
    image = torch.rand(1, 3, 400, 40)
    shares: list[float] = []
    bands = [*engine.bands(image, 80, 8, shares.append)]
    result = assemble(bands, 800)
    torch.testing.assert_close(result, F.interpolate(image, scale_factor=2), rtol=0, atol=1e-6)
    # Of five tiles of 80 the last one broke; tiles of 40 would be thirteen from the top.
    assert [shape for shape in net.shapes if shape == (80, 40)] == [(80, 40)] * 5
    assert len(net.shapes) == 5 + 5
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize("name", ["a2n", "maffsrn"])
def test_a_grid_of_tiles_fits_whatever_is_asked_for(name: str) -> None:
    engine = Engine(create_model(name, 2), 2, "cpu", "fp32", fuse=False)
    for side in range(17, 60, 3):
        for tile, overlap in [(24, None), (24, 12), (17, 9), (40, 32)]:
            plan = engine.plan(Rows.of(torch.rand(1, 3, side, 43)), tile, overlap)
            assert plan.rows[-1].stop == side


def test_an_overlap_that_the_largest_tile_has_no_room_for() -> None:
    engine = Engine(create_model("hpinet-s", 2), 2, "cpu", "fp32", fuse=False)
    engine.plan(Rows.of(torch.rand(1, 3, 8, 380)), None, 400)
    with pytest.raises(UsageError, match="a tile of 384 is too small for an overlap of 400"):
        engine.plan(Rows.of(torch.rand(1, 3, 8, 420)), None, 400)


def test_out_of_memory_on_a_grid_ends_too() -> None:
    engine = Engine(create_model("a2n", 2), 2, "cpu", "fp32", fuse=False)
    source = Rows(400, 400, lambda *_: torch.rand(0))
    shapes = [engine._plan(source, (200, 200), 24).tile_shape]
    while max(shapes[-1]) > 40:
        smaller = engine._smaller(shapes[-1], 24)
        shapes.append(engine._plan(source, smaller, 24).tile_shape)
        assert math.prod(shapes[-1]) < math.prod(shapes[-2])
    with pytest.raises(SrupliftError, match="is out of memory"):
        engine._smaller(shapes[-1], 24)


def test_out_of_memory_for_the_smallest_tile_is_an_error() -> None:
    engine = Engine(Nearest(out_of_memory_above(0)), 2, "cpu", "fp32")
    with pytest.raises(SrupliftError, match="cpu is out of memory, even for a tile of 32x32"):
        whole(engine, torch.rand(1, 3, 100, 100), None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert engine_module.is_out_of_memory(error) == expected


def test_other_errors_of_the_network_are_not_swallowed() -> None:
    def spoil(*_: Tensor) -> Tensor:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        whole(Engine(Nearest(spoil), 2, "cpu", "fp32"), torch.rand(1, 3, 8, 8), None)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_overflows_in_half_precision_runs_again_in_fp32(bad: float) -> None:
    def spoil(_: Tensor, sr: Tensor) -> Tensor:
        return sr * bad if torch.is_autocast_enabled("cpu") else sr

    net = Nearest(spoil)
    image = torch.rand(1, 3, 8, 8) + 0.1
    result = Engine(net, 2, "cpu", "bf16").run(image)
    torch.testing.assert_close(result, F.interpolate(image, scale_factor=2), rtol=0, atol=0)
    assert len(net.shapes) == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_tile_that_is_no_picture_is_an_error_that_names_it(precision: str) -> None:
    def spoil(x: Tensor, sr: Tensor) -> Tensor:
        return sr / 0 if float(x.max()) == 1 else sr

    image = torch.full((1, 3, 20, 20), 0.5)
    image[..., 15, 3] = 1
    engine = Engine(Nearest(spoil), 2, "cpu", precision)
    with pytest.raises(NumericalError, match=r"NaN or infinity .tile of rows 10 to 19, columns 0"):
        whole(engine, image, 10, overlap=0)


def test_black_from_what_is_not_black_is_an_error() -> None:
    engine = Engine(Nearest(lambda _, sr: sr * 0), 2, "cpu", "fp32")
    with pytest.raises(NumericalError, match="returned black"):
        engine.run(torch.full((1, 3, 4, 4), 0.5))
    assert float(engine.run(torch.zeros(1, 3, 4, 4)).max()) == 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_in_half_precision_agrees_with_the_cpu() -> None:
    torch.manual_seed(0)
    net = create_model("pan", 2)
    image = photo_like(40, 48)[None]
    expected = Engine(net, 2, "cpu", "fp32").run(image)
    result = Engine(net, 2, "cuda", "auto").run(image)
    assert result.device == CPU
    assert (result - expected).abs().max() < 0.005


def test_a_network_that_pools_does_so_around_each_pixel_when_asked() -> None:
    torch.manual_seed(0)
    net = create_model("a2n", 2).eval()
    image = photo_like(70, 80)[None]
    with torch.inference_mode():
        expected = net(image)
    torch.testing.assert_close(Engine(net, 2, "cpu", "fp32", local=False).run(image), expected)
    assert net.window is None
    local = Engine(net, 2, "cpu", "fp32").run(image)
    assert net.window == net.needs.window == 40
    assert (local - expected).abs().max() > 1e-7


def test_a_network_that_takes_more_memory_gets_smaller_tiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "available_memory", lambda _: 2**28)
    shapes = {
        name: Engine(create_model(name, 2), 2, "cpu", "fp32").choose_tile(2000, 2000, 32)
        for name in ("pan", "hpinet-s")
    }
    assert 3 < shapes["pan"][0] ** 2 / shapes["hpinet-s"][0] ** 2 < 14
