from __future__ import annotations

import dataclasses
import warnings
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import photo_like
from PIL import Image

from sruplift import data
from sruplift.datasets import read_hr
from sruplift.errors import DatasetError
from sruplift.image import Image as Picture
from sruplift.image import write_image
from sruplift.resize import bicubic


def write_images(folder: Path, sizes: list[tuple[int, int]]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (height, width) in enumerate(sizes):
        pixels = (photo_like(height, width, seed=seed).permute(1, 2, 0).numpy() * 255).round()
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_images(tmp_path / "images", [(50, 61), (40, 44), (64, 40)])


@pytest.mark.parametrize("places", [1, 4])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_cache_and_files_cut_the_same_patches(files: list[Path], scale: int, places: int) -> None:
    cache = data.PatchCache(files, [2, 3, 4], torch.device("cpu"))
    reader = data.PatchFiles(files)
    sampler = data.Sampler(data.read_lr_sizes(files, scale), 5, places, recolored=0.7)
    samples = sampler.draw(0, 24, 7)
    lr, hr = cache.batch(samples, 7, scale)
    assert lr.shape == (24, 3, 7, 7)
    assert hr.shape == (24, 3, 7 * scale, 7 * scale)
    assert len(samples.transform.unique()) > 4
    assert len(samples.color.unique()) > 6
    columns = (column.tolist() for column in samples.columns())
    for i, row in enumerate(zip(*columns, strict=True)):
        lr_file, hr_file = reader[(*row, 7, scale)]
        assert torch.equal((lr[i] * 255).round().byte(), lr_file)
        assert torch.equal((hr[i] * 255).round().byte(), hr_file)


def test_lr_patch_is_the_hr_patch_made_small(files: list[Path]) -> None:
    """Flips and rotations must hit both images of a pair alike."""
    cache = data.PatchCache(files, [2], torch.device("cpu"))
    sampler = data.Sampler(data.read_lr_sizes(files, 2), 0)
    lr, hr = cache.batch(sampler.draw(0, 16, 12), 12, 2)
    small = bicubic(hr, Fraction(1, 2))
    inside = (..., slice(3, -3), slice(3, -3))
    # LR was rounded and clipped twice; a pair that is turned differently is off by 30 levels.
    assert (small[inside] - lr[inside]).abs().mean() < 1 / 255


@pytest.mark.parametrize("scale", [2, 3])
def test_places_are_chosen_by_what_there_is_to_restore(scale: int) -> None:
    """Noise of twice the amplitude has four times the energy, and is taken four times as often."""
    torch.manual_seed(0)
    noise = torch.randn(1, 1, 3, 48, 48)
    smooth = torch.linspace(0.4, 0.6, 48).expand(1, 1, 3, 48, 48)
    hr = torch.cat([0.1 * noise, smooth, 0.2 * noise], dim=1).expand(1000, -1, -1, -1, -1)
    chosen = data.choose(hr, scale, torch.arange(1000) / 1000)
    assert chosen.bincount(minlength=3).tolist() == pytest.approx([200, 0, 800], abs=5)
    flat = data.choose(torch.ones(1000, 4, 3, 12, 12), scale, torch.arange(1000) / 1000)
    assert flat.bincount().tolist() == pytest.approx([250] * 4, abs=1)


def test_each_patch_has_its_places_in_the_same_image() -> None:
    one, four = (data.Sampler([(30, 40)] * 7, 1, places).draw(0, 16, 8) for places in (1, 4))
    assert torch.equal(one.image, four.image)
    assert one.top.shape == (16, 1)
    assert four.left.shape == (16, 4)
    assert four.left.unique().numel() > 16


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_recolored_patches(dtype: torch.dtype) -> None:
    patches = torch.randint(256, (12, 3, 4, 5), dtype=torch.uint8)
    white = 255
    if dtype == torch.float32:
        patches, white = patches.float() / 256, 1
    found = data.recolor(patches, torch.arange(12))
    assert torch.equal(found[0], patches[0])
    assert torch.equal(found[1], white - patches[1])
    assert torch.equal(found[2], patches[2][[0, 2, 1]])
    for number, (before, after) in enumerate(zip(patches, found, strict=True)):
        levels = white - after if number % 2 else after
        assert sorted(map(str, levels.tolist())) == sorted(map(str, before.tolist()))
    one = patches[:1].expand(12, -1, -1, -1)
    assert len(data.recolor(one, torch.arange(12)).unique(dim=0)) == 12


def test_how_many_are_recolored() -> None:
    """And nothing else of a run changes with it."""
    plain, some = (data.Sampler([(30, 40)] * 7, 1, recolored=x).draw(0, 4000, 8) for x in (0, 0.3))
    assert not plain.color.any()
    assert float((some.color > 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    assert some.color.unique().tolist() == list(range(12))
    assert differing(plain, some) == ["color"]


def differing(one: data.Samples, other: data.Samples) -> list[str]:
    """In which columns they do."""
    names = [field.name for field in dataclasses.fields(data.Samples)]
    return [name for name in names if not torch.equal(getattr(one, name), getattr(other, name))]


def test_how_many_are_noisy() -> None:
    """And nothing else of a run changes with it."""
    plain, some = (data.Sampler([(30, 40)] * 7, 1, noisy=x).draw(0, 4000, 8) for x in (0, 0.3))
    assert not plain.noise.any()
    assert float((some.noise > 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    assert len(some.noise.unique()) > 1000  # Each has noise of its own.
    assert differing(plain, some) == ["noise"]


@pytest.mark.parametrize("scale", [2, 3])
def test_noise_is_added_to_both_of_a_pair(scale: int) -> None:
    count = 400
    lr = torch.full((count, 3, 16, 16), 0.5)
    hr = torch.full((count, 3, 16 * scale, 16 * scale), 0.5)
    seeds = torch.arange(count) % 4 * torch.arange(count)  # A quarter of them 0.
    noisy, larger = data.add_noise(lr, hr, seeds)
    assert torch.equal(noisy[seeds == 0], lr[seeds == 0])
    assert torch.equal(larger[seeds == 0], hr[seeds == 0])
    some = seeds > 0
    assert float(noisy.min()) == 0 == float(larger.min())
    assert float(noisy.max()) == 1 == float(larger.max())
    strength = (noisy - lr)[some].flatten(1).std(1)
    assert float(strength.min()) == pytest.approx(data.WEAKEST_NOISE, rel=0.1)
    # Half of them are below 0.32, the geometric mean of both ends; clipping takes some of it.
    assert 0.2 < float(strength.median()) < 0.32
    assert 0.4 < float(strength.max()) <= 0.5
    grey = (noisy[:, :1] == noisy).flatten(1).all(1)[some]
    assert float(grey.float().mean()) == pytest.approx(data.GREY_NOISE, abs=0.08)
    # Where nothing was clipped, what was added to HR is what bicubic makes of LR's.
    weak = int(strength.argmin())
    wanted = F.interpolate((noisy - lr)[some][weak][None], scale_factor=scale, mode="bicubic")[0]
    assert torch.allclose((larger - hr)[some][weak], wanted, atol=1e-6)
    again = data.add_noise(lr, hr, seeds)
    assert torch.equal(again[0], noisy)
    assert torch.equal(again[1], larger)


def test_every_image_once_an_epoch() -> None:
    sampler = data.Sampler([(30, 30)] * 10, seed=1)
    first = sampler.draw(0, 10, 8).image
    second = sampler.draw(10, 10, 8).image
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()


def test_samples_depend_on_the_seed_and_their_number_alone() -> None:
    sizes = [(30, 40)] * 7
    a, b = data.Sampler(sizes, 1), data.Sampler(sizes, 1)
    a.draw(0, 16, 8)
    for one, other in zip(
        vars(a.draw(16, 8, 8)).values(), vars(b.draw(16, 8, 8)).values(), strict=True
    ):
        assert torch.equal(one, other)
    assert not torch.equal(a.draw(0, 64, 8).top, data.Sampler(sizes, 2).draw(0, 64, 8).top)


def test_patches_reach_every_place() -> None:
    samples = data.Sampler([(9, 11)], 0).draw(0, 500, 8)
    assert set(samples.top.flatten().tolist()) == {0, 1}
    assert set(samples.left.flatten().tolist()) == {0, 1, 2, 3}


def test_shards_make_up_the_batch() -> None:
    samples = data.Sampler([(30, 40)] * 7, 1).draw(0, 16, 8)
    shards = [samples.shard(rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([shard.top for shard in shards]), samples.top)


def test_hold_out_takes_every_twentieth() -> None:
    files = [Path(str(i)) for i in range(41)]
    training, validation = data.hold_out(files)
    assert [str(f) for f in validation] == ["0", "20", "40"]
    assert len(training) == 38
    assert len(data.hold_out(files[:2])[1]) == 1
    with pytest.raises(DatasetError, match="at least two images"):
        data.hold_out(files[:1])


def test_images_of_16_bits_are_refused_at_the_start(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", Picture(np.zeros((40, 44, 3), np.uint16)))
    with pytest.raises(DatasetError, match=r"a\.png is no 8-bit .* 16 bits per channel"):
        data.usable([tmp_path / "a.png"], 2, 8)


def test_threads_that_decode_leave_the_warnings_as_they_were(files: list[Path]) -> None:
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            list(pool.map(read_hr, files * 5))
    assert warnings.filters == before


def test_fingerprint_ignores_names_and_order(files: list[Path], tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.png"
    renamed.write_bytes(files[0].read_bytes())
    assert data.fingerprint(files) == data.fingerprint([*files[1:], renamed])
    assert data.fingerprint(files) != data.fingerprint(files[1:])


def test_unusable_folders(tmp_path: Path, files: list[Path]) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        data.list_images([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no images in"):
        data.list_images([tmp_path / "empty"])
    assert data.usable(files, 2, 21) == [files[0]]
    with pytest.raises(DatasetError, match="at least 400x400"):
        data.usable(files, 4, 100)


def test_broken_image_is_named(files: list[Path]) -> None:
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"1\.png"):
        data.PatchCache(files, [2], torch.device("cpu"))
    files[1].write_text("no image")
    with pytest.raises(DatasetError, match=r"1\.png"):
        data.read_lr_sizes(files, 2)
