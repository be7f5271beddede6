"""Words that go with a picture: a PNG's texts, a JPEG's or a GIF's comment, IPTC's caption.

PNG: the specification's section 11.3.3 and 5.6. IPTC in JPEG: Adobe's image resource 0x0404.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from PIL import Image as Pillow

from sruplift.ifd import PREFIX, RAW_EXIF, exif_of_text

# (keyword, text) as a PNG has them; a comment is the text of the keyword "Comment".
Texts: TypeAlias = tuple[tuple[str, str], ...]
COMMENT = "Comment"
# Texts that are no words: other metadata in disguise, and the file's own dates.
XMP = "XML:com.adobe.xmp"
NOT_WORDS = (XMP, "Raw profile type ", "date:")
SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
IPTC_RESOURCE = 0x0404
# Longer chunks and texts are not looked at, bytes.
LONGEST = 16 * 1024**2
# What a JPEG's segment holds.
LONGEST_COMMENT = 65_533
# A finished file is moved so many bytes at a time.
BLOCK = 16 * 1024**2


def texts_of(picture: Pillow.Image) -> Texts:
    """The words of a picture that is decoded (a PNG's may lie behind its pixels)."""
    if picture.format == "PNG":
        return tuple((str(k), str(v)) for k, v in getattr(picture, "text", {}).items() if _word(k))
    comment = picture.info.get("comment")
    return ((COMMENT, _decoded(comment)),) if isinstance(comment, bytes) and comment else ()


def comment_of(texts: Texts) -> bytes | None:
    """The comment among ``texts`` for a JPEG or a GIF."""
    comment = dict(texts).get(COMMENT)
    if not comment:
        return None
    return comment.encode()[:LONGEST_COMMENT].decode(errors="ignore").encode()


def iptc_of(picture: Pillow.Image) -> bytes | None:
    """The IPTC records of a JPEG."""
    resources = picture.info.get("photoshop")
    data = resources.get(IPTC_RESOURCE) if isinstance(resources, dict) else None
    return data if isinstance(data, bytes) and data else None


def iptc_segment(iptc: bytes) -> bytes:
    """A JPEG's APP13 segment with IPTC records."""
    resource = b"8BIM" + struct.pack(">H", IPTC_RESOURCE) + bytes(2) + struct.pack(">I", len(iptc))
    return segment(0xED, b"Photoshop 3.0\0" + resource + iptc + bytes(len(iptc) % 2))


def segment(marker: int, content: bytes) -> bytes:
    """One of a JPEG, of 65,533 bytes at most."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def png_metadata(file: BinaryIO) -> dict[str, Any]:
    """What a PNG's chunks say before and behind its pixels: ``texts``, ``exif`` and ``xmp``.

    Decodes no pixels; a chunk that is damaged is passed over.
    """
    found: dict[str, Any] = {"exif": None, "xmp": None}
    texts: dict[str, str] = {}
    for name, data in _chunks(file, (*TEXT_CHUNKS, b"eXIf")):
        if name == b"eXIf":
            found["exif"] = PREFIX + data.removeprefix(PREFIX)
            continue
        with contextlib.suppress(ValueError, zlib.error):
            keyword, text = _text(name, data)
            if keyword == XMP:
                found["xmp"] = text.encode("utf-8" if name == b"iTXt" else "latin-1")
            elif keyword == RAW_EXIF:
                found["exif"] = found["exif"] or _exif_of_text(text)
            elif _word(keyword):
                texts[keyword] = text
    return {**found, "texts": tuple(texts.items())}


def add_to_png(path: Path, texts: Texts, exif: bytes | None = None) -> None:
    """Write ``texts`` into a finished PNG, behind its pixels, and EXIF behind its first chunk."""
    with path.open("r+b") as file:
        file.seek(-12, 2)  # Before the last chunk, which is empty.
        for keyword, text in texts:
            data = keyword.encode("latin-1", "replace")[:79] + bytes(5) + text.encode()
            file.write(_chunk(b"iTXt", data))
        file.write(_chunk(b"IEND", b""))
        if exif:
            _insert(file, len(SIGNATURE) + 25, _chunk(b"eXIf", exif.removeprefix(PREFIX)))


def add_segments(path: Path, segments: bytes) -> None:
    """Write ``segments`` into a finished JPEG, before all others."""
    with path.open("r+b") as file:
        _insert(file, 2, segments)


def _insert(file: BinaryIO, place: int, data: bytes) -> None:
    """What lies behind ``place`` moves, its end first."""
    end = file.seek(0, 2)
    while end > place:
        begin = max(place, end - BLOCK)
        file.seek(begin)
        moved = file.read(end - begin)
        file.seek(begin + len(data))
        file.write(moved)
        end = begin
    file.seek(place)
    file.write(data)


def _exif_of_text(text: str) -> bytes:
    try:
        return PREFIX + exif_of_text(text).removeprefix(PREFIX)
    except ValueError:
        return PREFIX  # Which whoever reads it will find damaged.


def _word(keyword: object) -> bool:
    return bool(keyword) and not str(keyword).startswith(NOT_WORDS)


def _decoded(data: bytes) -> str:
    """Text that does not say how it is encoded."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _chunks(file: BinaryIO, names: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if name == b"IEND":
            return
        if name in names and length <= LONGEST:
            yield name, file.read(length)
            length = 0
        file.seek(length + 4, 1)


def _text(name: bytes, data: bytes) -> tuple[str, str]:
    """Keyword and text of a chunk."""
    keyword, rest = data.split(b"\0", 1)
    packed, encoding = name == b"zTXt", "latin-1"
    if packed:
        rest = rest[1:]
    elif name == b"iTXt":
        packed, encoding = rest[:1] == b"\1", "utf-8"
        _, _, rest = rest[2:].split(b"\0", 2)
    if packed:
        rest = zlib.decompressobj().decompress(rest, LONGEST)
    return keyword.decode("latin-1"), rest.decode(encoding)


def _chunk(name: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)
