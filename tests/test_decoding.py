"""Headers, sizes and words for what cannot be read."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from corpus import tiff
from pictures import photo
from PIL import Image as Pillow

from sruplift import decoding
from sruplift.decoding import picture_size
from sruplift.errors import ImageError
from sruplift.reading import read_image


def test_heic_is_read_with_the_extra(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Pillow.Exif()
    exif[274] = 6
    Pillow.fromarray(photo(40, 60)).save(tmp_path / "a.heic", quality=95, exif=exif)
    image = read_image(tmp_path / "a.heic")
    assert image.size == picture_size(tmp_path / "a.heic")[:2]
    assert abs(int(image.pixels.mean()) - int(photo(40, 60).mean())) < 3


def test_heic_without_the_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    decoding._formats.cache_clear()
    try:
        with pytest.raises(ImageError, match=r"pip install 'sruplift\[heic\]'"):
            read_image(tmp_path / "a.heic")
    finally:
        decoding._formats.cache_clear()


@pytest.mark.parametrize("orientation", [0, 1, 6])
def test_the_size_of_a_tiff_that_only_libvips_opens(tmp_path: Path, orientation: int) -> None:
    data = tiff(np.zeros((4, 6, 2), np.uint16), 1, extra=(2,))
    if orientation:  # In the place of how many rows a strip has, which is all of them.
        data = data.replace(struct.pack("<HHI", 278, 4, 1), struct.pack("<HHI", 274, 4, 1))
        data = data.replace(
            struct.pack("<HHII", 274, 4, 1, 4), struct.pack("<HHII", 274, 4, 1, orientation)
        )
    (tmp_path / "a.tif").write_bytes(data)
    assert picture_size(tmp_path / "a.tif") == (*read_image(tmp_path / "a.tif").size, 1)


@pytest.mark.parametrize(("channels", "dtype"), [(5, np.uint16), (3, np.float32)])
def test_a_tiff_that_nobody_opens_has_no_size(tmp_path: Path, channels: int, dtype: type) -> None:
    data = tiff(np.zeros((4, 6, channels), dtype), 1, extra=(2,) * (channels - 1))
    (tmp_path / "a.tif").write_bytes(data)
    for read in (read_image, picture_size):
        with pytest.raises(ImageError):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
def test_sizes_are_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Pillow.Exif()
    exif[274] = orientation
    Pillow.fromarray(photo(4, 6)).save(tmp_path / f"a{suffix}", exif=exif)
    image = read_image(tmp_path / f"a{suffix}")
    assert picture_size(tmp_path / f"a{suffix}") == (*image.size, 1)
