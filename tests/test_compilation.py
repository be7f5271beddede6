"""When a network is compiled, and what happens where it cannot be."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sruplift import compilation
from sruplift.compilation import REPAID_AFTER, TOLERANCE, Compilation
from sruplift.engine import Engine
from sruplift.errors import SrupliftError, UsageError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Compiler:
    """In the place of ``torch.compile``: counts, and makes something of the network's result."""

    def __init__(self, make: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        self.make, self.compilations, self.calls = make, 0, 0

    def __call__(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        self.compilations += 1

        def run(x: Tensor) -> Tensor:
            self.calls += 1
            return self.make(model(x))

        return run


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    made = Compiler()
    monkeypatch.setattr(torch, "compile", made)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "before")
    return made


def run(network: Compilation) -> None:
    torch.testing.assert_close(network(torch.ones(3)), torch.full((3,), 2.0))


def test_on_compiles_with_the_first_call(compiler: Compiler) -> None:
    network = Compilation(Doubled(), "on", CPU, framed=False)
    for _ in range(3):
        run(network)
    assert (compiler.compilations, compiler.calls) == (1, 3)


@pytest.mark.parametrize(("mode", "device"), [("off", GPU), ("off", CPU), ("auto", CPU)])
def test_neither_off_nor_auto_on_a_cpu_compiles(
    compiler: Compiler, mode: str, device: torch.device
) -> None:
    network = Compilation(Doubled(), mode, device, framed=False)
    network.ran(10 * REPAID_AFTER)
    run(network)
    assert compiler.compilations == 0


def test_auto_on_a_gpu_waits_until_the_network_has_worked_long(compiler: Compiler) -> None:
    network = Compilation(Doubled(), "auto", GPU, framed=False)
    for _ in range(3):
        run(network)
        network.ran(REPAID_AFTER / 3)
        assert compiler.compilations == 0
    run(network)
    assert compiler.compilations == 1
    run(network)
    assert (compiler.compilations, compiler.calls) == (1, 2)


def test_a_network_that_knows_its_place_is_not_compiled(compiler: Compiler) -> None:
    with pytest.raises(UsageError, match="depends on where a tile lies"):
        Compilation(Doubled(), "on", CPU, framed=True)
    network = Compilation(Doubled(), "auto", GPU, framed=True)
    network.ran(10 * REPAID_AFTER)
    run(network)
    assert compiler.compilations == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x + 2 * TOLERANCE, r"gives other pixels when compiled, by 10\.2 levels"),
        (lambda x: x * float("nan"), "gives other pixels"),
        (lambda _: 1 / 0, "Doubled cannot be compiled here: float division by zero|division by"),
    ],
)
def test_what_cannot_be_compiled_runs_as_it_is(
    compiler: Compiler, make: Callable[[Tensor], Tensor], message: str
) -> None:
    compiler.make = make
    with pytest.raises(SrupliftError, match=message):
        run(Compilation(Doubled(), "on", CPU, framed=False))
    network = Compilation(Doubled(), "auto", GPU, framed=False)
    network.ran(REPAID_AFTER)
    with pytest.warns(UserWarning, match="runs as it is"):
        run(network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(network)
    assert compiler.compilations == 2  # It is not tried again.


def test_a_shape_that_cannot_be_compiled_later_runs_as_it_is(compiler: Compiler) -> None:
    for mode, device in (("auto", GPU), ("on", CPU)):
        compiler.make = lambda x: x
        network = Compilation(Doubled(), mode, device, framed=False)
        network.ran(REPAID_AFTER)
        run(network)
        compiler.make = lambda _: 1 / 0  # type: ignore[assignment,return-value]
        if mode == "on":
            with pytest.raises(SrupliftError, match="cannot be compiled here"):
                run(network)
            continue
        with pytest.warns(UserWarning, match="runs as it is"):
            run(network)
        run(network)
        assert network.compiled is None


def test_a_lack_of_memory_is_the_engines_to_mend(compiler: Compiler) -> None:
    def refuse(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    compiler.make = refuse
    with pytest.raises(torch.OutOfMemoryError):
        run(Compilation(Doubled(), "on", CPU, framed=False))


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UsageError, match=r"mode 'yes' \(valid: auto, on, off\)"):
        Compilation(Doubled(), "yes", CPU, framed=False)


@pytest.mark.usefixtures("compiler")
def test_compiled_code_is_kept_in_our_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    run(Compilation(Doubled(), "on", CPU, framed=False))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "before"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    run(Compilation(Doubled(), "on", CPU, framed=False))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(compilation.cache_folder("compiled"))


def test_the_engine_reports_its_time_and_that_it_has_compiled(compiler: Compiler) -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.repeat_interleave(2, -1).repeat_interleave(2, -2)

    engine = Engine(Twice(), 2, "cpu", "fp32", compile_mode="on")
    assert not engine.compiled
    assert engine.run(torch.rand(1, 3, 8, 8)).shape == (1, 3, 16, 16)
    assert engine.compiled
    assert compiler.compilations == 1
    waiting = Engine(Twice(), 2, "cpu", "fp32")
    waiting._network.left = 1e-9
    waiting.run(torch.rand(1, 3, 8, 8))
    waiting.run(torch.rand(1, 3, 8, 8))
    assert waiting.compiled
