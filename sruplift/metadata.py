"""What a file says about its pixels: EXIF, colour profile, resolution, bits. Reads no pixels."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from PIL import ExifTags
from PIL import Image as Pillow

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsProfile

ORIENTATION = ExifTags.Base.Orientation
# How a TIFF lies in its file, and the old pixels' layout: wrong in any other file. The names are
# in TIFF 6.0 and its supplements; 34675 is the colour profile, 700 XMP, both carried on their own.
STRUCTURAL_TAGS = frozenset(
    (254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293)
    + (297, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 333, 334, 336, 337, 338)
    + (339, 340, 341, 342, 343, 344, 345, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529)
    + (530, 531, 532, 700, 34377, 34675, 37724)
)


def portable_exif(exif: Pillow.Exif) -> bytes | None:
    """EXIF that fits any file with upright pixels, or ``None`` if nothing is left of it.

    The orientation becomes 1 (the pixels are turned), the layout of a TIFF and the thumbnail go.

    Raises:
        Exception: Pillow cannot serialise what the file holds, with one of many types.
    """
    copy = Pillow.Exif()
    copy.load(exif.tobytes())
    for tag in STRUCTURAL_TAGS.intersection(copy):
        del copy[tag]
    if ORIENTATION in copy:
        copy[ORIENTATION] = 1
    return copy.tobytes() if len(copy) else None


def sized_exif(exif: bytes, height: int, width: int) -> bytes:
    """``exif`` with the size of the pixels that it will be written beside."""
    result = Pillow.Exif()
    result.load(exif)
    if ExifTags.IFD.Exif in result:
        details = result.get_ifd(ExifTags.IFD.Exif)
        sizes = {ExifTags.Base.ExifImageWidth: width, ExifTags.Base.ExifImageHeight: height}
        details.update({tag: size for tag, size in sizes.items() if tag in details})
    return result.tobytes()


def has_folders(exif: bytes) -> bool:
    """Whether ``exif`` has directories of its own, such as the exposure's or the place's."""
    parsed = Pillow.Exif()
    parsed.load(exif)
    return ExifTags.IFD.Exif in parsed or ExifTags.IFD.GPSInfo in parsed


def raw_xmp(picture: Pillow.Image) -> bytes | None:
    """The XMP packet of a picture that is decoded (a PNG's may lie behind its pixels)."""
    xmp = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return xmp if isinstance(xmp, bytes) else None


def resolution(info: dict[Any, Any]) -> tuple[float, float] | None:
    """Dots per inch (x, y) from Pillow's ``info``, if it says something sensible."""
    try:
        x, y = (float(value) for value in info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
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
    """``image`` of ``profile`` as RGB in sRGB, relative colorimetric; None: it cannot be used."""
    from PIL import ImageCms

    target = ImageCms.createProfile("sRGB")
    try:
        return ImageCms.profileToProfile(
            image, profile, target, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB"
        )
    except ImageCms.PyCMSError:  # Its header is sound, what is behind it is not.
        return None


def stored_bits(header: bytes, image: Pillow.Image) -> int:
    """Bits per channel in the file, whatever Pillow makes of them; 8 where the file cannot say.

    ``header`` is the beginning of the file: a PNG's IHDR, an AVIF's ``av1C`` box (AV1 in ISO base
    media files 1.2, section 2.3). A TIFF's tags are read from ``image``.
    """
    if header.startswith(b"\x89PNG\r\n\x1a\n") and len(header) > 24:
        return header[24]
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(258, (8,))
        told = [b for b in (bits if isinstance(bits, tuple) else (bits,)) if isinstance(b, int)]
        return max(told, default=8)
    if image.format == "AVIF" and 0 <= (start := header.find(b"av1C")) < len(header) - 6:
        flags = header[start + 6]
        return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    return 8
