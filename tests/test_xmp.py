"""XMP packets are changed where they must be, and nowhere else."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from sruplift.xmp import NAMESPACE, sized_xmp, upright_xmp, with_provenance

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
