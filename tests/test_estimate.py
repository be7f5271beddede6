"""What --dry-run says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pictures import photo
from PIL import Image as Pillow

from sruplift.errors import ImageError
from sruplift.estimate import Estimate, Estimator, estimates
from sruplift.files import Failure, Job
from sruplift.upscale import UpscaleResult, upscale_file, upscale_files
from sruplift.upscaler import Upscaler


def job(path: Path, height: int, width: int, **options: object) -> Job:
    Pillow.fromarray(photo(height, width)).save(path, **options)
    return Job(path, path.with_name(f"x_{path.stem}.png"))


@pytest.mark.parametrize(
    ("options", "scales"), [({"scale": 4}, (4,)), ({"scale": 5}, (2, 3)), ({"width": 10}, ())]
)
def test_sizes_are_those_of_the_result(
    tmp_path: Path, options: dict[str, int], scales: tuple[int, ...]
) -> None:
    upscaler = Upscaler("pan", device="cpu", **options)
    work = job(tmp_path / "a.png", 20, 30)
    estimate = Estimator(upscaler)(work)
    result = upscale_file(work.source, work.destination, upscaler)
    assert isinstance(result, UpscaleResult)
    assert estimate.scales == scales
    assert (estimate.input_size, estimate.output_size) == (result.input_size, result.output_size)
    assert (estimate.seconds > 0) == bool(scales)
    assert estimate.memory > 10**6


def test_more_pixels_take_more_tiles_time_and_memory(tmp_path: Path) -> None:
    upscaler = Upscaler("pan", scale=2, device="cpu", tile_size=160)
    estimate = Estimator(upscaler)
    small = estimate(job(tmp_path / "a.png", 20, 30))
    large = estimate(job(tmp_path / "b.png", 400, 300))
    assert (small.tiles, large.tiles) == (1, 12)
    assert large.seconds > 50 * small.seconds
    assert large.memory > small.memory


def test_every_frame_counts(tmp_path: Path) -> None:
    frames = [Pillow.fromarray(photo(20, 30)).rotate(90 * turn) for turn in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    estimate = Estimator(Upscaler("pan", scale=2, device="cpu"))
    assert estimate(Job(tmp_path / "a.gif", tmp_path / "b.gif")).tiles == 3


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_turned_photo_is_estimated_upright(tmp_path: Path, suffix: str) -> None:
    exif = Pillow.Exif()
    exif[274] = 6
    work = job(tmp_path / f"a{suffix}", 20, 30, exif=exif)
    assert Estimator(Upscaler("pan", scale=2, device="cpu"))(work).output_size == (60, 40)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("exists", r"x_a\.png exists"),
        ("pages", r"a\.tif: it has 2 pages; only single images are supported"),
        ("frames", r"\.jpg holds no animation"),
        ("side", "17000"),
    ],
)
def test_what_the_run_would_refuse_is_refused(tmp_path: Path, trouble: str, said: str) -> None:
    options: dict[str, int] = {"scale": 2}
    pictures = [Pillow.fromarray(photo(8, 8)), Pillow.fromarray(photo(8, 8)).rotate(90)]
    work = job(tmp_path / "a.png", 8, 8)
    if trouble == "exists":
        work.destination.touch()
    elif trouble == "side":
        options = {"width": 17_000}
        work = Job(job(tmp_path / "b.png", 8, 300).source, tmp_path / "b.webp")
    else:
        path = tmp_path / ("a.tif" if trouble == "pages" else "a.gif")
        pictures[0].save(path, save_all=True, append_images=pictures[1:])
        work = Job(path, tmp_path / ("b.png" if trouble == "pages" else "b.jpg"))
    upscaler = Upscaler("pan", device="cpu", **options)
    (estimated,) = estimates([work], upscaler)
    (done,) = upscale_files([work], upscaler)
    assert isinstance(estimated, Failure)
    assert isinstance(done, Failure)
    assert str(estimated.error) == str(done.error)
    assert re.search(said, str(done.error))


def test_what_is_large_enough_is_skipped(tmp_path: Path) -> None:
    upscaler = Upscaler("pan", device="cpu", max_side=8, only_if_smaller=True)
    work = job(tmp_path / "a.png", 8, 8)
    assert list(estimates([work], upscaler)) == list(upscale_files([work], upscaler))


def test_what_cannot_be_read_is_passed_on(tmp_path: Path) -> None:
    early = Failure(tmp_path, ImageError("no images"))
    missing = Job(tmp_path / "none.png", tmp_path / "b.png")
    first, second, third = estimates(
        [early, missing, job(tmp_path / "a.png", 8, 8)], Upscaler("pan", scale=2, device="cpu")
    )
    assert first is early
    assert isinstance(second, Failure)
    assert "no such file" in str(second.error)
    assert isinstance(third, Estimate)
