"""Wherever a file says how it is to be turned, and whichever decoder reads it, it is turned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import photo
from PIL import Image as Pillow
from PIL import PngImagePlugin

from sruplift import store
from sruplift.decoding import picture_size
from sruplift.image import Image, write_image
from sruplift.metadata import stated_orientation
from sruplift.png import SIGNATURE
from sruplift.reading import read_image

HEIGHT, WIDTH = 20, 30
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
    b' tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def exif(orientation: int = 6) -> bytes:
    data = Pillow.Exif()
    data[274] = orientation
    return data.tobytes()


def pixels(deep: bool) -> np.ndarray:
    return photo(HEIGHT, WIDTH).astype(np.uint16) * 257 if deep else photo(HEIGHT, WIDTH)


def put_behind_the_pixels(path: Path) -> None:
    """Move a PNG's eXIf chunk to its end, where it may also be."""
    chunks, data = [], path.read_bytes()
    place = len(SIGNATURE)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        chunks.append(data[place:end])
        place = end
    chunks.sort(key=lambda chunk: (chunk[4:8] == b"IEND", chunk[4:8] == b"eXIf"))
    path.write_bytes(SIGNATURE + b"".join(chunks))


def png(path: Path, how: str, deep: bool) -> None:
    """A PNG that is to be turned by 90 degrees."""
    if how == "exif":
        write_image(path, Image(pixels(deep), exif=exif()))
        put_behind_the_pixels(path)
    elif how == "xmp":
        write_image(path, Image(pixels(deep), xmp=XMP))
    else:
        text = f"\nexif\n{len(exif()):8}\n{exif().hex()}\n"
        write_image(path, Image(pixels(deep), texts=(("Raw profile type exif", text),)))


@pytest.mark.parametrize("how", ["exif", "xmp", "ImageMagick"])
@pytest.mark.parametrize("kind", ["small", "large", "deep"])
def test_a_png_is_turned(
    tmp_path: Path, how: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    png(tmp_path / "a.png", how, kind == "deep")
    if kind == "large":
        monkeypatch.setattr(store, "IN_MEMORY", 10)
    image = read_image(tmp_path / "a.png")
    assert np.array_equal(image.array, np.rot90(pixels(kind == "deep"), -1))
    assert stated_orientation(image.exif, image.xmp) == 1
    assert (image.exif is None) == (how == "xmp")
    assert picture_size(tmp_path / "a.png") == (WIDTH, HEIGHT, 1)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("large", [False, True])
def test_what_xmp_alone_says_counts(
    tmp_path: Path, suffix: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    Pillow.fromarray(pixels(deep=False)).save(path, xmp=XMP, quality=95)
    if large:
        monkeypatch.setattr(store, "IN_MEMORY", 10)
    image = read_image(path)
    assert image.size == (WIDTH, HEIGHT)
    assert np.abs(image.array.astype(int) - np.rot90(pixels(deep=False), -1)).mean() < 6


@pytest.mark.parametrize(
    ("exif_says", "xmp", "expected"),
    [
        (None, None, 1),
        (exif(3), XMP, 3),
        (exif(9), XMP, 1),
        (b"rubbish", XMP, 6),
        (None, XMP.replace(b'Orientation="6"', b"Orientation='8'"), 8),
        (None, b"<tiff:Orientation>5</tiff:Orientation>", 5),
        (None, b'tiff:Orientation="0"', 1),
    ],
)
def test_what_is_stated(exif_says: bytes | None, xmp: bytes | None, expected: int) -> None:
    assert stated_orientation(exif_says, xmp) == expected


def test_a_damaged_text_of_imagemagick_is_told(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n8\n4578zz")
    Pillow.fromarray(photo(4, 5)).save(tmp_path / "a.png", pnginfo=info)
    image = read_image(tmp_path / "a.png")
    assert "the EXIF data is damaged: it is dropped" in image.notes
