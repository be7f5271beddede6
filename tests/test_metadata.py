"""EXIF, profiles, resolution and depth, as files state them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pictures import grey_profile, photo, rgb_profile
from PIL import ExifTags
from PIL import Image as Pillow

from sruplift.metadata import (
    has_folders,
    open_profile,
    portable_exif,
    resolution,
    sized_exif,
    stored_bits,
)


def camera_exif() -> Pillow.Exif:
    exif = Pillow.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Model] = "camera"
    exif[ExifTags.Base.Compression] = 1
    exif[ExifTags.Base.StripOffsets] = 8
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.ExifImageWidth] = 30
    details[ExifTags.Base.ExifImageHeight] = 20
    details[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    return exif


def parsed(data: bytes | None) -> Pillow.Exif:
    assert data is not None
    exif = Pillow.Exif()
    exif.load(data)
    return exif


def test_orientation_is_reset_and_the_layout_goes() -> None:
    exif = parsed(portable_exif(camera_exif()))
    assert exif[ExifTags.Base.Orientation] == 1
    assert exif[ExifTags.Base.Model] == "camera"
    assert ExifTags.Base.Compression not in exif
    assert ExifTags.Base.StripOffsets not in exif
    details = exif.get_ifd(ExifTags.IFD.Exif)
    assert details[ExifTags.Base.DateTimeOriginal] == "2024:05:06 07:08:09"
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"


def test_no_exif_stays_none() -> None:
    assert portable_exif(Pillow.Exif()) is None


def test_the_stated_size_follows_the_pixels() -> None:
    data = portable_exif(camera_exif())
    assert data is not None
    details = parsed(sized_exif(data, 80, 120)).get_ifd(ExifTags.IFD.Exif)
    assert details[ExifTags.Base.ExifImageWidth] == 120
    assert details[ExifTags.Base.ExifImageHeight] == 80


def test_a_size_that_was_not_stated_is_not_invented() -> None:
    exif = Pillow.Exif()
    exif[ExifTags.Base.Model] = "camera"
    data = portable_exif(exif)
    assert data is not None
    assert not has_folders(data)
    assert dict(parsed(sized_exif(data, 80, 120))) == {ExifTags.Base.Model: "camera"}


def test_a_thumbnail_is_dropped() -> None:
    plain = camera_exif().tobytes()
    # A second directory behind the first one: a thumbnail of 4 bytes.
    tiff = plain[6:]
    first = int.from_bytes(tiff[4:8], "big")
    end = first + 2 + 12 * int.from_bytes(tiff[first : first + 2], "big")
    assert tiff[:2] == b"MM"
    here = len(tiff)
    entries = [(0x0201, 4, 1, here + 2 + 24 + 4), (0x0202, 4, 1, 4)]
    folder = len(entries).to_bytes(2, "big") + b"".join(
        tag.to_bytes(2, "big")
        + kind.to_bytes(2, "big")
        + count.to_bytes(4, "big")
        + value.to_bytes(4, "big")
        for tag, kind, count, value in entries
    )
    tiff = (
        tiff[:end]
        + here.to_bytes(4, "big")
        + tiff[end + 4 :]
        + folder
        + bytes(4)
        + b"\xff\xd8\xff\xd9"
    )
    exif = parsed(plain[:6] + tiff)
    assert dict(exif.get_ifd(ExifTags.IFD.IFD1))[0x0202] == 4
    result = portable_exif(exif)
    assert result is not None
    assert b"\xff\xd8\xff\xd9" not in result
    assert not parsed(result).get_ifd(ExifTags.IFD.IFD1)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"dpi": (300, 150)}, (300.0, 150.0)),
        ({}, None),
        ({"dpi": (0, 0)}, None),
        ({"dpi": (float("nan"), 72)}, None),
        ({"dpi": 72}, None),
        ({"dpi": ("a", "b")}, None),
    ],
)
def test_resolution(info: dict[str, object], expected: object) -> None:
    assert resolution(info) == expected


def test_a_profile_must_fit_the_pixels() -> None:
    assert open_profile(rgb_profile(), "RGB") is not None
    assert open_profile(grey_profile(), "L") is not None
    assert open_profile(rgb_profile(), "L") is None
    assert open_profile(grey_profile(), "RGB") is None
    assert open_profile(rgb_profile(), "CMYK") is None
    assert open_profile(b"not a profile", "RGB") is None
    assert open_profile(rgb_profile()[:200], "RGB") is None


def encoded(kind: str, array: np.ndarray) -> tuple[bytes, Pillow.Image]:
    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, kind)
    return buffer.getvalue(), Pillow.open(buffer)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "AVIF", "JPEG", "WEBP"])
def test_eight_bits_are_eight(kind: str) -> None:
    assert stored_bits(*encoded(kind, photo(8, 9))) == 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_sixteen(kind: str) -> None:
    assert stored_bits(*encoded(kind, np.zeros((4, 4), np.uint16))) == 16


@pytest.mark.parametrize(("flags", "bits"), [(0x0C, 8), (0x4C, 10), (0x6C, 12)])
def test_the_depth_of_an_avif_is_in_its_configuration(flags: int, bits: int) -> None:
    data, picture = encoded("AVIF", photo(8, 9))
    where = data.index(b"av1C") + 6
    changed = data[:where] + bytes([flags]) + data[where + 1 :]
    assert stored_bits(changed, picture) == bits
