"""XMP packets are changed where they must be, and nowhere else."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import pytest
from PIL import Image as Pillow

from sruplift.xmp import (
    NAMESPACE,
    gif_with_xmp,
    gif_xmp,
    sized_xmp,
    upright_xmp,
    with_provenance,
)

ATTRIBUTES = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'xmlns:exif="http://ns.adobe.com/exif/1.0/" tiff:Orientation="6" tiff:ImageWidth="30" '
    b'exif:PixelYDimension="20" exif:ISO="100"/></rdf:RDF></x:xmpmeta>'
)
ELEMENTS = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'xmlns:exif="http://ns.adobe.com/exif/1.0/"><tiff:Orientation>6</tiff:Orientation>'
    b"<tiff:ImageWidth>30</tiff:ImageWidth><exif:PixelYDimension>20</exif:PixelYDimension>"
    b"<exif:ISO>100</exif:ISO></rdf:Description></rdf:RDF></x:xmpmeta>"
)
BOTH = pytest.mark.parametrize("packet", [ATTRIBUTES, ELEMENTS])


def numbers(packet: bytes) -> list[int]:
    return [int(each) for each in re.findall(rb"[\">](\d+)[\"<]", packet)]


@BOTH
def test_turned_pixels_have_orientation_1(packet: bytes) -> None:
    assert numbers(upright_xmp(packet)) == [1, 30, 20, 100]


@BOTH
def test_sizes_follow_the_pixels(packet: bytes) -> None:
    assert numbers(sized_xmp(packet, 200, 300)) == [6, 300, 200, 100]


def test_thumbnails_go() -> None:
    small = b"<xmp:Thumbnails>\n<rdf:Alt>abc</rdf:Alt>\n</xmp:Thumbnails>"
    packet = ELEMENTS.replace(b"<exif:ISO>", small + b"<exif:ISO>")
    assert sized_xmp(packet, 20, 30) == ELEMENTS
    assert upright_xmp(ELEMENTS.replace(b">6<", b">1<")) == ELEMENTS.replace(b">6<", b">1<")


def test_a_gif_holds_a_packet_that_its_readers_pass_over() -> None:
    buffer = io.BytesIO()
    frames = [Pillow.new("L", (5, 4), level) for level in (0, 255)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    gif = gif_with_xmp(buffer.getvalue(), ATTRIBUTES)
    assert gif_xmp(gif) == ATTRIBUTES
    assert gif_xmp(buffer.getvalue()) is None
    with Pillow.open(io.BytesIO(gif)) as picture:
        assert picture.n_frames == 2
        picture.seek(1)
        assert picture.convert("L").getpixel((0, 0)) == 255


@pytest.mark.parametrize("packet", [None, b"not XMP", ATTRIBUTES, ELEMENTS])
def test_provenance_is_added_and_replaced(packet: bytes | None) -> None:
    once = with_provenance(packet, {"model": "pan", "size": "x4"})
    twice = with_provenance(once, {"model": 'a "<&>"'})
    ours = [
        {
            key.removeprefix(f"{{{NAMESPACE}}}"): value
            for key, value in each.attrib.items()
            if NAMESPACE in key
        }
        for each in ElementTree.fromstring(twice).iter()
    ]
    assert [each for each in ours if each] == [{"model": 'a "<&>"'}]
    assert b'sruplift:size="x4"' in once
    if packet and b"RDF" in packet:
        assert numbers(twice)[:4] == [6, 30, 20, 100]
