"""What is missing or wrong in a PNG, told without a decoder."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from corpus import GREY, KINDS, PALETTE, RGB, chunk, drawing, png, rows
from pictures import photo
from PIL import Image as Pillow

from sruplift.png import damage


def told(data: bytes) -> str | None:
    file = io.BytesIO(data)
    file.seek(3)
    said = damage(file)
    assert file.tell() == 3
    return said


@pytest.mark.parametrize("interlace", [False, True])
@pytest.mark.parametrize(("colour", "depth"), KINDS)
def test_the_size_of_the_pixels_is_known(colour: int, depth: int, interlace: bool) -> None:
    for height, width in [(1, 1), (2, 9), (9, 2), (5, 5), (8, 8), (17, 3)]:
        drawn = drawing(colour, depth, height, width)
        data = png(drawn, interlace=interlace, idat=5)
        assert told(data) is None
        content = rows(drawn, interlace=interlace)
        whole, less = (zlib.compress(content[:end]) for end in (len(content), len(content) - 1))
        short = png(drawn, interlace=interlace).replace(chunk(b"IDAT", whole), chunk(b"IDAT", less))
        assert told(short) == "a part of its pixels is missing"


def test_other_files_are_not_judged() -> None:
    assert told(b"") is None
    assert told(b"GIF89a") is None


def test_every_frame_counts() -> None:
    frames = [Pillow.fromarray(np.roll(photo(9, 12), step, 0)) for step in range(3)]
    for own_picture in (False, True):
        buffer = io.BytesIO()
        frames[0].save(
            buffer, "PNG", save_all=True, append_images=frames, default_image=own_picture
        )
        data = buffer.getvalue()
        assert told(data) is None
        last = data.rindex(b"fcTL")
        assert told(data[: data.index(b"fdAT") + 12]) == "a part of its pixels is missing"
        taller = data[: last + 8] + (90).to_bytes(4, "big") * 2 + data[last + 16 :]
        assert told(taller) == "a part of its pixels is missing"


def test_checksums_and_palettes() -> None:
    data = bytearray(png(drawing(RGB, 8, 4, 4), level=0))
    data[data.index(b"IDAT") + 20] ^= 1
    assert told(bytes(data)) in (
        "wrong checksum in IDAT",
        "Error -3 while decompressing data: incorrect data check",
    )
    pictured = png(drawing(PALETTE, 2, 4, 4))
    assert told(pictured) is None
    start, end = pictured.index(b"PLTE") - 4, pictured.index(b"IDAT") - 4
    assert told(pictured[:start] + pictured[end:]) == "it has no palette"


def test_what_swells_is_not_unpacked() -> None:
    """Only as much as the picture needs."""
    drawn = drawing(GREY, 8, 4, 4)
    right = chunk(b"IDAT", zlib.compress(rows(drawn)))
    much = chunk(b"IDAT", zlib.compress(bytes(2**28), 1))
    assert told(png(drawn).replace(right, much)) is None
