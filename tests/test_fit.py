"""What a format can hold, and what is said about the rest."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import exif_of_a_camera, grey_profile, photo, rgb_profile

from sruplift.fit import HOLDS, fitted, opaque_or_clear
from sruplift.image import Image
from sruplift.metadata import exif_resolution

FULL = Image(
    photo(6, 8),
    rgb_profile(),
    exif_of_a_camera(),
    b"<x/>",
    (300, 300),
    ("an older note",),
    b"\x1cx",
    (("Title", "a"), ("Comment", "b")),
)
DROPPED = {
    "PNG": "PNG does not hold IPTC: dropped",
    "JPEG": "JPEG does not hold its texts (Title): dropped",
    "WEBP": "WEBP does not hold IPTC, its texts (Title, Comment): dropped",
    "TIFF": "TIFF does not hold its texts (Title, Comment): dropped",
    "AVIF": "AVIF does not hold IPTC, its texts (Title, Comment): dropped",
    "GIF": "GIF does not hold EXIF, the resolution, IPTC, its texts (Title): dropped",
}


@pytest.mark.parametrize("kind", HOLDS)
def test_what_is_dropped_is_said_in_one_sentence(kind: str) -> None:
    fit = fitted(FULL, kind)
    assert fit.notes == (DROPPED[kind],)
    assert (fit.iptc is not None) == (kind in ("JPEG", "TIFF"))
    assert (fit.exif is None) == (kind == "GIF")
    assert fit.icc_profile == (None if kind == "GIF" else rgb_profile())
    assert fitted(Image(photo(6, 8)), kind).notes == ()


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_the_resolution_goes_into_exif(kind: str) -> None:
    for exif in (None, exif_of_a_camera()):
        fit = fitted(Image(photo(6, 8), exif=exif, dpi=(300, 150)), kind)
        assert fit.dpi is None
        assert exif_resolution(fit.exif) == (300, 150)


def test_colours_are_converted_only_where_the_profile_cannot_go() -> None:
    grey = Image(photo(6, 8, 1)[..., None], grey_profile(gamma=1.2))
    for kind in ("PNG", "JPEG", "TIFF", "AVIF"):
        assert fitted(grey, kind).icc_profile
        assert fitted(grey, kind).array is grey.array
    for kind in ("WEBP", "GIF"):
        fit = fitted(grey, kind)
        assert fit.icc_profile is None
        assert fit.array.mean() > grey.array.mean() + 20  # A gamma of 1.2 is bright.
    coloured = Image(photo(6, 8), grey_profile(gamma=1.2))  # Grey on a coloured background.
    assert fitted(coloured, "JPEG").icc_profile is None


def test_what_is_too_long_for_a_jpeg() -> None:
    image = Image(photo(6, 8), xmp=b"x" * 70_000, iptc=b"\x1c" * 70_000)
    fit = fitted(image, "JPEG")
    assert (fit.xmp, fit.iptc) == (None, None)
    assert fit.notes == (
        "the XMP data of 70,000 bytes do not fit a JPEG: dropped",
        "the IPTC data of 70,000 bytes do not fit a JPEG: dropped",
    )
    assert fitted(image, "TIFF").notes == ()


@pytest.mark.parametrize("channels", [2, 4])
def test_pixels_of_a_gif_are_seen_or_not(channels: int) -> None:
    array = photo(2, 4)[..., [0, 1, 2, 0][:channels]].copy()
    array[..., -1] = [0, 127, 128, 255]
    result = opaque_or_clear(Image(array))
    assert result.alpha is not None
    assert result.alpha.tolist() == [[0, 0, 255, 255]] * 2
    colours = np.broadcast_to(array[..., :-1], (2, 4, 3))  # Pillow takes them only so.
    assert np.array_equal(result.pixels, colours)
    opaque = Image(photo(2, 2))
    assert opaque_or_clear(opaque) is opaque


def test_a_profile_that_is_hollow_is_dropped_with_a_word() -> None:
    """Its header says RGB; there is nothing behind it that could convert."""
    profile = rgb_profile()
    fit = fitted(Image(photo(6, 8), profile[:128] + bytes(len(profile) - 128)), "GIF")
    assert np.array_equal(fit.array, photo(6, 8))
    assert fit.icc_profile is None
    (note,) = fit.notes
    assert note == "GIF cannot hold the colour profile, nor can it be converted: it is dropped"
