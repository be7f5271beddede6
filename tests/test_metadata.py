"""EXIF, profiles, resolution and depth, as files state them."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from pictures import grey_profile, photo, rgb_profile
from PIL import ExifTags
from PIL import Image as Pillow

from sruplift.metadata import (
    exif_resolution,
    exif_with_resolution,
    exif_without_orientation,
    from_srgb,
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
    exif = parsed(portable_exif(camera_exif().tobytes()))
    assert exif[ExifTags.Base.Orientation] == 1
    assert exif[ExifTags.Base.Model] == "camera"
    assert ExifTags.Base.Compression not in exif
    assert ExifTags.Base.StripOffsets not in exif
    details = exif.get_ifd(ExifTags.IFD.Exif)
    assert details[ExifTags.Base.DateTimeOriginal] == "2024:05:06 07:08:09"
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"


def test_no_exif_stays_none() -> None:
    assert portable_exif(Pillow.Exif().tobytes()) is None


def test_the_stated_size_follows_the_pixels() -> None:
    data = portable_exif(camera_exif().tobytes())
    assert data is not None
    details = parsed(sized_exif(data, 80, 120)).get_ifd(ExifTags.IFD.Exif)
    assert details[ExifTags.Base.ExifImageWidth] == 120
    assert details[ExifTags.Base.ExifImageHeight] == 80


def test_a_size_that_was_not_stated_is_not_invented() -> None:
    exif = Pillow.Exif()
    exif[ExifTags.Base.Model] = "camera"
    data = portable_exif(exif.tobytes())
    assert data is not None
    assert dict(parsed(sized_exif(data, 80, 120))) == {ExifTags.Base.Model: "camera"}


def test_what_is_not_changed_stays_byte_for_byte() -> None:
    """A maker note has offsets of its own; letters that are not ASCII are not EXIF's, but usual."""
    exif = Pillow.Exif()
    exif[ExifTags.Base.Orientation] = 8
    exif[ExifTags.Base.Artist] = "J?rgen"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = bytes(range(200))
    data = exif.tobytes().replace(b"J?rgen", b"J\xfcrgen")
    result = portable_exif(data)
    assert result is not None
    differences = [i for i, pair in enumerate(zip(data, result, strict=True)) if len({*pair}) > 1]
    assert len(differences) == 1
    assert (data[differences[0]], result[differences[0]]) == (8, 1)
    unsaid = parsed(exif_without_orientation(result))
    assert ExifTags.Base.Orientation not in unsaid
    assert unsaid.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] == bytes(range(200))


def test_of_damaged_data_the_rest_is_kept() -> None:
    """A tag whose value lies outside: of a file that was cut, or edited badly."""
    exif = Pillow.Exif()
    exif[ExifTags.Base.Model] = "camera"
    exif[ExifTags.Base.Artist] = "somebody"
    data = bytearray(exif.tobytes())
    entry = data.index(struct.pack(">H", ExifTags.Base.Artist))
    data[entry + 8 : entry + 12] = struct.pack(">I", 5000)
    with pytest.warns(UserWarning, match="some of the EXIF data is damaged: it is dropped"):
        result = portable_exif(bytes(data))
    assert dict(parsed(result)) == {ExifTags.Base.Model: "camera"}


def test_a_folder_that_is_not_there_is_left_alone() -> None:
    data = bytearray(camera_exif().tobytes())
    entry = data.index(struct.pack(">HH", ExifTags.IFD.Exif, 4))
    data[entry + 8 : entry + 12] = struct.pack(">I", 5000)
    assert sized_exif(bytes(data), 80, 120) == bytes(data)


def test_the_resolution_can_be_stated_in_exif() -> None:
    assert exif_resolution(None) is None
    assert exif_resolution(camera_exif().tobytes()) is None
    for before in (None, camera_exif().tobytes()):
        data = exif_with_resolution(before, (300, 150.5))
        assert exif_resolution(data) == (300, 150.5)
        assert before is None or parsed(data)[ExifTags.Base.Model] == "camera"
    assert exif_resolution(exif_with_resolution(None, (900_000, 1))) == (900_000, 1)
    metric = parsed(exif_with_resolution(None, (100, 100)))
    metric[ExifTags.Base.ResolutionUnit] = 3
    assert exif_resolution(metric.tobytes()) == pytest.approx((254, 254))


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"dpi": (300, 150)}, (300.0, 150.0)),
        ({}, None),
        ({"dpi": (0, 0)}, None),
        ({"dpi": (float("nan"), 72)}, None),
        ({"dpi": 72}, None),
        ({"dpi": ("a", "b")}, None),
        ({"dpi": (1, 1), "resolution": (1, 1)}, None),
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


def test_of_a_profile_that_is_hollow_a_colour_stays_what_it_is() -> None:
    profile = rgb_profile()
    hollow = profile[:128] + bytes(len(profile) - 128)
    assert open_profile(hollow, "RGB") is not None
    assert from_srgb((1, 0.5, 0), hollow) == (1, 0.5, 0)
    assert from_srgb((1, 0.5, 0), profile) != (1, 0.5, 0)


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
