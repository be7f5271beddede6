"""Image files to pixels, with all that must survive; damage that decoders hide is said.

Pillow reads what it can hold; libvips does 16 bits of colour, and what is too large to be in
memory twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from sruplift import store, vips
from sruplift.decoding import (
    MAX_PIXELS,
    check_png,
    check_size,
    collected_warnings,
    count_frames,
    damaged,
    decode,
    open_picture,
    opened,
    sentence,
    several,
    unreadable,
)
from sruplift.errors import ImageError
from sruplift.image import Image, Pixels, from_pillow, profile_mode, usable_profile
from sruplift.metadata import (
    HEADER_BYTES,
    ORIENTATION,
    RESOLUTION_UNIT,
    X_RESOLUTION,
    exif_resolution,
    portable_exif,
    raw_exif,
    raw_xmp,
    resolution,
    stated_orientation,
    stored_bits,
    tiff_metadata,
)
from sruplift.tiff import is_negative, lacks_pixels, named_channels, read_tags, tags_of
from sruplift.words import iptc_of, png_metadata, texts_of
from sruplift.xmp import EXTENDED_XMP, gif_xmp, upright_xmp, without_extension

# Formats that libvips decodes, and Pillow's modes of which it makes the same pixels.
TWELVE = 12
STREAMED = {"PNG", "TIFF", "JPEG", "WEBP"}
PLAIN_MODES = {"L", "LA", "RGB", "RGBA"}
DEEP = {"PNG", "TIFF", "AVIF"}
# Compressions of TIFF that Pillow decodes and libvips, as it comes in pyvips-binary, does not.
NOT_STREAMED = {"zstd", "webp"}
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
# What libjpeg says of bytes that it skipped. A camera may have put them there.
SKIPPED = "extraneous bytes"
# What it says where pixels are missing: it fills them with grey.
GUESSED = ("premature end", "bad Huffman code", "bad arithmetic code", "instead of RST", "progress")
CHANNELS_DROPPED = "the file has a channel whose meaning it does not tell: it is dropped"
EXIF_IS_DAMAGED = "the EXIF data is damaged: it is dropped"


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
            return _read_deep_tiff(path, read_tags(file), max_pixels, folder)
        picture = open_picture(path, file, max_pixels)
        frames = count_frames(path, picture)
        if frames > 1:
            raise several(path, picture, frames)
        bits = stored_bits(head, picture)
        if picture.format in ("JPEG", "MPO"):
            _check_jpeg(path, notes)
        if _is_for_vips(picture, bits):
            image = _read_by_vips(path, picture, bits, max_pixels, folder)
        elif bits > 8 and picture.format == "HEIF":
            image = _read_deep_heif(path, picture, bits)
        else:
            _check_complete(path, file, picture)
            image = _read_by_pillow(path, picture)
            if bits == TWELVE and picture.format == "TIFF":
                image = _spread(image)
    if picture.format == "TIFF" and named_channels(tags_of(picture)) is not None:
        notes.append(CHANNELS_DROPPED)
    if bits > 8 * image.array.itemsize:
        notes.append(f"the file has {bits} bits per channel, of which 8 are kept")
    return dataclasses.replace(image, notes=(*notes, *image.notes))


def _spread(image: Image) -> Image:
    """Grey of 12 bits, which Pillow leaves as they are, in 16."""
    array = np.rint(image.array * (65_535 / 4_095)).astype(np.uint16)
    return dataclasses.replace(image, array=array)


def _is_for_vips(picture: Pillow.Image, bits: int) -> bool:
    """Whether libvips decodes it: deeper than Pillow can hold, or too large for the memory."""
    if bits > 8 and picture.format in DEEP and picture.mode in (*PLAIN_MODES, "I;16"):
        negative = picture.format == "TIFF" and is_negative(tags_of(picture))
        return picture.mode != "I;16" or picture.has_transparency_data or negative
    size = picture.width * picture.height * len(picture.getbands())
    plain = picture.mode in PLAIN_MODES and not (
        picture.mode in ("L", "RGB") and picture.has_transparency_data
    )
    known = picture.format in STREAMED and picture.info.get("compression") not in NOT_STREAMED
    return plain and size > store.IN_MEMORY and known


def _check_jpeg(path: Path, notes: list[str]) -> None:
    """Refuse a JPEG of which a part is missing; note one that has too much.

    Raises:
        ImageError: libjpeg had to guess pixels.
    """
    said = vips.jpeg_complaint(path)
    if said is None:
        return
    if any(words in said for words in GUESSED):
        raise damaged(path, said)
    if SKIPPED in said:
        notes.append(f"the file may be damaged ({said}): look at the picture")


def _check_complete(path: Path, file: BinaryIO, picture: Pillow.Image) -> None:
    """Refuse what lacks pixels, which Pillow leaves black.

    Raises:
        ImageError: with what is missing.
    """
    check_png(path, file)
    if picture.format == "TIFF" and lacks_pixels(tags_of(picture)):
        raise damaged(path, "a part of its pixels is missing")


def _read_by_pillow(path: Path, picture: Pillow.Image) -> Image:
    notes: list[str] = []
    found = _metadata_and_decode(path, picture, notes)
    try:
        image = from_pillow(turned_upright(picture, orientation_of(picture)))
    except ImageError as error:
        raise unreadable(path, str(error)) from error
    except MemoryError as error:
        raise unreadable(path, "not enough memory") from error
    dpi = image.dpi or exif_resolution(found["exif"])
    return dataclasses.replace(image, **found, dpi=dpi, notes=(*notes, *image.notes))


def _read_by_vips(
    path: Path, picture: Pillow.Image, bits: int, max_pixels: int, folder: Path | None
) -> Image:
    notes: list[str] = []
    facts = _vips_header(path, max_pixels)
    avif = picture.format == "AVIF"
    # Of a grey AVIF libvips makes three channels.
    channels = 1 if avif and picture.mode == "L" else named_channels(tags_of(picture))
    kind = "L" if (channels or facts["bands"]) < 3 else "RGB"
    icc, _ = usable_profile(facts["icc"], kind, notes)
    if picture.format == "PNG":  # Pillow would decode the pixels to find what lies behind them.
        with path.open("rb") as file:
            found = png_metadata(file)
        facts["orientation"] = stated_orientation(found["exif"], found["xmp"])
        found["exif"] = _portable(found["exif"], notes)
        found["xmp"] = upright_xmp(found["xmp"]) if found["xmp"] else None
    else:
        if picture.format in ("JPEG", "MPO", "WEBP"):  # libvips knows EXIF's only.
            facts["orientation"] = orientation_of(picture)
        found = read_metadata(path, picture, notes)
    # The bits of an AVIF are the upper ones, the others zeros.
    array = _pixels_by_vips(path, facts, folder, channels, bits if avif else 16)
    dpi = resolution(picture.info) or exif_resolution(found["exif"])
    return Image(array, icc, dpi=dpi, notes=tuple(notes), **found)


def _vips_header(path: Path, max_pixels: int) -> dict[str, Any]:
    """What libvips finds in the file, of which Pillow may have understood something else."""
    try:
        facts = vips.header(path)
    except ImageError as error:
        raise unreadable(path, str(error)) from error
    check_size(path, facts["width"], facts["height"], max_pixels)
    return facts


def _pixels_by_vips(
    path: Path, facts: Mapping[str, Any], folder: Path | None, channels: int | None, bits: int = 16
) -> Pixels:
    """Upright pixels; ``channels`` and ``bits`` as ``vips.decode`` takes them."""
    orientation = int(facts["orientation"])
    try:
        return vips.decode(
            path,
            folder,
            lambda upright: _stored_view(upright, orientation),
            transposed=orientation > 4,
            bits=bits,
            channels=channels,
        )
    except ImageError as error:
        raise unreadable(path, str(error)) from error
    except MemoryError as error:
        raise unreadable(path, "not enough memory") from error
    except OSError as error:
        raise unreadable(path, f"no room for its pixels ({sentence(error)})") from error


def _only_vips_knows(file: Any) -> bool:
    """Whether a TIFF is of a kind that Pillow cannot open at all, grey with alpha at 16 bits."""
    try:
        Pillow.open(file, formats=("TIFF",))
    except Exception:
        return True
    finally:
        file.seek(0)
    return False


def _read_deep_tiff(
    path: Path, tags: Mapping[int, Any], max_pixels: int, folder: Path | None
) -> Image:
    channels = named_channels(tags)
    notes = [] if channels is None else [CHANNELS_DROPPED]
    facts = _vips_header(path, max_pixels)
    if facts["pages"] > 1:
        raise unreadable(path, f"it has {facts['pages']} pages; only single images are supported")
    kind = "L" if (channels or facts["bands"]) < 3 else "RGB"
    icc, _ = usable_profile(facts["icc"], kind, notes)
    array = _pixels_by_vips(path, facts, folder, channels)
    exif, iptc = _of_tiff(path, notes)
    xmp = upright_xmp(facts["xmp"]) if facts["xmp"] else None
    stated = X_RESOLUTION in tags and tags.get(RESOLUTION_UNIT) != 1
    dpi = resolution({"dpi": (facts["xres"] * 25.4, facts["yres"] * 25.4)}) if stated else None
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
    icc, _ = usable_profile(picture.info.get("icc_profile"), profile_mode(picture.mode), notes)
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
        exif, iptc = _exif_of(picture, notes), iptc_of(picture)
    xmp = gif_xmp(path.read_bytes()) if picture.format == "GIF" else raw_xmp(picture)
    xmp = upright_xmp(xmp) if xmp else None
    if any(data.startswith(EXTENDED_XMP) for _, data in getattr(picture, "applist", ())):
        notes.append("the extended part of its XMP is dropped")
        xmp = without_extension(xmp) if xmp else None
    if picture.format == "MPO" and getattr(picture, "n_frames", 1) > 1:
        notes.append("the pictures behind the first one (previews, a gain map) are dropped")
    return {"exif": exif, "xmp": xmp, "iptc": iptc, "texts": texts_of(picture)}


def _exif_of(picture: Pillow.Image, notes: list[str]) -> bytes | None:
    try:
        exif = raw_exif(picture)
    except ValueError:  # ImageMagick's are text, and may be of other letters.
        notes.append(EXIF_IS_DAMAGED)
        return None
    return _portable(exif, notes)


def _portable(exif: bytes | None, notes: list[str]) -> bytes | None:
    try:
        return portable_exif(exif) if exif else None
    except Exception:  # Damaged EXIF breaks Pillow in many ways, and is no reason to stop.
        notes.append(EXIF_IS_DAMAGED)
        return None


def _of_tiff(path: Path, notes: list[str]) -> tuple[bytes | None, bytes | None]:
    """EXIF and IPTC of a TIFF."""
    try:
        with path.open("rb") as file:
            exif, iptc = tiff_metadata(file)
    except ValueError:  # Its decoder will say so, or can do without.
        return None, None
    return _portable(exif, notes), iptc
