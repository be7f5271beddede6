"""libvips: strips in and out, views for turned pictures, sentences for damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import photo
from PIL import Image as Pillow
from PIL import ImageOps

from sruplift import store, vips
from sruplift.errors import ImageError
from sruplift.image import Image, write_image
from sruplift.reading import read_image


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has more than a few kilobytes is large, and decoded a few rows at a time."""
    monkeypatch.setattr(store, "IN_MEMORY", 2000)
    monkeypatch.setattr(vips, "STRIP", 500)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_large_picture_is_mapped_and_the_same(tmp_path: Path, suffix: str, channels: int) -> None:
    if suffix == ".jpg" and channels == 4:
        pytest.skip("JPEG has no transparency")
    pixels = np.concatenate([photo(60, 50), photo(60, 50)], axis=2)[..., :channels]
    options = {".webp": {"lossless": True, "exact": True}, ".jpg": {"quality": 95}}.get(suffix, {})
    path = tmp_path / f"a{suffix}"
    Pillow.fromarray(pixels.squeeze()).save(path, **options)
    image = read_image(path, folder=tmp_path)
    assert store.is_mapped(image.array)
    with Pillow.open(path) as picture:
        expected = np.asarray(picture).reshape(60, 50, -1)
    if suffix == ".webp" and channels == 1:
        expected = expected[..., :3]
    assert image.array.shape == expected.shape
    assert np.abs(image.array.astype(int) - expected).max() <= (1 if suffix == ".jpg" else 0)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_picture_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    exif = Pillow.Exif()
    exif[274] = orientation
    picture = Pillow.fromarray(photo(60, 50))
    picture.save(tmp_path / "a.tif", exif=exif)
    image = read_image(tmp_path / "a.tif", folder=tmp_path)
    assert store.is_mapped(image.array)
    with Pillow.open(tmp_path / "a.tif") as again:
        assert np.array_equal(image.array, np.asarray(ImageOps.exif_transpose(again)))


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp", ".avif"])
def test_a_large_picture_is_written_in_strips(tmp_path: Path, suffix: str) -> None:
    array = store.new_array((60, 50, 3), np.uint8, tmp_path)
    array[:] = photo(60, 50)
    assert store.is_mapped(array)
    write_image(tmp_path / f"a{suffix}", Image(array, dpi=(150, 150)), quality=95)
    with Pillow.open(tmp_path / f"a{suffix}") as picture:
        assert picture.size == (50, 60)
        error = np.abs(np.asarray(picture.convert("RGB")).astype(int) - array).mean()
    assert error < (0.01 if suffix in (".png", ".tif") else 5)


def test_premultiplied_colours_are_divided_again(tmp_path: Path) -> None:
    """A TIFF with associated alpha (TIFF 6.0, ExtraSamples 1) at 16 bits."""
    pyvips = pytest.importorskip("pyvips")
    pixels = np.full((4, 5, 4), (10_000, 20_000, 5_000, 32_768), np.uint16)
    image = pyvips.Image.new_from_memory(pixels.data, 5, 4, 4, "ushort")
    image.copy(interpretation="rgb16").tiffsave(str(tmp_path / "a.tif"), premultiply=True)
    with Pillow.open(tmp_path / "a.tif") as picture:
        assert picture.tag_v2[338] in (1, (1,))
    result = read_image(tmp_path / "a.tif").array
    assert np.abs(result.astype(int) - pixels).max() <= 2


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_damage_is_a_sentence(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    Pillow.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ImageError, match=f"^cannot read .*a{suffix}: the file is damaged"):
        read_image(path, folder=tmp_path)


@pytest.mark.usefixtures("little_memory")
def test_no_room_for_the_pixels_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    Pillow.fromarray(photo(60, 50)).save(tmp_path / "a.png")
    monkeypatch.setattr(store, "_reserve", full)
    with pytest.raises(ImageError, match=r"a\.png: no room for its pixels .*No space left"):
        read_image(tmp_path / "a.png", folder=tmp_path)
