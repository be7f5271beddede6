"""Networks run by other runtimes: the engine's results, and what is said when they fail."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from conftest import photo_like
from exports import MISSING, NAMES, small_network
from torch import Tensor, nn

from sruplift import Upscaler, backends
from sruplift.backends import Backend, check_backend, through
from sruplift.datasets import cache_folder
from sruplift.engine import Engine
from sruplift.errors import ExportError, SrupliftError, UsageError
from sruplift.export import Run, make_graph
from sruplift.models.layers import InputNeeds

Inputs = Mapping[str, np.ndarray[Any, Any]]


@functools.cache
def graph_of(name: str) -> bytes:
    """The graph of a small network, of tiles; for all backends."""
    return make_graph(small_network(name), {}, framed=name == "maffsrn")


@pytest.fixture(params=["onnxruntime", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    """The name of one that is installed."""
    name: str = request.param
    for package in ("onnx", "onnxscript", name):
        pytest.importorskip(package, reason=f"{package}: {MISSING}")
    return name


def enlarge(engine: Engine, image: Tensor, tile_size: int | None = None) -> Tensor:
    return torch.cat([band.pixels for band in engine.bands(image, tile_size)], dim=-2)


def engine_of(backend: str, net: nn.Module, scale: int) -> Engine:
    made, device, precision = through(backend, net, scale, "auto", "fp32")
    return Engine(made, scale, device, precision)


@pytest.mark.parametrize("name", NAMES)
def test_tiles_are_those_of_pytorch(
    backend: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "make_graph", lambda *_, **__: graph_of(name))
    image = photo_like(97, 120)[None]
    ours = Engine(small_network(name), 2, "cpu", "fp32")
    engine = engine_of(backend, small_network(name), 2)
    assert isinstance(engine.model, Backend)
    assert engine.needs.window is None
    for tile_size in (None, 66):
        assert engine.default_overlap(tile_size) == ours.default_overlap(tile_size)
        expected, result = (enlarge(each, image, tile_size) for each in (ours, engine))
        assert expected.std() > 0.01
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    tiny = photo_like(2, 9)[None]
    torch.testing.assert_close(engine.run(tiny), ours.run(tiny), rtol=0, atol=1e-5)


def test_a_result_stays_when_the_next_is_made(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "make_graph", lambda *_, **__: graph_of("pan"))
    engine = engine_of(backend, small_network("pan"), 2)
    first = engine.run(torch.zeros(1, 3, 16, 16))
    before = first.clone()
    engine.run(torch.ones(1, 3, 16, 16))
    assert torch.equal(first, before)


def test_the_upscaler_takes_a_backend(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "make_graph", lambda *_, **__: graph_of("pan"))
    picture = (photo_like(30, 40) * 255).byte()
    expected = Upscaler(small_network("pan"), scale=2, precision="fp32")(picture)
    upscaler = Upscaler(small_network("pan"), scale=2, backend=backend, precision="fp32")
    assert isinstance(upscaler.engine.model, Backend)
    assert (upscaler(picture).int() - expected.int()).abs().max() <= 1


def test_openvino_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "make_graph", lambda *_, **__: graph_of("pan"))
    for package in ("onnx", "onnxscript", "openvino"):
        pytest.importorskip(package, reason=f"{package}: {MISSING}")
    image = photo_like(30, 40)[None]
    exact = engine_of("openvino", small_network("pan"), 2).run(image)
    made, device, precision = through("openvino", small_network("pan"), 2, "cpu", "bf16")
    assert (device, precision) == ("cpu", "bf16")
    assert (Engine(made, 2, device, precision).run(image) - exact).abs().max() < 0.05


def test_a_graph_is_made_once(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []

    def stand_in(network: nn.Module, *_: Any, **__: Any) -> bytes:
        made.append(network)
        return b"a graph"

    def started(graph: bytes, _: int, __: str) -> Run:
        assert graph == b"a graph"
        return lambda inputs: net(torch.from_numpy(inputs["lr"])).numpy()

    monkeypatch.setattr(backends, "make_graph", stand_in)
    monkeypatch.setitem(backends.START, backend, started)
    net = small_network("pan", 3)
    for _ in range(2):
        through(backend, net, 3, "cpu", "auto")
    assert len(made) == 1
    (newest,) = (
        file for file in cache_folder("graphs").iterdir() if b"a graph" in file.read_bytes()
    )
    newest.write_bytes(newest.read_bytes()[:-1])
    for _ in range(2):
        through(backend, net, 3, "cpu", "auto")
    assert len(made) == 2
    with torch.no_grad():
        net.get_parameter("head.bias").add_(1)
    through(backend, net, 3, "cpu", "auto")
    assert len(made) == 3
    for file in cache_folder("graphs").iterdir():
        file.unlink()


def test_a_backend_that_computes_something_else_is_not_used(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "make_graph", lambda *_, **__: b"a graph")
    monkeypatch.setitem(backends.START, backend, lambda *_: nearest)
    for _ in range(2):
        with pytest.raises(ExportError, match="differs from PyTorch"):
            through(backend, small_network("pan", 2), 2, "cpu", "auto")


class Twice(nn.Module):
    """A network that is not ours."""

    def forward(self, lr: Tensor) -> Tensor:
        return nn.functional.interpolate(lr, scale_factor=2, mode="nearest") * 0.5


def test_a_network_that_is_not_ours(backend: str) -> None:
    image = photo_like(9, 12)[None]
    result = engine_of(backend, Twice(), 2).run(image)
    torch.testing.assert_close(result, Twice()(image), rtol=0, atol=1e-6)


def fake(run: Callable[[Inputs], np.ndarray[Any, Any]]) -> Backend:
    return Backend(run, "openvino", 2, InputNeeds(receptive_field=0))


def failing(error: Exception) -> Callable[[Inputs], np.ndarray[Any, Any]]:
    def run(_: Inputs) -> np.ndarray[Any, Any]:
        raise error

    return run


def nearest(inputs: Inputs) -> np.ndarray[Any, Any]:
    return inputs["lr"].repeat(2, axis=2).repeat(2, axis=3)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("std::bad_alloc"), OSError("Failed to allocate memory")]
)
def test_a_lack_of_memory_is_told_as_one(error: Exception) -> None:
    with pytest.raises(MemoryError):
        fake(failing(error))(torch.zeros(1, 3, 4, 4))


def test_the_engine_backs_off() -> None:
    """Also where no result comes, as from OpenVINO without memory."""
    sizes = []

    def run(inputs: Inputs) -> np.ndarray[Any, Any]:
        sizes.append(inputs["lr"].shape[-2:])
        result = nearest(inputs)
        return result[:0, :, :0, :0] if inputs["lr"].size > 3 * 64 * 64 else result

    image = photo_like(90, 100)[None]
    result = enlarge(Engine(fake(run), 2, "cpu", "fp32"), image, 100)
    assert np.array_equal(result.numpy(), nearest({"lr": image.numpy()}))
    assert sizes[0] == (90, 100)
    assert max(height * width for height, width in sizes[2:]) <= 64 * 64


def test_other_failures_are_one_sentence() -> None:
    with pytest.raises(SrupliftError, match=r"^openvino failed: no such kernel$"):
        fake(failing(ValueError("no such kernel\nat line 7")))(torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("backend", "device", "precision", "words"),
    [
        ("openvine", "cpu", "fp32", "unknown backend 'openvine'; did you mean 'openvino'"),
        ("openvino", "cuda", "fp32", "runs on the CPU, not on 'cuda'"),
        ("onnxruntime", "auto", "bf16", "computes in fp32, not in bf16"),
        ("onnxruntime", "auto", "fp31", "unknown precision 'fp31'"),
        ("openvino", "auto", "fp16", "needs a GPU"),
    ],
)
def test_choices_that_cannot_be_meant(
    backend: str, device: str, precision: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        check_backend(backend, device, precision)
    with pytest.raises(UsageError, match=words):
        Upscaler("pan", backend=backend, device=device, precision=precision)


def test_pytorch_is_left_alone() -> None:
    net = Twice()
    assert through("torch", net, 2, "cuda:7", "bf16") == (net, "cuda:7", "bf16")


@pytest.mark.parametrize(("backend", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, backend: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(UsageError, match=rf"needs {backend}: pip install 'sruplift\[{extra}\]'"):
        Upscaler("pan", scale=2, backend=backend)
