"""Texts, comments and captions, as Pillow reads what we write and we read what others wrote."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import photo
from PIL import Image as Pillow
from PIL import PngImagePlugin

from sruplift.image import Image, write_image
from sruplift.reading import read_image
from sruplift.words import (
    add_to_png,
    comment_of,
    iptc_of,
    iptc_segment,
    png_metadata,
    texts_of,
)

TEXTS = {"Title": "Brücke", "Author": "Jürgen π"}


def chunk(name: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png(*behind: bytes, **options: object) -> bytes:
    """A PNG with chunks behind its pixels."""
    buffer = io.BytesIO()
    Pillow.fromarray(photo(6, 8)).save(buffer, "PNG", **options)
    return buffer.getvalue()[:-12] + b"".join(behind) + chunk(b"IEND", b"")


def test_chunks_are_found_before_and_behind_the_pixels() -> None:
    before = PngImagePlugin.PngInfo()
    before.add_text("Title", "Brücke", zip=True)
    before.add_text("date:create", "2024-05-06")
    data = png(
        chunk(b"tEXt", b"Source\0K\xe4mera"),
        chunk(b"iTXt", b"Author\0\1\0\0\0" + zlib.compress("Jürgen π".encode())),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<a/>"),
        chunk(b"eXIf", b"MM\0*"),
        pnginfo=before,
    )
    found = png_metadata(io.BytesIO(data))
    assert dict(found["texts"]) == {**TEXTS, "Source": "Kämera"}
    assert found["xmp"] == b"<a/>"
    assert found["exif"] == b"Exif\0\0MM\0*"
    with Pillow.open(io.BytesIO(data)) as picture:
        picture.load()
        assert dict(texts_of(picture)) == {**TEXTS, "Source": "Kämera"}


def test_packets_that_do_not_say_that_they_are_utf_8() -> None:
    """As libvips writes them."""
    packed = zlib.compress("<a>Jürgen π</a>".encode())
    data = png(chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + packed))
    assert png_metadata(io.BytesIO(data))["xmp"] == "<a>Jürgen π</a>".encode()


@pytest.mark.parametrize(
    "damage",
    [
        chunk(b"tEXt", b"no end of the keyword"),
        chunk(b"zTXt", b"Title\0\0not packed"),
        chunk(b"iTXt", b"Title\0\0\0no language"),
        chunk(b"iTXt", b"Title\0\0\0\0\0\xff\xfe"),
    ],
)
def test_damaged_texts_are_passed_over(damage: bytes) -> None:
    found = png_metadata(io.BytesIO(png(damage, chunk(b"tEXt", b"Author\0me"))))
    assert found["texts"] == (("Author", "me"),)
    cut = png(chunk(b"tEXt", b"Author\0me"), damage)[:-20]
    assert png_metadata(io.BytesIO(cut))["texts"][:1] == (("Author", "me"),)


def test_a_text_that_unpacks_to_a_great_deal_is_cut() -> None:
    bomb = zlib.compress(bytes(64 * 1024**2), 9)
    found = png_metadata(io.BytesIO(png(chunk(b"zTXt", b"Title\0\0" + bomb))))
    assert len(found["texts"][0][1]) <= 16 * 1024**2


def test_texts_are_added_to_a_finished_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    add_to_png(path, tuple(TEXTS.items()))
    with Pillow.open(path) as picture:
        picture.load()
        assert picture.text == TEXTS
        assert np.array_equal(np.asarray(picture), photo(6, 8))


@pytest.mark.parametrize("suffix", [".jpg", ".gif"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_comments_of_either_encoding(tmp_path: Path, suffix: str, encoding: str) -> None:
    path = tmp_path / f"a{suffix}"
    Pillow.fromarray(photo(6, 8)).save(path, comment="Jürgen".encode(encoding))
    image = read_image(path)
    assert image.texts == (("Comment", "Jürgen"),)
    assert comment_of(image.texts) == "Jürgen".encode()
    assert comment_of((("Title", "a"),)) is None
    long = comment_of((("Comment", "é" * 40_000),))
    assert long == "é".encode() * 32_766


def test_records_are_read_where_they_were_written(tmp_path: Path) -> None:
    records = b"\x1c\x02\x78\0\x03abc"
    for suffix in (".jpg", ".tif"):
        write_image(tmp_path / f"a{suffix}", Image(photo(6, 8), iptc=records))
        assert read_image(tmp_path / f"a{suffix}").iptc == records
    with Pillow.open(tmp_path / "a.jpg") as picture:
        assert iptc_of(picture) == records
    assert len(iptc_segment(records)) % 2 == 0


@pytest.mark.parametrize("order", ["<", ">"])
def test_records_in_a_tiff_as_numbers_of_four_bytes(tmp_path: Path, order: str) -> None:
    """Many write them so, and do not turn them with the byte order."""
    records = b"\x1c\x02\x78\0\x03abc"
    tags = [(256, 3, 2), (257, 3, 2), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 3, 200)]
    tags += [(278, 3, 2), (279, 3, 4)]
    table = struct.pack(order + "H", 9)
    for tag, kind, value in tags:
        table += struct.pack(order + "HHI", tag, kind, 1) + struct.pack(order + "HH", value, 0)
    table += struct.pack(order + "HHII", 33723, 4, 2, 180)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    data = (head + table + bytes(4)).ljust(180, b"\0") + records
    (tmp_path / "a.tif").write_bytes(data.ljust(200, b"\0") + b"\1\2\3\4")
    image = read_image(tmp_path / "a.tif")
    assert image.pixels.ravel().tolist() == [1, 2, 3, 4]
    assert image.iptc == records
