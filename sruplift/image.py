"""An image with all that must survive, alpha, profile, EXIF, XMP, depth, and how it is written.

Pixels stay in the file's own colour space and its profile goes with them untouched: a trip through
sRGB would clip every colour that a wide-gamut camera saw and a small screen cannot show. Only what
networks do not understand is converted: CMYK and palettes.

Pillow writes what it can hold; libvips does 16 bits of colour, and what is too large to be in
memory twice. ``reading`` reads.
"""

from __future__ import annotations

import dataclasses
import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import PngImagePlugin

from sruplift import store, vips
from sruplift.decoding import sentence
from sruplift.errors import ImageError
from sruplift.files import WRITABLE, shown
from sruplift.fit import fitted, opaque_or_clear
from sruplift.metadata import (
    add_to_tiff,
    drop_tiff_resolution,
    exif_without_orientation,
    open_profile,
    resolution,
    to_srgb,
)
from sruplift.outfile import check_destination, new_file
from sruplift.png import drop_png_resolution
from sruplift.words import XMP, Texts, add_segments, add_to_png, comment_of, iptc_segment, segment
from sruplift.xmp import gif_with_xmp

QUALITY = {"JPEG": 95, "WEBP": 95, "AVIF": 90}
HOLDS_ALPHA = frozenset(("PNG", "WEBP", "TIFF", "AVIF", "GIF"))
# AVIF holds 12 of them.
HOLDS_16_BITS = frozenset(("PNG", "TIFF", "AVIF"))
LARGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_536, "GIF": 65_535}
PREDICTOR, XMP_TAG = 317, 700
# What libvips writes as Pillow does, in less memory.
AS_GOOD = ("JPEG", "TIFF")
# How a JPEG's segment with XMP begins.
JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
# So many bytes meet the end of a disk that is nearly full.
MORE = 1024**2

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Image:
    """Upright pixels and what goes with them.

    ``array`` is (H, W, C), uint8 or uint16; C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA),
    alpha not multiplied into the colours. ``exif`` and ``xmp`` say orientation 1; ``iptc`` are
    bare records; ``dpi`` is (x, y); ``texts`` are (keyword, text). ``notes`` are sentences about
    what could not be kept.
    """

    array: Pixels
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    iptc: bytes | None = None
    texts: Texts = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.array.shape[0], self.array.shape[1]

    @property
    def colours(self) -> int:
        """1 for grey, 3 for RGB."""
        return 1 if self.array.shape[2] < 3 else 3

    @property
    def pixels(self) -> Pixels:
        """The colours, (H, W, 1 or 3), a view."""
        return self.array[..., : self.colours]

    @property
    def alpha(self) -> Pixels | None:
        """(H, W), a view, or None."""
        return self.array[..., self.colours] if self.array.shape[2] > self.colours else None


def from_pillow(picture: Pillow.Image) -> Image:
    """The pixels of a Pillow image as they are (not turned), its profile and resolution.

    Palettes become RGB, or RGBA if they have transparency; CMYK and YCbCr become RGB.

    Raises:
        ImageError: none, or pixels of 32 bits or in a colour space that is not supported.
    """
    notes: list[str] = []
    if min(picture.size) < 1:
        raise ImageError(f"an image has at least one pixel, not {picture.width}x{picture.height}")
    mode = _plain_mode(picture)
    icc, profile = usable_profile(
        picture.info.get("icc_profile"), profile_mode(picture.mode), notes
    )
    if picture.mode == "CMYK":
        converted = to_srgb(picture, profile) if profile is not None else None
        if converted is None:
            notes.append("CMYK without a usable colour profile: the colours are approximate")
        picture, icc = converted or picture.convert("RGB"), None
    elif picture.mode != mode and not mode.startswith("I;16"):
        picture = picture.convert(mode)
    array = np.array(picture)
    if mode.startswith("I;16"):
        array = array.astype(np.uint16)
    array = array.reshape(*array.shape[:2], -1)
    return Image(array, icc, dpi=resolution(picture.info), notes=tuple(notes))


def to_pillow(image: Image) -> Pillow.Image:
    """``image`` as Pillow's L, LA, RGB, RGBA or I;16, with its profile and resolution in ``info``.

    Raises:
        ImageError: 16 bits with colour or alpha, which Pillow cannot hold.
    """
    array = image.array
    if array.dtype == np.uint16 and array.shape[2] > 1:
        raise ImageError("Pillow holds 16 bits per channel only of grey without alpha")
    picture = Pillow.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    if image.icc_profile:
        picture.info["icc_profile"] = image.icc_profile
    if image.dpi:
        picture.info["dpi"] = image.dpi
    return picture


def write_image(
    path: Path, image: Image, *, quality: int | None = None, overwrite: bool = False
) -> tuple[str, ...]:
    """Write ``image`` in the format of ``path``'s suffix, whole or not at all.

    Args:
        path: its folder must exist.
        image: 16 bits only as ``output_dtype`` says, alpha only as ``holds_alpha`` says.
        quality: 1 to 100, for JPEG, WebP and AVIF; ``None`` is high.
        overwrite: replace a file that exists.

    Returns:
        Sentences about what the format could not hold.

    Raises:
        ImageError: the file exists, cannot be written, or the format cannot hold the image.
        UsageError: the suffix is not one of a format that can be written.
    """
    check_destination(path, overwrite)
    kind = WRITABLE[path.suffix.lower()]
    check_holds(path, kind, image)
    with new_file(path, overwrite) as temporary:
        try:
            fit = fitted(image, kind)
            lost = list(fit.notes)
            if _needs_vips(fit, kind):
                _write_by_vips(temporary, fit, kind, quality, lost)
            else:
                temporary.write_bytes(_encode(fit, kind, quality))
            if kind == "TIFF":
                _complete_tiff(temporary, fit, lost)
        except OSError:
            raise
        except Exception as error:  # Encoders raise nearly everything.
            raise ImageError(f"cannot write {shown(path)}: {sentence(error)}") from error
    return tuple(lost)


def check_holds(path: Path, kind: str, image: Image) -> None:
    """Refuse what the format cannot hold.

    Raises:
        ImageError: transparency, 16 bits or a side that ``kind`` does not have.
    """
    if image.alpha is not None and kind not in HOLDS_ALPHA:
        raise ImageError(f"cannot write {shown(path)}: {kind} has no transparency")
    if image.array.dtype == np.uint16 and kind not in HOLDS_16_BITS:
        raise ImageError(f"cannot write {shown(path)}: {kind} has no 16 bits per channel")
    check_side(path, kind, *image.size)


def check_side(path: Path, kind: str, height: int, width: int) -> None:
    """Refuse an image larger than the format can hold.

    Raises:
        ImageError: with the largest side of ``kind``.
    """
    if max(height, width) > LARGEST_SIDE.get(kind, max(height, width)):
        raise ImageError(
            f"cannot write {shown(path)}: {kind} holds at most {LARGEST_SIDE[kind]} pixels a "
            f"side, this has {width}x{height}"
        )


def holds_alpha(path: Path) -> bool:
    """Whether the format of ``path``'s suffix has transparency."""
    return WRITABLE[path.suffix.lower()] in HOLDS_ALPHA


def output_dtype(path: Path, image: Image) -> np.dtype[Any]:
    """The deepest pixels that the format of ``path`` holds of an image such as ``image``."""
    deep = WRITABLE[path.suffix.lower()] in HOLDS_16_BITS
    return image.array.dtype if deep else np.dtype(np.uint8)


def usable_profile(icc: bytes | None, mode: str, notes: list[str]) -> tuple[bytes | None, Any]:
    """The colour profile as bytes and opened, or a note that it cannot be used for ``mode``."""
    profile = open_profile(icc, mode) if icc else None
    if icc and profile is None:
        notes.append("the colour profile is damaged or of another colour space: it is dropped")
    return (None, None) if profile is None else (icc, profile)


def _plain_mode(picture: Pillow.Image) -> str:
    """The mode to work in: L, LA, RGB, RGBA or I;16."""
    mode = picture.mode
    if mode == "I" and picture.format == "PNG":
        return "I;16"
    if mode in ("I", "F", "LAB", "HSV"):
        raise ImageError(f"pixels of type {mode!r} are not supported")
    if mode.startswith("I;16"):
        return "I;16"
    transparent = picture.has_transparency_data
    if mode in ("1", "L", "LA", "La"):
        return "LA" if transparent else "L"
    return "RGBA" if transparent else "RGB"


def profile_mode(mode: str) -> str:
    """The kind of pixels that a profile must be for: L, CMYK or RGB."""
    if mode in ("1", "L", "LA", "La") or mode.startswith("I"):
        return "L"
    return "CMYK" if mode == "CMYK" else "RGB"


# ---- Writing


def _needs_vips(image: Image, kind: str) -> bool:
    deep = image.array.dtype == np.uint16 and (image.array.shape[2] > 1 or kind == "AVIF")
    # libvips' PNGs are larger, and its WebPs and AVIFs do not say all that Pillow's do.
    limit = min(store.RESIDENT, store.IN_MEMORY) if kind in AS_GOOD else store.IN_MEMORY
    # A GIF's few colours are chosen from the whole picture, so that must be in memory.
    return deep or (image.array.nbytes > limit and kind != "GIF")


def _write_by_vips(
    path: Path, image: Image, kind: str, quality: int | None, lost: list[str]
) -> None:
    """Adds to ``lost`` what libvips cannot write."""
    try:
        _encode_by_vips(path, image, kind, quality)
    except ImageError:
        _check_room(path)
        if kind != "PNG" or image.icc_profile is None:
            raise
        # libpng is stricter with profiles than all who use them.
        lost.append(
            "the colour profile does not keep to the standard, as libpng wants it: it is dropped"
        )
        _encode_by_vips(path, dataclasses.replace(image, icc_profile=None), kind, quality)
    if kind == "PNG":  # libvips' texts do not say that they are UTF-8.
        xmp = ((XMP, image.xmp.decode("utf-8", "replace")),) if image.xmp else ()
        add_to_png(path, (*image.texts, *xmp), image.exif)
    elif kind == "JPEG":
        add_segments(path, _segments(image))
    if image.dpi is None and kind in ("PNG", "TIFF"):
        with path.open("r+b") as file:
            (drop_png_resolution if kind == "PNG" else drop_tiff_resolution)(file)


def _check_room(path: Path) -> None:
    """Write on to ``path``, to see why libvips could not: it does not always say.

    Raises:
        OSError: the system refuses, with its reason.
    """
    with path.open("ab") as file:
        file.write(bytes(MORE))
        file.flush()
        os.fsync(file.fileno())


def _encode_by_vips(path: Path, image: Image, kind: str, quality: int | None) -> None:
    vips.encode(
        path,
        image.array,
        kind,
        quality=QUALITY.get(kind) if quality is None else quality,
        icc_profile=image.icc_profile,
        # It would write EXIF anew, with what it does not know left out, and nothing that is long.
        exif=None if kind in ("TIFF", "PNG", "JPEG") else image.exif,
        xmp=None if kind in ("PNG", "JPEG") else image.xmp,
        dpi=image.dpi,
    )


def _segments(image: Image) -> bytes:
    """What a JPEG says of ``image`` but for its profile: JFIF, EXIF, XMP, IPTC, a comment."""
    across, down = (min(round(each), 65_535) for each in image.dpi or (1, 1))
    unit = 0 if image.dpi is None else 1
    parts = [segment(0xE0, struct.pack(">5s3B2H2B", b"JFIF", 1, 1, unit, across, down, 0, 0))]
    if image.exif:
        parts.append(segment(0xE1, image.exif))
    if image.xmp:
        parts.append(segment(0xE1, JPEG_XMP + image.xmp))
    if image.iptc:
        parts.append(iptc_segment(image.iptc))
    if comment := comment_of(image.texts):
        parts.append(segment(0xFE, comment))
    return b"".join(parts)


def _complete_tiff(path: Path, image: Image, lost: list[str]) -> None:
    """Write what our encoders of TIFF leave out into the finished file."""
    if not image.exif and not image.iptc:
        return
    try:
        with path.open("r+b") as file:
            add_to_tiff(file, image.exif, image.iptc, image.dpi)
    except ValueError as error:
        lost.append(f"EXIF and IPTC are not kept: {sentence(error)}")


def _encode(image: Image, kind: str, quality: int | None) -> bytes:
    """The file's content. In memory, so that a disk that fills up is told from a bad image."""
    options = encoder_options(image, kind, quality)
    buffer = io.BytesIO()
    picture = to_pillow(opaque_or_clear(image) if kind == "GIF" else image)
    picture.save(buffer, kind, icc_profile=image.icc_profile, **options)
    data = buffer.getvalue()
    return gif_with_xmp(data, image.xmp) if kind == "GIF" and image.xmp else data


def encoder_options(image: Image, kind: str, quality: int | None) -> dict[str, Any]:
    """Pillow's options for writing ``image``, which is ``fitted`` to the format."""
    options: dict[str, Any] = {}
    if kind in QUALITY:
        options["quality"] = QUALITY[kind] if quality is None else quality
    if kind == "JPEG":
        options["subsampling"] = 0
        options["extra"] = iptc_segment(image.iptc) if image.iptc else b""
    elif kind == "AVIF":
        options["subsampling"] = "4:0:0" if image.array.shape[2] == 1 else "4:4:4"
    elif kind == "PNG":
        options["compress_level"] = 4  # A third of the time of 6, and 7 % larger.
    elif kind == "TIFF":
        options["compression"] = "tiff_adobe_deflate"
        # Differences of neighbours are compressed: photographs become smaller.
        options["tiffinfo"] = {PREDICTOR: 2} | ({XMP_TAG: image.xmp} if image.xmp else {})
    return options | _carried_options(image, kind)


def _carried_options(image: Image, kind: str) -> dict[str, Any]:
    """Pillow's options for what goes with the pixels, the profile excepted."""
    options: dict[str, Any] = {}
    if image.exif and kind != "TIFF":  # Pillow's compressed TIFFs have no folders of EXIF.
        options["exif"] = image.exif
        if kind == "AVIF":  # Pillow would write it anew, and replace letters that are not ASCII.
            options["exif"] = exif_without_orientation(image.exif)
    if image.dpi:
        options["dpi"] = image.dpi
    if kind == "PNG" and image.texts:
        options["pnginfo"] = chunks = PngImagePlugin.PngInfo()
        for keyword, text in image.texts:
            chunks.add_text(keyword, text)
    elif image.texts and (comment := comment_of(image.texts)):
        options["comment"] = comment
    if image.xmp:
        _add_xmp(options, kind, image.xmp)
    return options


def _add_xmp(options: dict[str, Any], kind: str, xmp: bytes) -> None:
    if kind == "PNG":
        chunks = options.setdefault("pnginfo", PngImagePlugin.PngInfo())
        chunks.add_itxt(XMP, xmp.decode("utf-8", "replace"))
    elif kind not in ("GIF", "TIFF"):
        options["xmp"] = xmp
