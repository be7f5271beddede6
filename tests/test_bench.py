"""Measurements: what they count, what they refuse, and which tile they keep."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from sruplift import bench as bench_module
from sruplift.bench import BenchOptions, TileTime, bench, keep_fastest, time_tiles
from sruplift.complexity import measure_complexity
from sruplift.engine import Engine
from sruplift.errors import UsageError
from sruplift.models import create_model
from sruplift.tuning import tuned_tile

SMALL = BenchOptions(
    model="pan", scale=2, size=(24, 40), device="cpu", runs=3, warm_up=1, compile_mode="off"
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "MATRIX", {"cpu": 64})
    monkeypatch.setattr(bench_module, "PIXELS", 1)


def test_rates_follow_from_the_time() -> None:
    result = bench(SMALL)
    assert 0 < result.low <= result.seconds <= result.high
    assert result.gflops == pytest.approx(2 * result.mult_adds / result.seconds / 1e9)
    assert result.megapixels_per_second == pytest.approx(24 * 40 * 4 / result.seconds / 1e6)
    assert result.share > 0
    assert result.parameters == 261_403
    assert (result.device, result.runs, result.compiled) == ("cpu", 3, False)
    assert result.torch == torch.__version__


def test_the_work_is_the_published_networks() -> None:
    """At the papers' size it is what their tables count, not what the rewritten network does."""
    options = BenchOptions(size=(180, 320), scale=4)
    paper = measure_complexity("pan", 4)
    assert bench_module._published(options) == (paper.parameters, paper.mult_adds.total)


def test_every_run_and_none_of_the_warm_up_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    compute = Engine.compute

    def counted(*args: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return compute(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "compute", counted)
    ticks = iter(range(1000))
    monkeypatch.setattr(bench_module.time, "perf_counter", lambda: float(next(ticks)))
    result = bench(SMALL)
    assert calls == 1 + SMALL.warm_up + SMALL.runs
    assert result.low == result.seconds == result.high == 1.0


def test_the_callers_random_numbers_stay_as_they_are() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    bench(SMALL)
    assert torch.rand(1) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0, 5)}, "edges from 1 to 16384, not 5x0"),
        ({"size": (5, 10**6)}, "not 1000000x5"),
        ({"runs": 0}, "at least one run"),
        ({"warm_up": -1}, "no less than no warm-up"),
        ({"model": "pun"}, "did you mean 'pan'"),
        ({"scale": 5}, r"pan has no scale 5 \(valid: 2, 3, 4\)"),
        ({"precision": "fp8"}, "unknown precision"),
        ({"device": "nowhere"}, "unknown device"),
        ({"compile_mode": "perhaps"}, "unknown compile mode"),
    ],
)
def test_what_cannot_be_meant_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BenchOptions(**change)  # type: ignore[arg-type]


def test_a_size_beyond_the_memory_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(Engine, "compute", refuse)
    with pytest.raises(UsageError, match="40x24 does not fit the memory of cpu"):
        bench(SMALL)


def test_a_size_that_would_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux would give the memory and end the process when it is used."""
    monkeypatch.setattr(Engine, "compute", lambda *_: pytest.fail("it was tried"))
    monkeypatch.setattr(bench_module, "available_memory", lambda _: 10**5)
    with pytest.raises(UsageError, match=r"40x24 does not fit the memory of cpu: .* about 0\.0 GB"):
        bench(SMALL)


def test_tiles_go_from_small_to_what_the_network_and_the_memory_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overlap = Engine(create_model("pan", 2), 2, "cpu").default_overlap()
    edges = [tile.edge for tile in time_tiles(SMALL, (overlap + 8, 128, 160))]
    assert edges == [128, 160]  # The first would be nearly all overlap.
    monkeypatch.setattr("sruplift.engine.available_memory", lambda _: 0)
    assert list(time_tiles(SMALL, (128, 160))) == []


def test_a_tiles_own_pixels_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "_seconds_of_tile", lambda *_: 1.0)
    times = list(time_tiles(SMALL, (128, 256)))
    overlap = Engine(create_model("pan", 2), 2, "cpu").default_overlap()
    assert [1 / tile.seconds_per_pixel for tile in times] == pytest.approx(
        [(edge - overlap) ** 2 for edge in (128, 256)]
    )
    assert all(a.edge < b.edge for a, b in pairwise(times))


def test_the_fastest_tile_is_kept_for_the_engine() -> None:
    times = [TileTime(96, 3e-6), TileTime(160, 1e-6), TileTime(192, 2e-6)]
    best, path = keep_fastest(SMALL, times)
    assert best.edge == 160
    assert path.is_file()
    engine = Engine(create_model("pan", 2), 2, "cpu")
    assert tuned_tile(engine.tuning_key) == engine.tuned_tile == 160**2
    with pytest.raises(UsageError, match="no tile fits"):
        keep_fastest(SMALL, [])
    path.unlink()
