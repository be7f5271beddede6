"""How fast a network runs here, and what share of the machine's arithmetic it uses.

The machine's rate is that of a large matrix product in the same precision, timed between the
network's runs, so that what else the machine does falls on both. The work that is set against it is
the published network's (``complexity``), whatever a rewritten one leaves out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sruplift.compilation import MODES
from sruplift.complexity import count_mult_adds
from sruplift.engine import (
    DTYPES,
    Engine,
    bytes_per_pixel,
    choose_device,
    choose_precision,
    is_out_of_memory,
    largest_tile,
)
from sruplift.errors import UsageError, unknown_name
from sruplift.memory import PeakMemory, available_memory
from sruplift.models import MODELS, count_parameters, create_model
from sruplift.tuning import keep_tile, processor_name

# Edge of the matrices whose product is timed: 17 or 1,100 GFLOP.
MATRIX = {"cpu": 2048, "cuda": 8192, "xpu": 8192, "mps": 4096}
TILES = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
# A tile is timed on at least so many pixels at a time, in as many calls as that takes.
PIXELS = 2**16
LARGEST_SIZE = 2**14


@dataclass(frozen=True)
class BenchOptions:
    """What ``sruplift bench`` can be told. ``size`` is (height, width) of the input, LR pixels.

    Raises:
        UsageError: a value that cannot be meant.
    """

    model: str = "pan"
    scale: int = 4
    size: tuple[int, int] = (180, 320)
    device: str = "auto"
    precision: str = "auto"
    runs: int = 20
    warm_up: int = 3
    compile_mode: str = "auto"

    def __post_init__(self) -> None:
        if not all(1 <= edge <= LARGEST_SIZE for edge in self.size):
            height, width = self.size
            raise UsageError(f"a size has edges from 1 to {LARGEST_SIZE}, not {width}x{height}")
        if self.model not in MODELS:
            raise UsageError(unknown_name("model", self.model, MODELS))
        if self.scale not in (scales := MODELS[self.model].scales):
            valid = ", ".join(map(str, scales))
            raise UsageError(f"{self.model} has no scale {self.scale} (valid: {valid})")
        choose_precision(self.precision, choose_device(self.device))
        if self.compile_mode not in MODES:
            raise UsageError(unknown_name("compile mode", self.compile_mode, MODES))
        if self.runs < 1 or self.warm_up < 0:
            raise UsageError("at least one run is needed, and no less than no warm-up")


@dataclass(frozen=True)
class TileTime:
    """A square tile of ``edge`` LR pixels, overlap included, and seconds for each of its own."""

    edge: int
    seconds_per_pixel: float


@dataclass(frozen=True)
class BenchResult:
    """What was measured for one network. Times are in seconds, rates in 10**9 operations a second.

    ``low`` and ``high`` are the quartiles of the runs. ``peak_memory`` is in bytes beyond what was
    used before, with weights loaded. ``matrix_gflops`` is the rate of a matrix product, ``share``
    the network's in it.
    """

    model: str
    scale: int
    size: tuple[int, int]
    device: str
    processor: str
    precision: str
    compiled: bool
    threads: int
    torch: str
    runs: int
    seconds: float
    low: float
    high: float
    peak_memory: int | None
    parameters: int
    mult_adds: int
    matrix_gflops: float
    share: float

    @property
    def gflops(self) -> float:
        """Achieved: two operations for each Mult-Add."""
        return 2 * self.mult_adds / self.seconds / 1e9

    @property
    def megapixels_per_second(self) -> float:
        """Of the result."""
        height, width = self.size
        return height * width * self.scale**2 / self.seconds / 1e6


def bench(options: BenchOptions) -> BenchResult:
    """Measure one network with random weights, which change no time.

    Raises:
        UsageError: an unknown network, scale, device or precision, or one that is not here.
        SrupliftError: the size does not fit the device's memory; it cannot be compiled.
    """
    height, width = options.size
    engine = _engine(options)
    _require_memory(engine, height, width)
    parameters, mult_adds = _published(options)
    lr = _picture(engine, height, width)
    runs, matrices = Stopwatch(engine.device), Stopwatch(engine.device)
    product = _product(engine)
    peak = PeakMemory(engine.device)
    try:
        engine.compute(lr)
        memory = peak.read()
        for turn in range(-options.warm_up, options.runs):
            runs.time(lambda: engine.compute(lr), count=turn >= 0)
            matrices.time(product, count=turn >= 0)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UsageError(f"{width}x{height} does not fit the memory of {engine.device}") from error
    low, middle, high = _quartiles(runs.seconds)
    rate = 2 * MATRIX[engine.device.type] ** 3 / 1e9
    shares = [
        2 * mult_adds / 1e9 / run / (rate / matrix)
        for run, matrix in zip(runs.seconds, matrices.seconds, strict=True)
    ]
    return BenchResult(
        model=options.model,
        scale=options.scale,
        size=options.size,
        device=str(engine.device),
        processor=processor_name(engine.device),
        precision=engine.precision,
        compiled=engine.compiled,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        runs=options.runs,
        seconds=middle,
        low=low,
        high=high,
        peak_memory=memory,
        parameters=parameters,
        mult_adds=mult_adds,
        matrix_gflops=rate / statistics.median(matrices.seconds),
        share=statistics.median(shares),
    )


def time_tiles(options: BenchOptions, edges: Sequence[int] = TILES) -> Iterator[TileTime]:
    """Time square tiles, of edges that the network and the memory allow, from small to large.

    A tile's own pixels are those that it does not share with the one before it.

    Raises:
        UsageError: as for ``bench``.
    """
    engine = _engine(options)
    overlap = engine.default_overlap()
    fitting = largest_tile(
        engine.device, engine.precision, engine.scale, engine.needs.memory, max(edges) ** 2
    )
    for edge in edges:
        if edge**2 > fitting or edge > (engine.needs.largest_tile or edge):
            return
        if edge - overlap < overlap / 2:
            continue
        seconds = _seconds_of_tile(engine, edge, max(options.runs // 4, 3))
        yield TileTime(edge, seconds / (edge - overlap) ** 2)


def keep_fastest(options: BenchOptions, times: Sequence[TileTime]) -> tuple[TileTime, Path]:
    """The fastest tile, remembered for the engine; and the file that remembers it.

    Raises:
        UsageError: there are no ``times``.
        SrupliftError: the file cannot be written.
    """
    if not times:
        raise UsageError("no tile fits the memory")
    best = min(times, key=lambda tile: tile.seconds_per_pixel)
    engine = _engine(options)
    return best, keep_tile(engine.tuning_key, best.edge**2)


class Stopwatch:
    """Times calls on a device to their end."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []

    def time(self, call: Callable[[], object], *, count: bool = True) -> None:
        """Run ``call``; its time is kept if it counts."""
        self._wait()
        began = time.perf_counter()
        call()
        self._wait()
        if count:
            self.seconds.append(time.perf_counter() - began)

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.get_device_module(self.device).synchronize()


def _seconds_of_tile(engine: Engine, edge: int, runs: int) -> float:
    """The median of ``runs``, each of so many calls that small tiles can be timed."""
    lr = _picture(engine, edge, edge)
    calls = max(PIXELS // edge**2, 1)
    watch = Stopwatch(engine.device)

    def several() -> None:
        for _ in range(calls):
            engine.compute(lr)

    for turn in range(-1, runs):
        watch.time(several, count=turn >= 0)
    return statistics.median(watch.seconds) / calls


def _engine(options: BenchOptions) -> Engine:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        try:
            model = create_model(options.model, options.scale)
        except ValueError as error:
            raise UsageError(str(error)) from error
        return Engine(
            model,
            options.scale,
            options.device,
            options.precision,
            compile_mode=options.compile_mode,
        )


def _require_memory(engine: Engine, height: int, width: int) -> None:
    """Where memory is promised and given later, too much of it ends the process, not the call."""
    needed = bytes_per_pixel(engine) * height * width
    if needed > available_memory(engine.device):
        raise UsageError(
            f"{width}x{height} does not fit the memory of {engine.device}: it needs about"
            f" {needed / 1e9:.1f} GB in one piece"
        )


def _published(options: BenchOptions) -> tuple[int, int]:
    """The network's parameters, and its Mult-Adds for the input as its paper counts them."""
    with torch.random.fork_rng(devices=()), torch.device("meta"):
        network = create_model(options.model, options.scale).eval()
    return count_parameters(network), count_mult_adds(network, *options.size).total


def _picture(engine: Engine, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(1, 3, height, width, generator=generator).to(engine.device)
    return lr.contiguous(memory_format=torch.channels_last)


def _product(engine: Engine) -> Callable[[], Tensor]:
    edge = MATRIX[engine.device.type]
    matrix = torch.ones(edge, edge, dtype=DTYPES[engine.precision], device=engine.device)
    return lambda: matrix @ matrix


def _quartiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    if len(seconds) == 1:
        return seconds[0], seconds[0], seconds[0]
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, middle, high
