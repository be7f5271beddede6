"""Several tiles and pictures at a time, as on a CUDA device, shown with the CPU as the device."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import photo_like
from PIL import Image as Pillow
from torch import Tensor, nn

from sruplift import engine as engine_module
from sruplift import streams
from sruplift.engine import Engine, largest_tile
from sruplift.errors import NumericalError, SrupliftWarning
from sruplift.files import Failure, Job
from sruplift.models import create_model
from sruplift.streams import Streams
from sruplift.tiling import Band, assemble, plan_tiles, run_tiled
from sruplift.upscale import UpscaleResult, upscale_files
from sruplift.upscaler import Upscaler

CPU = torch.device("cpu")
# Seconds that a test waits for a thread that never comes.
PATIENCE = 30


@pytest.fixture
def two_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "IN_FLIGHT", {"cpu": 2})
    monkeypatch.setattr(engine_module, "_WORKED", {})


class Met(nn.Module):
    """Twice as large. Every call waits for another one that runs beside it, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2, timeout=PATIENCE)
        self.lock = threading.Lock()
        self.now = self.most = 0

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.barrier.wait()
        sr = F.interpolate(x, scale_factor=2, mode="nearest")
        with self.lock:
            self.now -= 1
        return sr


@pytest.mark.usefixtures("two_at_a_time")
def test_two_tiles_are_computed_at_a_time_and_no_more() -> None:
    net, image = Met(), torch.rand(1, 3, 64, 96)
    engine = Engine(net, 2, "cpu", "fp32")
    # Six tiles: an odd one would wait for ever.
    result = assemble(engine.bands(image, 32, 0), 128)
    assert torch.equal(result, F.interpolate(image, scale_factor=2, mode="nearest"))
    assert net.most == 2


@pytest.mark.parametrize("in_flight", [2, 5])
def test_tiles_that_finish_in_any_order_give_the_same_picture(in_flight: int) -> None:
    def fn(tile: Tensor, at: tuple[int, int]) -> Tensor:
        time.sleep(random.Random(str(at)).random() / 200)
        return tile.repeat_interleave(2, -1).repeat_interleave(2, -2)

    image = torch.rand(1, 3, 50, 40)
    plan = plan_tiles(50, 40, 16, 6)
    one = assemble(run_tiled(fn, image, plan, 2), 100)
    assert torch.equal(assemble(run_tiled(fn, image, plan, 2, in_flight=in_flight), 100), one)


def test_no_more_tiles_are_begun_than_needed_when_nobody_takes_the_bands() -> None:
    begun: list[tuple[int, int]] = []

    def fn(tile: Tensor, at: tuple[int, int]) -> Tensor:
        begun.append(at)
        return tile

    image = torch.rand(1, 1, 100, 10)
    bands = run_tiled(fn, image, plan_tiles(100, 10, 10, 0), 1, in_flight=2)
    assert isinstance(next(bands), Band)
    bands.close()
    assert len(begun) <= 3
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]


@pytest.mark.usefixtures("two_at_a_time")
def test_the_tile_that_failed_is_named_by_its_thread() -> None:
    class Spoilt(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sr = F.interpolate(x, scale_factor=2, mode="nearest")
            return sr * float("nan") if float(x.max()) == 1 else sr

    image = torch.rand(1, 3, 40, 60) / 2
    image[..., 39, 59] = 1
    with pytest.raises(NumericalError, match=r"tile of rows 20 to 39, columns 40 to 59"):
        assemble(Engine(Spoilt(), 2, "cpu", "fp32").bands(image, 20, 0), 80)


@pytest.mark.usefixtures("two_at_a_time")
def test_a_lack_of_memory_in_one_of_two_tiles_makes_them_smaller() -> None:
    class Small(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] * x.shape[-2] > 40 * 40:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return F.interpolate(x, scale_factor=2, mode="nearest")

    image = torch.rand(1, 3, 150, 130)
    shares: list[float] = []
    result = assemble(Engine(Small(), 2, "cpu", "fp32").bands(image, 100, 4, shares.append), 300)
    expected = F.interpolate(image, scale_factor=2, mode="nearest")
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_two_tiles_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "available_memory", lambda _: 2 * 1024**3)
    alone = largest_tile(CPU, "fp32", 4)
    monkeypatch.setattr(streams, "IN_FLIGHT", {"cpu": 2})
    assert largest_tile(CPU, "fp32", 4) == pytest.approx(alone / 2, abs=1)


def photo(path: Path, height: int = 20, width: int = 30) -> Path:
    pixels = photo_like(height, width).permute(1, 2, 0).mul(255).byte().numpy()
    Pillow.fromarray(np.ascontiguousarray(pixels)).save(path)
    return path


@pytest.mark.usefixtures("two_at_a_time")
def test_two_pictures_are_enlarged_at_a_time_and_come_in_order(tmp_path: Path) -> None:
    net = Met()
    with pytest.warns(SrupliftWarning, match="cannot be copied"):
        upscaler = Upscaler(net, scale=2, device="cpu", precision="fp32")
    assert upscaler.in_flight == 2
    jobs: list[Job] = []
    for index in range(6):
        jobs.append(Job(photo(tmp_path / f"{index}.png"), tmp_path / f"x{index}.png"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    jobs.insert(3, Job(broken, tmp_path / "x_broken.png"))
    shares: list[str] = []
    results = list(upscale_files(jobs, upscaler, lambda path, _: shares.append(path.name)))
    assert [type(result) for result in results] == [UpscaleResult] * 3 + [Failure] + [
        UpscaleResult
    ] * 3
    assert [result.source for result in results] == [job.source for job in jobs]
    assert sorted(shares) == [f"{index}.png" for index in range(6)]
    assert net.most == 2
    assert not (tmp_path / "x_broken.png").exists()


def test_two_pictures_at_a_time_are_the_same_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = create_model("pan", 2)
    sources = [photo(tmp_path / f"{index}.png", 40 + index, 50) for index in range(5)]
    for name, flights in (("one", {}), ("two", {"cpu": 2})):
        monkeypatch.setattr(streams, "IN_FLIGHT", flights)
        (tmp_path / name).mkdir()
        upscaler = Upscaler(net, scale=2, device="cpu", tile_size=32, overlap=8)
        jobs = [Job(source, tmp_path / name / source.name) for source in sources]
        results = list(upscale_files(jobs, upscaler))
        assert all(isinstance(result, UpscaleResult) for result in results)
    for source in sources:
        one, two = (tmp_path / name / source.name for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.usefixtures("two_at_a_time")
def test_a_bug_in_a_thread_is_not_mistaken_for_a_bad_file(tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise RuntimeError("a bug")

    upscaler = Upscaler(Broken(), scale=2, device="cpu", precision="fp32")
    with pytest.raises(RuntimeError, match="a bug"):
        list(upscale_files([Job(photo(tmp_path / "a.png"), tmp_path / "b.png")], upscaler))
    assert not (tmp_path / "b.png").exists()


def test_elsewhere_a_stream_is_only_a_name() -> None:
    pixels = torch.rand(1, 3, 4, 4)
    own = Streams(CPU)
    with own.one(), own.one():
        assert torch.equal(own.to_main_memory(own.to_device(pixels)), pixels)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_cuda_streams_give_what_one_tile_after_another_gives(precision: str) -> None:
    torch.manual_seed(0)
    net = create_model("pan", 2)
    image = photo_like(150, 170)[None]
    expected = assemble(Engine(net, 2, "cpu", "fp32").bands(image, 64, 8), 300)
    engine = Engine(net, 2, "cuda", precision)
    assert engine.in_flight == 2
    for _ in range(20):
        result = assemble(engine.bands(image, 64, 8), 300)
        assert result.device == CPU
        assert (result - expected).abs().max() < (1e-4 if precision == "fp32" else 0.005)
