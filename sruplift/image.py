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
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps, PngImagePlugin

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
    unreadable,
)
from sruplift.errors import ImageError
from sruplift.files import WRITABLE, shown
from sruplift.metadata import (
    has_folders,
    open_profile,
    portable_exif,
    raw_xmp,
    resolution,
    sized_exif,
    stored_bits,
    to_srgb,
)
from sruplift.outfile import check_destination, new_file
from sruplift.tiff import is_negative, lacks_pixels, named_channels, read_tags, tags_of
from sruplift.xmp import sized_xmp, upright_xmp

HEADER_BYTES = 65_536
MORE = 1024**2
QUALITY = {"JPEG": 95, "WEBP": 95, "AVIF": 90}
HOLDS_ALPHA = frozenset(("PNG", "WEBP", "TIFF", "AVIF", "GIF"))
HOLDS_16_BITS = frozenset(("PNG", "TIFF"))
LARGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_536, "GIF": 65_535}
# What fits a JPEG's segments (ITU-T T.81, B.1.1.4, less the identifiers), bytes.
JPEG_SEGMENT = {"exif": 65_527, "xmp": 65_502}
# Formats that libvips decodes, and Pillow's modes of which it makes the same pixels.
STREAMED = {"PNG", "TIFF", "JPEG", "WEBP"}
PLAIN_MODES = {"L", "LA", "RGB", "RGBA"}
DEEP = {"PNG", "TIFF"}
# Compressions of TIFF that Pillow decodes and libvips, as it comes in pyvips-binary, does not.
NOT_STREAMED = {"zstd", "webp"}
# What libjpeg says of bytes that it skipped. A camera may have put them there.
SKIPPED = "extraneous bytes"
# What it says where pixels are missing: it fills them with grey.
GUESSED = ("premature end", "bad Huffman code", "bad arithmetic code", "instead of RST", "progress")
CHANNELS_DROPPED = "the file has a channel whose meaning it does not tell: it is dropped"
EXIF_IS_DAMAGED = "the EXIF data is damaged: it is dropped"

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Image:
    """Upright pixels and what goes with them.

    ``array`` is (H, W, C), uint8 or uint16; C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA),
    alpha not multiplied into the colours. ``exif`` and ``xmp`` say orientation 1; ``dpi`` is
    (x, y). ``notes`` are sentences about what could not be kept.
    """

    array: Pixels
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

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
            return _read_deep_tiff(path, read_tags(file), max_pixels, folder)
        picture = open_picture(path, file, max_pixels)
        frames = count_frames(path, picture)
        if frames > 1:
            what = "pages" if picture.format == "TIFF" else "frames"
            raise unreadable(path, f"it has {frames} {what}; only single images are supported")
        bits = stored_bits(head, picture)
        if picture.format in ("JPEG", "MPO"):
            _check_jpeg(path, notes)
        if _is_for_vips(picture, bits):
            image = _read_by_vips(path, picture, max_pixels, folder)
        else:
            _check_complete(path, file, picture)
            image = _read_by_pillow(path, picture)
    if picture.format == "TIFF" and named_channels(tags_of(picture)) is not None:
        notes.append(CHANNELS_DROPPED)
    if bits > 8 * image.array.itemsize:
        notes.append(f"the file has {bits} bits per channel, of which 8 are kept")
    return dataclasses.replace(image, notes=(*notes, *image.notes))


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
    sized = dataclasses.replace(
        image,
        exif=sized_exif(image.exif, *image.size) if image.exif else None,
        xmp=sized_xmp(image.xmp, *image.size) if image.xmp else None,
        notes=(),
    )
    sized = _without_what_does_not_fit(sized, kind)
    with new_file(path, overwrite) as temporary:
        try:
            if _needs_vips(sized, kind):
                sized = _write_by_vips(temporary, sized, kind, quality)
            else:
                temporary.write_bytes(_encode(sized, kind, quality))
        except OSError:
            raise
        except Exception as error:  # Encoders raise nearly everything.
            raise ImageError(f"cannot write {shown(path)}: {sentence(error)}") from error
    return sized.notes


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
    exif, xmp = _read_metadata_and_decode(path, picture, notes)
    try:
        image = from_pillow(_upright(picture, notes))
    except ImageError as error:
        raise unreadable(path, str(error)) from error
    except MemoryError as error:
        raise unreadable(path, "not enough memory") from error
    return dataclasses.replace(image, exif=exif, xmp=xmp, notes=(*notes, *image.notes))


def _upright(picture: Pillow.Image, notes: list[str]) -> Pillow.Image:
    """The picture turned as its EXIF says, if that can be understood."""
    try:
        return ImageOps.exif_transpose(picture)
    except MemoryError:
        raise
    except Exception:  # Damaged EXIF breaks Pillow in many ways, and is no reason to stop.
        if EXIF_IS_DAMAGED not in notes:
            notes.append(EXIF_IS_DAMAGED)
        return picture


def _read_by_vips(path: Path, picture: Pillow.Image, max_pixels: int, folder: Path | None) -> Image:
    notes: list[str] = []
    facts = _vips_header(path, max_pixels)
    channels = named_channels(tags_of(picture))
    kind = "L" if (channels or facts["bands"]) < 3 else "RGB"
    icc, _ = _profile(facts["icc"], kind, notes)
    if picture.format == "PNG":  # Pillow would decode the pixels to find what lies behind them.
        exif = _exif(facts["exif"], notes)
        xmp = facts["xmp"]
    else:
        exif, xmp = _metadata(picture, notes)
    array = _pixels_by_vips(path, int(facts["orientation"]), folder, channels)
    xmp = upright_xmp(xmp) if xmp else None
    return Image(array, icc, exif, xmp, resolution(picture.info), tuple(notes))


def _vips_header(path: Path, max_pixels: int) -> dict[str, Any]:
    """What libvips finds in the file, of which Pillow may have understood something else."""
    try:
        facts = vips.header(path)
    except ImageError as error:
        raise unreadable(path, str(error)) from error
    check_size(path, facts["width"], facts["height"], max_pixels)
    return facts


def _pixels_by_vips(
    path: Path, orientation: int, folder: Path | None, channels: int | None
) -> Pixels:
    """Upright pixels."""
    try:
        return vips.decode(
            path,
            folder,
            lambda upright: _stored_view(upright, orientation),
            transposed=orientation > 4,
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
    icc, _ = _profile(facts["icc"], kind, notes)
    array = _pixels_by_vips(path, int(facts["orientation"]), folder, channels)
    xmp = upright_xmp(facts["xmp"]) if facts["xmp"] else None
    dpi = resolution({"dpi": (facts["xres"] * 25.4, facts["yres"] * 25.4)})
    return Image(array, icc, _exif(facts["exif"], notes), xmp, dpi, tuple(notes))


def _stored_view(upright: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A view of ``upright`` (H, W, C) that lies as a file's pixels do with that ``orientation``.

    What is assigned to it stands upright (EXIF 2.32, tag Orientation).
    """
    mirrored, flipped = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    view = upright[:: -1 if flipped else 1, :: -1 if mirrored else 1]
    return view.swapaxes(0, 1) if orientation > 4 else view


def _read_metadata_and_decode(
    path: Path, picture: Pillow.Image, notes: list[str]
) -> tuple[bytes | None, bytes | None]:
    """Pillow forgets a TIFF's EXIF when it decodes and turns the pixels, so that comes before.

    Of a PNG, whose EXIF may lie behind the pixels, it decodes to find it, and tells only once that
    the pixels are damaged: so that comes after.
    """
    if picture.format == "TIFF":
        found = _metadata(picture, notes)
        decode(path, picture)
        return found
    decode(path, picture)
    return _metadata(picture, notes)


def _metadata(picture: Pillow.Image, notes: list[str]) -> tuple[bytes | None, bytes | None]:
    """EXIF and XMP for upright pixels."""
    exif = None
    try:
        exif = portable_exif(picture.getexif())
    except Exception:  # Damaged EXIF breaks Pillow in many ways, and is no reason to stop.
        notes.append(EXIF_IS_DAMAGED)
    xmp = raw_xmp(picture)
    return exif, upright_xmp(xmp) if xmp else None


def _exif(data: bytes | None, notes: list[str]) -> bytes | None:
    if not data:
        return None
    exif = Pillow.Exif()
    try:
        exif.load(data)
        return portable_exif(exif)
    except Exception:  # As above.
        notes.append(EXIF_IS_DAMAGED)
        return None


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
    deep = image.array.dtype == np.uint16 and image.array.shape[2] > 1
    # A GIF's few colours are chosen from the whole picture, so that must be in memory.
    return deep or (image.array.nbytes > store.IN_MEMORY and kind != "GIF")


def _write_by_vips(path: Path, image: Image, kind: str, quality: int | None) -> Image:
    """``image`` as it was written."""
    if kind == "TIFF" and image.exif:
        note = "EXIF is not kept in a TIFF of 16 bits of colour, or one as large as this"
        image = dataclasses.replace(image, exif=None, notes=(*image.notes, note))
    try:
        _encode_by_vips(path, image, kind, quality)
    except ImageError:
        _check_room(path)
        if kind != "PNG" or image.icc_profile is None:
            raise
        # libpng is stricter with profiles than all who use them.
        note = "the colour profile does not keep to the standard, as libpng wants it: it is dropped"
        image = dataclasses.replace(image, icc_profile=None, notes=(*image.notes, note))
        _encode_by_vips(path, image, kind, quality)
    return image


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
        exif=image.exif,
        xmp=image.xmp,
        dpi=image.dpi,
    )


def _encode(image: Image, kind: str, quality: int | None) -> bytes:
    """The file's content. In memory, so that a disk that fills up is told from a bad image."""
    options = encoder_options(image, kind, quality)
    buffer = io.BytesIO()
    picture = to_pillow(image)
    picture.save(buffer, kind, icc_profile=image.icc_profile, **options)
    return buffer.getvalue()


def encoder_options(image: Image, kind: str, quality: int | None) -> dict[str, Any]:
    """Pillow's options for writing ``image``."""
    options: dict[str, Any] = {}
    if kind in QUALITY:
        options["quality"] = QUALITY[kind] if quality is None else quality
    if kind == "JPEG":
        options["subsampling"] = 0
    elif kind == "AVIF":
        options["subsampling"] = "4:4:4"
    elif kind == "PNG":
        options["compress_level"] = 4  # A third of the time of 6, and 7 % larger.
    elif kind == "TIFF" and not (image.exif and has_folders(image.exif)):
        # Pillow writes EXIF's own directories only into TIFFs that it does not compress.
        options["compression"] = "tiff_adobe_deflate"
    if image.exif:
        options["exif"] = image.exif
    if image.dpi:
        options["dpi"] = image.dpi
    if image.xmp:
        _add_xmp(options, kind, image.xmp)
    return options


def _add_xmp(options: dict[str, Any], kind: str, xmp: bytes) -> None:
    if kind == "PNG":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        options["pnginfo"] = chunks
    elif kind == "TIFF":
        options["tiffinfo"] = {700: xmp}
    elif kind != "GIF":
        options["xmp"] = xmp


def _without_what_does_not_fit(image: Image, kind: str) -> Image:
    """``image`` less the metadata that are too long for a JPEG, with notes."""
    if kind != "JPEG":
        return image
    for name, limit in JPEG_SEGMENT.items():
        data = getattr(image, name)
        if data and len(data) > limit:
            note = f"the {name.upper()} data of {len(data):,} bytes do not fit a JPEG: dropped"
            changed: dict[str, Any] = {name: None, "notes": (*image.notes, note)}
            image = dataclasses.replace(image, **changed)
    return image
