"""What a file says about its pixels: EXIF, colour profile, resolution, bits. Reads no pixels."""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import ExifTags
from PIL import Image as Pillow

from sruplift.ifd import (
    EXIF,
    PREFIX,
    RAW_EXIF,
    UNDEFINED,
    Directory,
    Entry,
    change_exif,
    exif_of_text,
    long,
    make_exif,
    number,
    rational,
    read_directory,
    read_exif,
    rewrite,
    short,
    without_thumbnail,
)

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsProfile

ORIENTATION = int(ExifTags.Base.Orientation)
XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>\s*)(\d)")
IPTC = 33723
# Every record begins with it (IPTC-IIM 4.2, section 1.5).
IPTC_MARKER = b"\x1c"
# So much of a file's beginning tells its bits.
HEADER_BYTES = 65_536
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = RESOLUTION_TAGS = (282, 283, 296)
# How a TIFF lies in its file, and the old pixels' layout: wrong in any other file. The names are
# in TIFF 6.0 and its supplements and GeoTIFF (how large a pixel was on the ground). The colour
# profile (34675), XMP (700) and IPTC (33723) are carried on their own.
STRUCTURAL_TAGS = frozenset(
    (254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293)
    + (297, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 333, 334, 336, 337, 338)
    + (339, 340, 341, 342, 343, 344, 345, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529)
    + (530, 531, 532, 700, 33550, 33723, 33922, 34264, 34377, 34675, 37724)
)


def raw_exif(picture: Pillow.Image) -> bytes | None:
    """The EXIF data of a picture that is decoded, as the file has them; not a TIFF's.

    Raises:
        ValueError: they are a text that is damaged.
    """
    exif = picture.info.get("exif")
    if exif is None and (text := picture.info.get(RAW_EXIF)):
        exif = exif_of_text(text)
    return exif or None


def tiff_metadata(file: BinaryIO) -> tuple[bytes | None, bytes | None]:
    """EXIF data of a TIFF, without what concerns its own pixels, and its IPTC records.

    Raises:
        ValueError: it has no directory.
    """
    directory = read_directory(file, (STRUCTURAL_TAGS - {IPTC}).union(RESOLUTION_TAGS))
    records = directory.pop(IPTC, None)
    iptc = records.data if isinstance(records, Entry) else b""
    # Many write the records as numbers of four bytes, and do not turn them with the byte order.
    if iptc[3:4] == IPTC_MARKER != iptc[:1]:
        iptc = b"".join(iptc[i : i + 4][::-1] for i in range(0, len(iptc), 4))
    exif = make_exif(directory) if directory else None
    return exif, iptc if iptc.startswith(IPTC_MARKER) else None


def portable_exif(exif: bytes) -> bytes | None:
    """EXIF that fits any file with upright pixels, or ``None`` if nothing is left of it.

    The orientation becomes 1 (the pixels are turned), the layout of a TIFF and the thumbnail go.
    The rest stays byte for byte at its place; if some of it is damaged, the rest of it moves.
    Pillow's encoders read it again, so Pillow must be able to. It warns of what is damaged.

    Raises:
        Exception: it is damaged as a whole; one of many types.
    """
    directory = read_exif(exif)
    upright = {ORIENTATION: short(1)} if ORIENTATION in directory else {}
    exif = change_exif(without_thumbnail(exif), upright, drop=STRUCTURAL_TAGS)
    if STRUCTURAL_TAGS.issuperset(directory):
        return None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        Pillow.Exif().load(exif)
    if not said:
        return exif
    warnings.warn("some of the EXIF data is damaged: it is dropped", stacklevel=2)
    whole = read_exif(exif)
    return make_exif(whole) if whole else None


def sized_exif(exif: bytes, height: int, width: int) -> bytes:
    """``exif`` with the size of the pixels that it will be written beside, where it has one."""
    file = io.BytesIO(exif.removeprefix(PREFIX))
    sizes = {ExifTags.Base.ExifImageWidth: width, ExifTags.Base.ExifImageHeight: height}
    rewrite(file, {int(tag): long(size) for tag, size in sizes.items()}, within=EXIF)
    return PREFIX + file.getvalue()


def stated_orientation(exif: bytes | None, xmp: bytes | None) -> int:
    """EXIF's orientation, else XMP's, from 1 to 8; 1 where they state none, or are damaged."""
    found = None
    with contextlib.suppress(ValueError):
        found = number(read_exif(exif or b"").get(ORIENTATION))
    if found is None and (said := XMP_ORIENTATION.search(xmp or b"")):
        found = int(said[1])
    return int(found) if found is not None and found in range(1, 9) else 1


def exif_without_orientation(exif: bytes) -> bytes:
    """``exif`` that leaves unsaid what is usual anyway."""
    return change_exif(exif, {}, drop=(ORIENTATION,))


def exif_resolution(exif: bytes | None) -> tuple[float, float] | None:
    """Dots per inch (x, y) that EXIF data state, if they are sensible."""
    try:
        found = read_exif(exif or b"")
    except ValueError:
        return None
    x, y, unit = (number(found.get(tag)) for tag in RESOLUTION_TAGS)
    inches = {2: 1.0, 3: 2.54}.get(int(unit or 2))
    return resolution({"dpi": (x * inches, y * inches)}) if x and y and inches else None


def exif_with_resolution(exif: bytes | None, dpi: tuple[float, float]) -> bytes:
    """``exif``, or new data, that state the resolution: for formats that cannot otherwise."""
    new: Directory = {
        X_RESOLUTION: rational(dpi[0]),
        Y_RESOLUTION: rational(dpi[1]),
        RESOLUTION_UNIT: short(2),
    }
    return change_exif(exif, new) if exif else make_exif(new)


def add_to_tiff(
    file: BinaryIO, exif: bytes | None, iptc: bytes | None, dpi: tuple[float, float] | None
) -> None:
    """Write EXIF and IPTC into a finished TIFF, whose own resolution stays if ``dpi`` is known.

    Raises:
        ValueError: the file would be too large.
    """
    directory = read_exif(exif) if exif else {}
    for tag in STRUCTURAL_TAGS.union(RESOLUTION_TAGS if dpi else ()):
        directory.pop(tag, None)
    if iptc:
        directory[IPTC] = Entry(UNDEFINED, len(iptc), iptc)
    rewrite(file, directory)


def drop_tiff_resolution(file: BinaryIO) -> None:
    """Let a finished TIFF say nothing of a resolution."""
    rewrite(file, {}, drop=RESOLUTION_TAGS)


def raw_xmp(picture: Pillow.Image) -> bytes | None:
    """The XMP packet of a picture that is decoded (a PNG's may lie behind its pixels)."""
    xmp = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        # Of a PNG's text that does not say it is UTF-8, as libvips writes it.
        xmp = xmp.encode("latin-1", "ignore")
    return xmp if isinstance(xmp, bytes) else None


def resolution(info: dict[Any, Any]) -> tuple[float, float] | None:
    """Dots per inch (x, y) from Pillow's ``info``, if it says something sensible."""
    try:
        x, y = (float(value) for value in info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if info.get("resolution") == (1, 1):  # Pillow's, of a TIFF that says nothing.
        return None
    return (x, y) if all(math.isfinite(v) and 0 < v < 1e6 for v in (x, y)) else None


def open_profile(data: bytes, mode: str) -> ImageCmsProfile | None:
    """The colour profile in ``data``, or ``None`` if it is broken or not for pixels of ``mode``."""
    from PIL import ImageCms  # Slow to load, and most pictures have no profile.

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        space = profile.profile.xcolor_space.strip()
    except (OSError, TypeError, ValueError, ImageCms.PyCMSError):
        return None
    return profile if space == {"L": "GRAY", "CMYK": "CMYK"}.get(mode, "RGB") else None


def to_srgb(image: Pillow.Image, profile: ImageCmsProfile) -> Pillow.Image | None:
    """``image`` of ``profile`` as RGB in sRGB, relative colorimetric, black to black.

    Without the last, ink's black, which is a dark grey on paper, would be one on the screen.
    None: the profile cannot be used.
    """
    from PIL import ImageCms

    try:
        return ImageCms.profileToProfile(
            image,
            profile,
            ImageCms.createProfile("sRGB"),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except ImageCms.PyCMSError:  # Its header is sound, what is behind it is not.
        return None


def from_srgb(
    rgb: tuple[float, float, float], icc_profile: bytes | None
) -> tuple[float, float, float]:
    """A colour of sRGB, in [0, 1], as a picture with that profile has it, to 8 bits.

    Of a grey picture's profile each number is converted as a grey.
    """
    mode = "L" if icc_profile and open_profile(icc_profile, "L") else "RGB"
    profile = open_profile(icc_profile, mode) if icc_profile else None
    if profile is None:
        return rgb
    from PIL import ImageCms  # As above.

    colours = [rgb] if mode == "RGB" else [(value,) * 3 for value in rgb]
    levels = bytes(round(value * 255) for colour in colours for value in colour)
    try:
        converted = ImageCms.profileToProfile(
            Pillow.frombytes("RGB", (1, len(colours)), levels),
            ImageCms.createProfile("sRGB"),
            profile,
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode=mode,
        )
    except ImageCms.PyCMSError:  # As above.
        return rgb
    assert converted is not None
    red, green, blue = (level / 255 for level in converted.tobytes())
    return red, green, blue


def stored_bits(header: bytes, image: Pillow.Image) -> int:
    """Bits per channel in the file, whatever Pillow makes of them; 8 where the file cannot say.

    ``header`` is the beginning of the file, ``HEADER_BYTES`` of it: a PNG's IHDR, an AVIF's
    ``av1C`` box (AV1 in ISO base media files 1.2, section 2.3). A TIFF's tags are read from
    ``image``.
    """
    if header.startswith(b"\x89PNG\r\n\x1a\n") and len(header) > 24:
        return header[24]
    if image.format == "HEIF":
        return int(image.info.get("bit_depth", 8))
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(258, (8,))
        told = [b for b in (bits if isinstance(bits, tuple) else (bits,)) if isinstance(b, int)]
        return max(told, default=8)
    if image.format == "AVIF" and 0 <= (start := header.find(b"av1C")) < len(header) - 6:
        flags = header[start + 6]
        return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    return 8
