"""The service: every kind of picture in, the same kind out; files; options."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import photo_like
from pictures import bilinear_pan, grey_profile, photo, rgb_profile
from PIL import ExifTags, ImageOps
from PIL import Image as Pillow
from torch import Tensor, nn

import sruplift
from sruplift import reading
from sruplift.errors import ImageError, NumericalError, SrupliftError, UsageError
from sruplift.files import Failure, Job, Skipped
from sruplift.image import Image
from sruplift.manifest import sha256_of
from sruplift.reading import read_image
from sruplift.upscale import UpscaleResult, upscale_file, upscale_files
from sruplift.upscaler import Upscaler, upscale


class Nearest(nn.Module):
    """Twice as large, and ``factor`` times as bright."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest") * self.factor


class Smooth(nn.Module):
    """Twice as large, and every pixel sees its neighbours: what fringes are made of."""

    def forward(self, x: Tensor) -> Tensor:
        blurred = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
        return F.interpolate(blurred, scale_factor=2, mode="bilinear", align_corners=False)


def nearest(factor: float = 1.0, **options: object) -> Upscaler:
    return Upscaler(Nearest(factor), scale=2, device="cpu", precision="fp32", **options)


def twice(array: np.ndarray) -> np.ndarray:
    return array.repeat(2, axis=0).repeat(2, axis=1)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Pillow.fromarray(array).save(path, **options)
    return path


# ---- Options


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"tile_size": 0}, "a tile of 0 is too small"),
        ({"tile_size": 64, "overlap": 60}, "it needs 8 pixels of its own"),
        ({"overlap": -1}, "overlap must be at least 0"),
        ({"tile_size": 32, "overlap": 32}, "a tile of 32 is too small for an overlap of 32"),
        ({"max_pixels": 0}, "max-pixels must be at least 1"),
        ({"quality": 101}, "quality must be from 1 to 100"),
        ({"tile": 64}, "unknown option 'tile'; did you mean 'tile_size'"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Upscaler(Nearest(), scale=2, **options)


def test_unknown_models_and_scales() -> None:
    with pytest.raises(UsageError, match="'pam'"):
        Upscaler("pam")
    with pytest.raises(UsageError, match="at most 64, not 65"):
        Upscaler("pan", scale=65)


# ---- Pictures


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [0, 1, 3])
def test_an_array_gives_an_array(dtype: type, channels: int) -> None:
    shape = (5, 7, channels) if channels else (5, 7)
    random = np.random.default_rng(0)
    array = random.random(shape) if dtype(0.5) else random.integers(0, np.iinfo(dtype).max, shape)
    array = array.astype(dtype)
    result = nearest()(array)
    assert result.dtype == dtype
    assert np.array_equal(result, twice(array)) or np.allclose(result, twice(array), atol=1e-6)


def test_arrays_of_odd_layout() -> None:
    array = photo(6, 8)
    for view in (array[::-1], array[:, ::2], array.astype(">u2"), np.asfortranarray(array)):
        assert np.array_equal(nearest()(view), twice(view))
    frozen = array.copy()
    frozen.flags.writeable = False
    assert np.array_equal(nearest()(frozen), twice(array))
    assert np.array_equal(frozen, array)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 4, 6), (1, 4, 6), (2, 3, 4, 6), (1, 1, 4, 6)])
def test_a_tensor_gives_a_tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    values = torch.rand(shape)
    tensor = (values * 255).to(dtype) if dtype == torch.uint8 else values.to(dtype)
    before = tensor.clone()
    result = nearest()(tensor)
    assert result.dtype == dtype
    expected = tensor.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert torch.equal(tensor, before)


def test_a_tensor_with_a_gradient_gives_one_without() -> None:
    result = nearest()(torch.rand(3, 4, 4, requires_grad=True))
    assert not result.requires_grad
    assert float(result.add_(1).min()) >= 1  # Not an inference tensor that refuses to be changed.


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "I;16"])
def test_a_pillow_image_keeps_its_mode(mode: str) -> None:
    picture = Pillow.fromarray(photo(5, 7)).convert("L" if mode == "I;16" else mode).convert(mode)
    result = nearest()(picture)
    assert isinstance(result, Pillow.Image)
    assert result.mode == mode
    assert result.size == (14, 10)
    assert np.array_equal(np.asarray(result), twice(np.asarray(picture)))


@pytest.mark.parametrize(("mode", "expected"), [("1", "L"), ("P", "RGB"), ("CMYK", "RGB")])
def test_a_pillow_image_that_no_network_understands(mode: str, expected: str) -> None:
    assert nearest()(Pillow.fromarray(photo(5, 7)).convert(mode)).mode == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pillow_image_is_turned_as_it_is_shown(orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Pillow.fromarray(photo(5, 7)).save(file, "PNG", exif=exif)
    with Pillow.open(file) as picture:
        result = nearest()(picture)
        shown = np.asarray(ImageOps.exif_transpose(picture))
        assert picture.getexif()[0x0112] == orientation
    assert np.array_equal(np.asarray(result), twice(shown))
    assert 0x0112 not in result.getexif()


def test_a_pillow_image_keeps_profile_and_resolution() -> None:
    picture = Pillow.fromarray(photo(5, 7))
    picture.info.update(icc_profile=rgb_profile(), dpi=(300, 300))
    result = nearest()(picture)
    assert result.info["icc_profile"] == rgb_profile()
    assert result.info["dpi"] == (300, 300)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((2, 2, 5)),
        np.zeros((0, 2, 3)),
        np.zeros(4),
        np.zeros((2, 2, 3), np.int32),
        np.zeros((2, 2, 3), bool),
        np.full((2, 2, 3), 1.5),
        np.full((2, 2, 3), -0.5),
        np.full((2, 2, 3), np.nan),
        np.full((2, 2, 3), np.inf),
        torch.zeros(2, 2),
        torch.zeros(3, 2, 2, dtype=torch.int64),
        "photo.png",
    ],
)
def test_what_is_no_picture_is_refused(picture: object) -> None:
    with pytest.raises(ImageError):
        nearest()(picture)  # type: ignore[type-var]


def test_values_are_rounded_not_cut() -> None:
    array = np.full((2, 2, 3), 100, np.uint8)
    assert nearest(1.004)(array).max() == 100
    assert nearest(1.006)(array).max() == 101
    assert nearest(2.0)(np.full((2, 2, 3), 200, np.uint8)).min() == 255


def test_wild_values_are_said() -> None:
    with pytest.warns(UserWarning, match="left the range 0 to 1 by up to 4"):
        result = nearest(5.0)(np.ones((2, 2, 3), np.float32))
    assert result.max() == 1


def test_tiles_give_what_the_whole_gives() -> None:
    array = photo(40, 50)
    whole = nearest()(array)
    assert np.array_equal(nearest(tile_size=16, overlap=4)(array), whole)


def test_bfloat16_runs_and_stays_close() -> None:
    torch.manual_seed(0)
    net = sruplift.create_model("pan", 2)
    array = photo(24, 30)
    exact, rough = (
        Upscaler(net, scale=2, device="cpu", precision=name)(array) for name in ("fp32", "bf16")
    )
    assert np.abs(exact.astype(int) - rough.astype(int)).max() <= 2


def test_a_deep_gradient_keeps_its_levels() -> None:
    ramp = np.linspace(0, 65535, 3000).astype(np.uint16)[None].repeat(2, axis=0)
    assert len(np.unique(nearest()(ramp))) == 3000


# ---- Transparency


def test_a_disc_on_nothing_has_no_fringe() -> None:
    y, x = np.mgrid[0:40, 0:40]
    inside = (x - 19.5) ** 2 + (y - 19.5) ** 2 < 14**2
    picture = np.zeros((40, 40, 4), np.uint8)  # Black where nothing is seen.
    picture[inside] = (250, 120, 30, 255)
    result = Upscaler(Smooth(), scale=2, device="cpu", precision="fp32")(picture)
    seen = result[..., 3] > 0
    assert 0.9 < seen.sum() / (inside.sum() * 4) < 1.2
    assert len(np.unique(result[..., 3])) > 4  # A soft edge.
    assert np.abs(result[seen][:, :3].astype(int) - (250, 120, 30)).max() <= 1


def test_a_grey_picture_with_alpha() -> None:
    picture = np.stack([photo(6, 8, 1), np.full((6, 8), 128, np.uint8)], axis=2)
    assert np.array_equal(nearest()(picture), twice(picture))


def test_alpha_stays_in_range() -> None:
    alpha = np.zeros((16, 16), np.uint8)
    alpha[:, 8:] = 255
    picture = np.dstack([photo(16, 16), alpha])
    result = nearest()(picture.astype(np.float32) / 255)
    assert result[..., 3].min() == 0
    assert result[..., 3].max() == 1


# ---- Files


def test_a_file_is_enlarged_with_all_that_goes_with_it(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Model] = "camera"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = 8
    pixels = photo(6, 8)
    source = save(tmp_path / "a.png", pixels, exif=exif, dpi=(300, 300), icc_profile=rgb_profile())
    result = upscale_file(source, tmp_path / "b.png", nearest())
    assert result == UpscaleResult(
        source=source,
        destination=tmp_path / "b.png",
        input_size=(8, 6),
        output_size=(16, 12),
        seconds=result.seconds,
        device="cpu",
        precision="fp32",
    )
    with Pillow.open(tmp_path / "b.png") as written:
        assert np.array_equal(np.asarray(written), twice(np.rot90(pixels, -1)))
        assert written.info["icc_profile"] == rgb_profile()
        assert written.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        assert written.getexif()[ExifTags.Base.Orientation] == 1
        assert written.getexif()[ExifTags.Base.Model] == "camera"
        details = written.getexif().get_ifd(ExifTags.IFD.Exif)
        assert details[ExifTags.Base.ExifImageWidth] == 12


def test_a_grey_file_stays_grey(tmp_path: Path) -> None:
    pixels = photo(6, 8, 1)
    source = save(tmp_path / "a.png", pixels, icc_profile=grey_profile())
    upscale_file(str(source), str(tmp_path / "b.png"), nearest())
    image = read_image(tmp_path / "b.png")
    assert np.array_equal(image.pixels, twice(pixels)[..., None])
    assert image.icc_profile == grey_profile()


def test_a_palette_with_transparency_becomes_rgba(tmp_path: Path) -> None:
    palette = Pillow.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "a.png", transparency=1)
    upscale_file(tmp_path / "a.png", tmp_path / "b.png", nearest())
    with Pillow.open(tmp_path / "b.png") as written:
        assert written.mode == "RGBA"
        assert written.getpixel((0, 0)) == (255, 0, 0, 255)


def test_transparency_is_laid_on_white_where_the_target_has_none(tmp_path: Path) -> None:
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[:, :8] = (200, 30, 30, 255)
    source = save(tmp_path / "a.png", picture)
    result = upscale_file(source, tmp_path / "b.jpg", nearest())
    assert result.notes == (".jpg has no transparency: the picture is laid on white",)
    pixels = read_image(tmp_path / "b.jpg").pixels.astype(int)
    assert np.abs(pixels[:, :10] - (200, 30, 30)).max() <= 6
    assert pixels[:, 22:].min() >= 249


@pytest.mark.parametrize(
    ("suffix", "levels", "notes"), [(".png", 3000, 0), (".tif", 3000, 0), (".jpg", 256, 1)]
)
def test_sixteen_bits_are_kept_where_they_can_be(
    tmp_path: Path, suffix: str, levels: int, notes: int
) -> None:
    ramp = np.linspace(0, 65535, 3000).astype(np.uint16)[None].repeat(2, axis=0)
    source = save(tmp_path / "a.png", ramp)
    result = upscale_file(source, tmp_path / f"b{suffix}", nearest())
    found = len(np.unique(read_image(tmp_path / f"b{suffix}").pixels))
    assert found == levels if levels > 256 else 200 < found <= levels
    assert len(result.notes) == notes


@pytest.mark.parametrize("size", [(1, 1), (3, 20_000), (1, 50), (2, 2)])
def test_extreme_shapes(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    source = save(tmp_path / "a.png", pixels)
    upscale_file(source, tmp_path / "b.png", nearest())
    assert np.array_equal(read_image(tmp_path / "b.png").pixels, twice(pixels))


def test_nothing_is_read_if_the_output_cannot_be(tmp_path: Path) -> None:
    save(tmp_path / "b.png", photo(4, 4))
    with pytest.raises(ImageError, match=r"b\.png exists"):
        upscale_file(tmp_path / "none.png", tmp_path / "b.png", nearest())


@pytest.mark.parametrize("kind", ["gif", "tif"])
def test_a_file_that_goes_away_while_it_is_read_stops_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    victim = save(tmp_path / f"victim.{kind}", photo(4, 4))
    others = [save(tmp_path / f"{name}.png", photo(4, 4)) for name in "ab"]
    jobs = [Job(path, path.with_name(f"{path.stem}_x2.png")) for path in (victim, *others)]
    real = reading.open_picture

    def opened(path: Path, *arguments: Any) -> Any:
        if path == victim:
            path.unlink(missing_ok=True)
        return real(path, *arguments)

    monkeypatch.setattr(reading, "open_picture", opened)
    failure, *done = upscale_files(jobs, nearest())
    assert isinstance(failure, Failure)
    assert str(failure.error) == f"{victim}: no such file or directory"
    assert all(isinstance(each, UpscaleResult) for each in done)


def test_a_network_that_fails_is_named_with_the_file(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", photo(4, 4))
    with pytest.raises(NumericalError, match=r"a\.png: the network returned NaN or infinity .tile"):
        upscale_file(source, tmp_path / "b.png", nearest(float("nan")))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_too_little_memory_for_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise MemoryError

    source = save(tmp_path / "a.png", photo(4, 4))
    upscaler = nearest()
    monkeypatch.setattr(Upscaler, "enlarge", greedy)
    with pytest.raises(ImageError, match=r"a\.png: not enough memory"):
        upscale_file(source, tmp_path / "b.png", upscaler)


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    names = ["a.png", "bad.png", "c.png"]
    for name in names:
        save(tmp_path / name, photo(4, 4))
    (tmp_path / "bad.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    early = Failure(Path("folder"), ImageError("no images"))
    jobs = [early, *(Job(tmp_path / name, tmp_path / f"x_{name}") for name in names)]
    shares: list[tuple[str, float]] = []
    results = [
        *upscale_files(jobs, nearest(), lambda path, share: shares.append((path.name, share)))
    ]
    assert results[0] is early
    assert [type(result) for result in results[1:]] == [UpscaleResult, Failure, UpscaleResult]
    assert isinstance(results[2], Failure)
    assert "bad.png" in str(results[2].error)
    assert (tmp_path / "x_c.png").exists()
    assert shares == [("a.png", 1.0), ("c.png", 1.0)]


def test_a_bug_is_not_mistaken_for_a_bad_file(tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise RuntimeError("a bug")

    source = save(tmp_path / "a.png", photo(4, 4))
    upscaler = Upscaler(Broken(), scale=2, device="cpu", precision="fp32")
    with pytest.raises(RuntimeError, match="a bug"):
        list(upscale_files([Job(source, tmp_path / "b.png")], upscaler))


def test_reading_and_writing_go_on_beside_the_network(tmp_path: Path) -> None:
    """The network waits in the first picture until the second is read: alone it would for ever."""
    read = threading.Event()

    class Waiting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert read.wait(timeout=30)
            return F.interpolate(x, scale_factor=2, mode="nearest")

    def jobs() -> Iterator[Job]:
        for index in range(4):
            if index == 2:  # Asked for once the second is on its way.
                read.set()
            yield Job(save(tmp_path / f"{index}.png", photo(4, 4)), tmp_path / f"x{index}.png")

    upscaler = Upscaler(Waiting(), scale=2, device="cpu", precision="fp32")
    results = list(upscale_files(jobs(), upscaler))
    assert [result.destination.name for result in results] == [f"x{i}.png" for i in range(4)]


def test_an_interruption_completes_what_is_being_written_and_begins_no_more(
    tmp_path: Path,
) -> None:
    jobs = [
        Job(save(tmp_path / f"{i}.png", photo(40, 40)), tmp_path / f"x{i}.png") for i in range(8)
    ]

    class Interrupted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return F.interpolate(x, scale_factor=2, mode="nearest")

    upscaler = Upscaler(Interrupted(), scale=2, device="cpu", precision="fp32")
    with pytest.raises(KeyboardInterrupt):
        list(upscale_files(jobs, upscaler))
    results = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(("x", ".")))
    assert results in ([], ["x0.png"], ["x0.png", "x1.png"])
    for name in results:
        assert read_image(tmp_path / name).size == (80, 80)


def test_an_image_that_is_large_enough_is_left_alone(tmp_path: Path) -> None:
    small = save(tmp_path / "small.png", photo(10, 20))
    large = save(tmp_path / "large.png", photo(30, 60))
    upscaler = Upscaler("pan", max_side=50, only_if_smaller=True, device="cpu")
    jobs = [Job(path, tmp_path / f"x_{path.name}") for path in (large, small)]
    skipped, done = upscale_files(jobs, upscaler)
    assert isinstance(skipped, Skipped)
    assert skipped.why == "60x30 is large enough already"
    assert isinstance(done, UpscaleResult)
    assert done.output_size == (25, 50)
    assert not (tmp_path / "x_large.png").exists()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_a_file_says_how_it_was_made(tmp_path: Path, suffix: str) -> None:
    weights = bilinear_pan(tmp_path, 2)
    source = save(tmp_path / "a.png", photo(8, 8))
    for name, wanted in (("with", True), ("without", False)):
        upscaler = Upscaler("pan", scale=2, weights=weights, device="cpu", provenance=wanted)
        upscale_file(source, tmp_path / f"{name}{suffix}", upscaler)
    xmp = read_image(tmp_path / f"with{suffix}").xmp
    assert xmp is not None
    for fact in ('model="pan"', 'size="x2"', sha256_of(weights), sruplift.__version__):
        assert fact.encode() in xmp
    assert read_image(tmp_path / f"without{suffix}").xmp is None


def test_a_file_names_the_weights_that_were_run_for_it_and_no_others(tmp_path: Path) -> None:
    """Whatever else a batch loaded: else a resumed batch would write other bytes."""
    upscaler = Upscaler("pan", width=40, device="cpu")
    found = {}
    for width in (20, 10, 80):
        source = save(tmp_path / f"{width}.png", photo(width // 2, width))
        upscale_file(source, tmp_path / f"x{width}.png", upscaler)
        xmp = read_image(tmp_path / f"x{width}.png").xmp
        assert xmp is not None
        found[width] = xmp
    sha256 = {scale: upscaler.weights_sha256[scale].encode() for scale in (2, 4)}
    assert [sha256[2] in found[20], sha256[4] in found[20]] == [True, False]
    assert [sha256[2] in found[10], sha256[4] in found[10]] == [False, True]
    assert not any(each in found[80] for each in sha256.values())
    assert b"sruplift:model" not in found[80]


def test_an_animation_is_enlarged_frame_by_frame(tmp_path: Path) -> None:
    pictures = [Pillow.fromarray(photo(8, 10)).rotate(90 * turn) for turn in range(3)]
    source = tmp_path / "a.webp"
    pictures[0].save(
        source, save_all=True, append_images=pictures[1:], duration=[40, 80, 120], lossless=True
    )
    shares: list[float] = []
    result = upscale_file(source, tmp_path / "b.png", nearest(), shares.append)
    assert isinstance(result, UpscaleResult)
    assert result.output_size == (16, 20)
    assert shares == [pytest.approx(share) for share in (1 / 3, 2 / 3, 1)]
    with Pillow.open(tmp_path / "b.png") as picture:
        assert picture.n_frames == 3
        for index, original in enumerate(pictures):
            picture.seek(index)
            assert picture.info["duration"] == 40 * (index + 1)
            assert np.array_equal(np.asarray(picture.convert("RGB")), twice(np.asarray(original)))
    with pytest.raises(ImageError, match=r"\.jpg holds no animation"):
        upscale_file(source, tmp_path / "b.jpg", nearest())


def test_a_sheet_is_written_beside_the_result(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", photo(50, 60))
    upscale_file(source, tmp_path / "b.png", nearest(compare=tmp_path / "sheet.jpg"))
    assert read_image(tmp_path / "sheet.jpg").size[1] > 2 * 120
    with pytest.raises(ImageError, match=r"sheet\.jpg exists"):
        upscale_file(source, tmp_path / "c.png", nearest(compare=tmp_path / "sheet.jpg"))
    assert not (tmp_path / "c.png").exists()


def test_a_side_too_long_for_the_format_is_said_before_the_work(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", photo(2, 8200))
    calls: list[float] = []
    with pytest.raises(ImageError, match="WEBP holds at most 16383 pixels a side"):
        upscale_file(source, tmp_path / "a.webp", nearest(), calls.append)
    assert calls == []


# ---- PAN


def test_pan_from_a_file_of_weights(tmp_path: Path) -> None:
    upscaler = Upscaler("pan", scale=4, weights=bilinear_pan(tmp_path), device="cpu")
    image = photo_like(9, 11)
    expected = F.interpolate(image[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(upscaler(image), expected, rtol=0, atol=1e-6)


def test_the_short_way(tmp_path: Path) -> None:
    weights = bilinear_pan(tmp_path, 2)
    array = photo(5, 6)
    result = upscale(array, "pan", scale=2, weights=weights, device="cpu")
    assert np.array_equal(result, sruplift.Upscaler("pan", scale=2, weights=weights)(array))
    assert result.shape == (10, 12, 3)


def test_enlarge_leaves_its_image_alone() -> None:
    image = Image(photo(4, 5, 4))
    before = image.pixels.copy()
    larger, notes = nearest().enlarge(image)
    assert larger.size == (8, 10)
    assert notes == ()
    assert np.array_equal(image.pixels, before)


def test_errors_are_all_of_one_family() -> None:
    assert issubclass(ImageError, SrupliftError)
    assert (ImageError.exit_code, UsageError.exit_code) == (1, 2)


@pytest.mark.parametrize("kept", [False, True])
def test_what_reading_a_large_picture_leaves_is_given_back_where_it_would_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    module = sys.modules[upscale_files.__module__]
    given: list[int] = []
    monkeypatch.setattr(module, "WORTH_GIVING_BACK", 20 * 20 * 3)
    monkeypatch.setattr(module, "is_kept", lambda: kept)
    monkeypatch.setattr(module, "give_back", lambda: given.append(1))
    for edge, count in ((20, 0), (21, int(kept))):
        path = save(tmp_path / f"{edge}.png", photo(edge, edge))
        upscale_file(path, tmp_path / f"{edge}_out.png", nearest())
        assert len(given) == count
