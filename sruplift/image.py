"""Image files to pixels and back, with all that must survive: alpha, profile, EXIF, XMP, depth.

Pixels stay in the file's own colour space and its profile goes with them untouched: a trip through
sRGB would clip every colour that a wide-gamut camera saw and a small screen cannot show. Only what
networks do not understand is converted: CMYK and palettes.

Pillow reads and writes what it can hold; libvips does 16 bits of colour, and what is too large to
be in memory twice.
"""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import PngImagePlugin

from sruplift import store, vips
from sruplift.decoding import (
    MAX_PIXELS,
    check_size,
    collected_warnings,
    count_frames,
    damaged,
    decode,
    open_picture,
    opened,
    sentence,
    unreadable,
)
from sruplift.errors import ImageError
from sruplift.files import WRITABLE, shown
from sruplift.fit import fitted, opaque_or_clear
from sruplift.metadata import (
    ORIENTATION,
    add_to_tiff,
    exif_resolution,
    exif_without_orientation,
    open_profile,
    portable_exif,
    raw_exif,
    raw_xmp,
    resolution,
    stored_bits,
    tiff_metadata,
    to_srgb,
)
from sruplift.outfile import check_destination, new_file
from sruplift.words import (
    XMP,
    Texts,
    add_texts,
    comment_of,
    iptc_of,
    iptc_segment,
    png_metadata,
    texts_of,
)
from sruplift.xmp import gif_with_xmp, gif_xmp, upright_xmp

HEADER_BYTES = 65_536
QUALITY = {"JPEG": 95, "WEBP": 95, "AVIF": 90}
HOLDS_ALPHA = frozenset(("PNG", "WEBP", "TIFF", "AVIF", "GIF"))
# AVIF holds 12 of them.
HOLDS_16_BITS = frozenset(("PNG", "TIFF", "AVIF"))
LARGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_536, "GIF": 65_535}
# Formats that libvips decodes, and Pillow's modes of which it makes the same pixels.
STREAMED = {"PNG", "TIFF", "JPEG", "WEBP"}
PLAIN_MODES = {"L", "LA", "RGB", "RGBA"}
DEEP = {"PNG", "TIFF", "AVIF"}
PREDICTOR, XMP_TAG = 317, 700
# What undoes an orientation (EXIF 2.32, tag Orientation).
TRANSPOSITIONS = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}

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


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS, folder: Path | None = None) -> Image:
    """Read a still image: PNG, JPEG, WebP, TIFF, AVIF, BMP, GIF or HEIC, by content.

    Args:
        path: the file.
        max_pixels: refuse images of more.
        folder: where pixels may be mapped that are too many for the memory (``store``).

    Raises:
        ImageError: it is missing, unreadable, damaged, animated, of more than ``max_pixels``, or
            in a format or a pixel type that is not supported. The sentence names the file.
    """
    notes: list[str] = []
    with opened(path) as file, collected_warnings(notes):
        head = file.read(HEADER_BYTES)
        if not head:
            raise unreadable(path, "the file is empty")
        file.seek(0)
        if head.startswith((b"II", b"MM")) and _only_vips_knows(file):
            return _read_deep_tiff(path, max_pixels, folder)
        picture = open_picture(path, file, max_pixels)
        frames = count_frames(path, picture)
        if frames > 1:
            what = "pages" if picture.format == "TIFF" else "frames"
            raise unreadable(path, f"it has {frames} {what}; only single images are supported")
        bits = stored_bits(head, picture)
        if _is_for_vips(picture, bits):
            return _read_by_vips(path, picture, bits, folder)
        if bits > 8 and picture.format == "HEIF":
            return _read_deep_heif(path, picture, bits)
        found = _metadata_and_decode(path, picture, notes)
        upright = turned_upright(picture, orientation_of(picture))
    if bits > 8 and not picture.mode.startswith("I"):
        notes.append(f"the file has {bits} bits per channel, of which 8 are kept")
    try:
        image = from_pillow(upright)
    except ImageError as error:
        raise unreadable(path, str(error)) from error
    dpi = image.dpi or exif_resolution(found["exif"])
    return dataclasses.replace(image, **found, dpi=dpi, notes=(*notes, *image.notes))


def from_pillow(picture: Pillow.Image) -> Image:
    """The pixels of a Pillow image as they are (not turned), its profile and resolution.

    Palettes become RGB, or RGBA if they have transparency; CMYK and YCbCr become RGB.

    Raises:
        ImageError: pixels of 32 bits or in a colour space that is not supported.
    """
    notes: list[str] = []
    mode = _plain_mode(picture)
    icc, profile = _profile(picture.info.get("icc_profile"), _profile_mode(picture.mode), notes)
    if picture.mode == "CMYK":
        if profile is None:
            notes.append("CMYK without a usable colour profile: the colours are approximate")
        picture = picture.convert("RGB") if profile is None else to_srgb(picture, profile)
        icc = None
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


# ---- Reading


def _is_for_vips(picture: Pillow.Image, bits: int) -> bool:
    """Whether libvips decodes it: deeper than Pillow can hold, or too large for the memory."""
    if bits > 8 and picture.format in DEEP and picture.mode in (*PLAIN_MODES, "I;16"):
        return picture.mode != "I;16" or picture.has_transparency_data
    size = picture.width * picture.height * len(picture.getbands())
    plain = picture.mode in PLAIN_MODES and not (
        picture.mode in ("L", "RGB") and picture.has_transparency_data
    )
    return plain and size > store.IN_MEMORY and picture.format in STREAMED


def _read_by_vips(path: Path, picture: Pillow.Image, bits: int, folder: Path | None) -> Image:
    notes: list[str] = []
    facts = vips.header(path)
    # Of a grey AVIF libvips makes three channels.
    grey = facts["bands"] < 3 or picture.mode == "L"
    icc, _ = _profile(facts["icc"], "L" if grey else "RGB", notes)
    if picture.format == "PNG":  # Pillow would decode the pixels to find what lies behind them.
        with path.open("rb") as file:
            found = png_metadata(file)
        found["exif"] = _portable(found["exif"], notes)
        found["xmp"] = upright_xmp(found["xmp"]) if found["xmp"] else None
    else:
        found = read_metadata(path, picture, notes)
    orientation = int(facts["orientation"])
    try:
        array = vips.decode(
            path,
            folder,
            lambda upright: _stored_view(upright, orientation),
            transposed=orientation > 4,
            # The bits of an AVIF are the upper ones, the others zeros.
            bits=bits if picture.format == "AVIF" else 16,
        )
    except ImageError as error:
        raise unreadable(path, str(error)) from error
    except OSError as error:
        raise unreadable(path, f"no room for its pixels ({sentence(error)})") from error
    array = array[..., :1] if grey and array.shape[2] == 3 else array
    dpi = resolution(picture.info) or exif_resolution(found["exif"])
    return Image(array, icc, dpi=dpi, notes=tuple(notes), **found)


def _only_vips_knows(file: Any) -> bool:
    """Whether a TIFF is of a kind that Pillow cannot open at all, grey with alpha at 16 bits."""
    try:
        Pillow.open(file, formats=("TIFF",))
    except Exception:
        return True
    finally:
        file.seek(0)
    return False


def _read_deep_tiff(path: Path, max_pixels: int, folder: Path | None) -> Image:
    notes: list[str] = []
    try:
        facts = vips.header(path)
        check_size(path, facts["width"], facts["height"], max_pixels)
        orientation = int(facts["orientation"])
        array = vips.decode(
            path,
            folder,
            lambda upright: _stored_view(upright, orientation),
            transposed=orientation > 4,
        )
    except ImageError as error:
        raise unreadable(path, f"it is not an image that can be read ({error})") from error
    xmp = upright_xmp(facts["xmp"]) if facts["xmp"] else None
    dpi = resolution({"dpi": (facts["xres"] * 25.4, facts["yres"] * 25.4)})
    icc, _ = _profile(facts["icc"], "L" if array.shape[2] < 3 else "RGB", notes)
    exif, iptc = _of_tiff(path, notes)
    return Image(array, icc, exif, xmp, dpi, tuple(notes), iptc)


def _read_deep_heif(path: Path, picture: Pillow.Image, bits: int) -> Image:
    """HEIC of 10 or 12 bits, of which its plugin for Pillow keeps 8."""
    import pillow_heif  # It has opened the picture, so it is there.

    notes: list[str] = []
    try:
        deep = np.asarray(pillow_heif.open_heif(path, convert_hdr_to_8bit=False))
    except MemoryError as error:
        raise unreadable(path, "not enough memory") from error
    except Exception as error:  # Decoders raise nearly everything.
        raise damaged(path, error) from error
    array = vips.spread(deep.reshape(*deep.shape[:2], -1), bits)
    found = read_metadata(path, picture, notes)
    icc, _ = _profile(picture.info.get("icc_profile"), _profile_mode(picture.mode), notes)
    dpi = resolution(picture.info) or exif_resolution(found["exif"])
    return Image(array, icc, dpi=dpi, notes=tuple(notes), **found)


def _stored_view(upright: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A view of ``upright`` (H, W, C) that lies as a file's pixels do with that ``orientation``.

    What is assigned to it stands upright (EXIF 2.32, tag Orientation).
    """
    mirrored, flipped = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    view = upright[:: -1 if flipped else 1, :: -1 if mirrored else 1]
    return view.swapaxes(0, 1) if orientation > 4 else view


def orientation_of(picture: Pillow.Image) -> int:
    """EXIF's or XMP's orientation, from 1 to 8; 1 where they are damaged."""
    try:
        orientation = int(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises nearly everything; a note says so already.
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def turned_upright(picture: Pillow.Image, orientation: int) -> Pillow.Image:
    """``picture`` as it should be seen. (Pillow's own function writes all EXIF anew for it.)"""
    if orientation == 1:
        return picture
    turned = picture.transpose(TRANSPOSITIONS[orientation])
    turned.format = picture.format  # Which tells the meaning of some modes.
    return turned


def _metadata_and_decode(path: Path, picture: Pillow.Image, notes: list[str]) -> dict[str, Any]:
    """Pillow forgets a TIFF's XMP when it decodes and turns the pixels, so that comes before.

    Of a PNG, whose EXIF may lie behind the pixels, it decodes to find it, and tells only once that
    the pixels are damaged: so that comes after.
    """
    if picture.format == "TIFF":
        found = read_metadata(path, picture, notes)
        decode(path, picture)
        return found
    decode(path, picture)
    return read_metadata(path, picture, notes)


def read_metadata(path: Path, picture: Pillow.Image, notes: list[str]) -> dict[str, Any]:
    """``exif`` and ``xmp`` for upright pixels, ``iptc`` and ``texts``."""
    if picture.format == "TIFF":
        exif, iptc = _of_tiff(path, notes)
    else:
        exif, iptc = _portable(raw_exif(picture), notes), iptc_of(picture)
    xmp = gif_xmp(path.read_bytes()) if picture.format == "GIF" else raw_xmp(picture)
    xmp = upright_xmp(xmp) if xmp else None
    return {"exif": exif, "xmp": xmp, "iptc": iptc, "texts": texts_of(picture)}


def _portable(exif: bytes | None, notes: list[str]) -> bytes | None:
    try:
        return portable_exif(exif) if exif else None
    except Exception:  # Damaged EXIF breaks Pillow in many ways, and is no reason to stop.
        notes.append("the EXIF data is damaged: it is dropped")
        return None


def _of_tiff(path: Path, notes: list[str]) -> tuple[bytes | None, bytes | None]:
    """EXIF and IPTC of a TIFF."""
    try:
        with path.open("rb") as file:
            exif, iptc = tiff_metadata(file)
    except ValueError:  # Its decoder will say so, or can do without.
        return None, None
    return _portable(exif, notes), iptc


def _profile(icc: bytes | None, mode: str, notes: list[str]) -> tuple[bytes | None, Any]:
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


def _profile_mode(mode: str) -> str:
    """The kind of pixels that a profile must be for: L, CMYK or RGB."""
    if mode in ("1", "L", "LA", "La") or mode.startswith("I"):
        return "L"
    return "CMYK" if mode == "CMYK" else "RGB"


# ---- Writing


def _needs_vips(image: Image, kind: str) -> bool:
    deep = image.array.dtype == np.uint16 and (image.array.shape[2] > 1 or kind == "AVIF")
    return deep or (image.array.nbytes > store.IN_MEMORY and kind != "GIF")


def _write_by_vips(
    path: Path, image: Image, kind: str, quality: int | None, lost: list[str]
) -> None:
    """Adds to ``lost`` what libvips cannot write."""
    vips.encode(
        path,
        image.array,
        kind,
        quality=QUALITY.get(kind) if quality is None else quality,
        icc_profile=image.icc_profile,
        exif=None if kind == "TIFF" else image.exif,
        xmp=None if kind == "PNG" else image.xmp,
        iptc=iptc_segment(image.iptc)[4:] if image.iptc and kind == "JPEG" else None,
        dpi=image.dpi,
    )
    if kind == "PNG":  # libvips' texts do not say that they are UTF-8.
        xmp = ((XMP, image.xmp.decode("utf-8", "replace")),) if image.xmp else ()
        add_texts(path, (*image.texts, *xmp))
    elif image.texts:
        lost.append(f"the comment is not kept in a {kind} as large as this")


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
