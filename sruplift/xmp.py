"""XMP packets: what pixels that were turned and enlarged make wrong, and where they come from.

XMP is XML that says the same things in attributes or in elements (Adobe's XMP specification, part
1); only the few properties that are changed here are looked for, the rest stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.sax.saxutils import quoteattr

# The namespace of our properties: a name, not an address.
NAMESPACE = "urn:sruplift:provenance:"
# How a JPEG's further segments begin that hold what one does not (part 3, 1.1.3.1).
EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_EXTENSION = re.compile(
    rb"\s*\bxmpNote:HasExtendedXMP\s*=\s*(\"[^\"]*\"|'[^']*')"
    rb"|<xmpNote:HasExtendedXMP>[^<]*</xmpNote:HasExtendedXMP>"
)
_EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF>'
    b'</x:xmpmeta><?xpacket end="w"?>'
)
_END = b"</rdf:RDF>"
_GIF_EXTENSION = b"\x21\xff\x0bXMP DataXMP"
# Whoever takes the packet's letters for the lengths of blocks lands in here, and at its end.
_GIF_MAGIC = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
_OURS = re.compile(rb'<rdf:Description rdf:about="" xmlns:sruplift=[^>]*/>')
_THUMBNAILS = re.compile(rb"<(xmp|xap):Thumbnails>.*?</\1:Thumbnails>", re.DOTALL)
_WIDTHS = ("exif:PixelXDimension", "tiff:ImageWidth")
_HEIGHTS = ("exif:PixelYDimension", "tiff:ImageLength")


def upright_xmp(xmp: bytes) -> bytes:
    """``xmp`` for pixels that have been turned: orientation 1."""
    return _with_value(xmp, "tiff:Orientation", 1)


def sized_xmp(xmp: bytes, height: int, width: int) -> bytes:
    """``xmp`` with the size of the pixels that it will be written beside, where it has one.

    Small pictures of the old pixels go.
    """
    xmp = _THUMBNAILS.sub(b"", xmp)
    for names, value in ((_WIDTHS, width), (_HEIGHTS, height)):
        for name in names:
            xmp = _with_value(xmp, name, value)
    return xmp


def without_extension(xmp: bytes) -> bytes:
    """``xmp`` that does not refer to an extension, which is gone."""
    return _EXTENSION.sub(b"", xmp)


def with_provenance(xmp: bytes | None, facts: Mapping[str, str]) -> bytes:
    """``xmp``, or a new packet, with ``facts`` in our namespace; those of an earlier run go."""
    packet = xmp if xmp and _END in xmp else _EMPTY
    packet = _OURS.sub(b"", packet)
    properties = " ".join(f"sruplift:{name}={quoteattr(value)}" for name, value in facts.items())
    ours = f'<rdf:Description rdf:about="" xmlns:sruplift="{NAMESPACE}" {properties}/>'
    head, tail = packet.rsplit(_END, 1)
    return head + ours.encode() + _END + tail


def gif_with_xmp(gif: bytes, xmp: bytes) -> bytes:
    """A GIF with an XMP packet behind its pictures (XMP specification, part 3, 1.1.2)."""
    return gif[:-1] + _GIF_EXTENSION + xmp + _GIF_MAGIC + gif[-1:]


def gif_xmp(gif: bytes) -> bytes | None:
    """The XMP packet of a GIF."""
    _, found, behind = gif.rpartition(_GIF_EXTENSION)
    packet, ended, _ = behind.partition(_GIF_MAGIC)
    return packet if found and ended else None


def _with_value(xmp: bytes, name: str, value: int) -> bytes:
    tag, text = re.escape(name.encode()), str(value).encode()
    xmp = re.sub(rb"(\b" + tag + rb"\s*=\s*[\"'])\d+", rb"\g<1>" + text, xmp)
    return re.sub(rb"(<" + tag + rb">\s*)\d+", rb"\g<1>" + text, xmp)
