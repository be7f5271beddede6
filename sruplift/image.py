"""Image files to pixels and back, with all that must survive: alpha, profile, EXIF, depth.

Pixels stay in the file's own colour space and its profile goes with them untouched: a trip through
sRGB in 8 bits would clip every colour that a wide-gamut camera saw and a small screen cannot show.
Only what networks do not understand is converted: CMYK and palettes.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from sruplift.errors import ImageError
from sruplift.files import READABLE, WRITABLE, check_suffix, is_folder, reason, shown
from sruplift.leftovers import temporary_path
from sruplift.metadata import (
    has_folders,
    open_profile,
    portable_exif,
    resolution,
    sized_exif,
    stored_bits,
    to_srgb,
)

# Pillow's own limit against decompression bombs: 256 MiB of RGB.
MAX_PIXELS = 89_478_485
HEADER_BYTES = 65_536
FORMATS = tuple(dict.fromkeys(READABLE.values()))
QUALITY = {"JPEG": 95, "WEBP": 95, "AVIF": 90}
HOLDS_ALPHA = frozenset(("PNG", "WEBP", "TIFF", "AVIF"))
HOLDS_16_BITS = frozenset(("PNG", "TIFF"))
LARGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_536}
# Pillow's limit and Python's warning filters belong to the whole process.
_PILLOW = threading.Lock()

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Image:
    """Upright pixels and what goes with them.

    ``pixels`` is (H, W, C), uint8 or uint16, C = 1 (grey) or 3 (RGB); ``alpha`` is (H, W) of the
    same dtype, not multiplied into the pixels. ``exif`` says orientation 1; ``dpi`` is (x, y).
    ``notes`` are sentences about what could not be kept.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read a still image: PNG, JPEG, WebP, TIFF, AVIF, BMP or GIF, by content.

    Raises:
        ImageError: it is missing, unreadable, damaged, animated, of more than ``max_pixels``, or
            in a format or a pixel type that is not supported. The sentence names the file.
    """
    with _opened(path) as file, _PILLOW, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        header = file.read(HEADER_BYTES)
        if not header:
            raise _unreadable(path, "the file is empty")
        file.seek(0)
        picture = _open_picture(path, file, max_pixels)
        exif, notes = _read_exif_and_decode(path, picture)
        bits = stored_bits(header, picture)
    notes += [f"{_sentence(warning.message)}" for warning in caught]
    if bits > 8 and not picture.mode.startswith("I"):
        notes.append(f"the file has {bits} bits per channel, of which 8 are kept")
    upright = ImageOps.exif_transpose(picture)
    try:
        image = from_pillow(upright)
    except ImageError as error:
        raise _unreadable(path, str(error)) from error
    return Image(
        image.pixels, image.alpha, image.icc_profile, exif, image.dpi, (*notes, *image.notes)
    )


def from_pillow(picture: Pillow.Image) -> Image:
    """The pixels of a Pillow image as they are (not turned), its profile and resolution.

    Palettes become RGB, or RGBA if they have transparency; CMYK and YCbCr become RGB.

    Raises:
        ImageError: pixels of 32 bits or in a colour space that is not supported.
    """
    notes: list[str] = []
    mode = _plain_mode(picture)
    icc = picture.info.get("icc_profile") or None
    profile = open_profile(icc, _profile_mode(picture.mode)) if icc else None
    if icc and profile is None:
        notes.append("the colour profile is damaged or of another colour space: it is dropped")
        icc = None
    if picture.mode == "CMYK":
        if profile is None:
            notes.append("CMYK without a usable colour profile: the colours are approximate")
        picture = picture.convert("RGB") if profile is None else to_srgb(picture, profile)
        icc = None
    elif picture.mode != mode and not mode.startswith("I;16"):
        picture = picture.convert(mode)
    array = np.asarray(picture)
    if mode.startswith("I;16"):
        array = array.astype(np.uint16)
    array = array.reshape(*array.shape[:2], -1)
    colours = 3 if array.shape[2] >= 3 else 1
    alpha = array[..., colours] if array.shape[2] > colours else None
    return Image(array[..., :colours], alpha, icc, None, resolution(picture.info), tuple(notes))


def to_pillow(image: Image) -> Pillow.Image:
    """``image`` as Pillow's L, LA, RGB, RGBA or I;16, with its profile and resolution in ``info``.

    Raises:
        ImageError: 16 bits with colour or alpha, which Pillow cannot hold.
    """
    array = image.pixels
    if image.alpha is not None:
        array = np.concatenate([array, image.alpha[..., None]], axis=2)
    if array.dtype == np.uint16 and array.shape[2] > 1:
        raise ImageError("16 bits per channel can only be written for grey without alpha")
    picture = Pillow.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    if image.icc_profile:
        picture.info["icc_profile"] = image.icc_profile
    if image.dpi:
        picture.info["dpi"] = image.dpi
    return picture


def write_image(
    path: Path, image: Image, *, quality: int | None = None, overwrite: bool = False
) -> None:
    """Write ``image`` in the format of ``path``'s suffix, whole or not at all.

    Args:
        path: its folder must exist.
        image: 16 bits only as ``output_dtype`` says, alpha only as ``holds_alpha`` says.
        quality: 1 to 100, for JPEG, WebP and AVIF; ``None`` is high.
        overwrite: replace a file that exists.

    Raises:
        ImageError: the file exists, cannot be written, or the format cannot hold the image.
        UsageError: the suffix is not one of a format that can be written.
    """
    check_destination(path, overwrite)
    kind = WRITABLE[path.suffix.lower()]
    if image.alpha is not None and kind not in HOLDS_ALPHA:
        raise ImageError(f"cannot write {shown(path)}: {kind} has no transparency")
    if max(image.size) > LARGEST_SIDE.get(kind, max(image.size)):
        raise ImageError(
            f"cannot write {shown(path)}: {kind} holds at most {LARGEST_SIDE[kind]} pixels a "
            f"side, this has {image.size[1]}x{image.size[0]}"
        )
    _write_file(path, _encode(path, image, kind, quality), overwrite)


def check_destination(path: Path, overwrite: bool) -> None:
    """Refuse early what ``write_image`` would refuse late.

    Raises:
        ImageError: the file exists and may not be replaced, or its folder cannot be written to.
        UsageError: the suffix is not one of a format that can be written.
    """
    check_suffix(path.suffix, path)
    if is_folder(path):
        raise ImageError(f"cannot write {shown(path)}: it is a folder")
    if not overwrite and os.path.lexists(path):
        raise ImageError(f"{shown(path)} exists (--overwrite replaces it)")
    if not is_folder(path.parent):
        raise ImageError(f"cannot write {shown(path)}: there is no folder {shown(path.parent)}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ImageError(f"cannot write {shown(path)}: the folder is read-only")


def holds_alpha(path: Path) -> bool:
    """Whether the format of ``path``'s suffix has transparency."""
    return WRITABLE[path.suffix.lower()] in HOLDS_ALPHA


def output_dtype(path: Path, image: Image) -> np.dtype[Any]:
    """The deepest pixels that the format of ``path`` holds of an image such as ``image``."""
    deep = WRITABLE[path.suffix.lower()] in HOLDS_16_BITS
    plain_grey = image.pixels.shape[2] == 1 and image.alpha is None
    return image.pixels.dtype if deep and plain_grey else np.dtype(np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """``path`` for reading, if it is a regular file: a pipe would wait for ever."""
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise _unreadable(path, "it is a folder")
        if not stat.S_ISREG(kind):
            raise _unreadable(path, "it is not a regular file")
        file = path.open("rb")
    except FileNotFoundError as error:
        raise _unreadable(path, "there is no such file") from error
    except (OSError, ValueError) as error:
        text = reason(error) if isinstance(error, OSError) else str(error)
        raise _unreadable(path, text) from error
    with file:
        yield file


def _open_picture(path: Path, file: BinaryIO, max_pixels: int) -> Pillow.Image:
    """The file's header as Pillow understands it, checked; no pixels yet."""
    limit, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
    try:
        picture = Pillow.open(file, formats=FORMATS)
        frames = getattr(picture, "n_frames", 1)
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise _unreadable(path, f"it is not an image that can be read ({known})") from error
    except Exception as error:  # Decoders raise nearly everything.
        raise _unreadable(path, f"the file is damaged ({_sentence(error)})") from error
    finally:
        Pillow.MAX_IMAGE_PIXELS = limit
    pixels = picture.width * picture.height
    if pixels > max_pixels:
        raise _unreadable(
            path,
            f"{picture.width}x{picture.height} are {pixels:,} pixels, more than the limit of "
            f"{max_pixels:,} (--max-pixels allows more)",
        )
    # A camera's MPO is a JPEG with a preview or a gain map behind it.
    if frames > 1 and picture.format != "MPO":
        what = "pages" if picture.format == "TIFF" else "frames"
        raise _unreadable(path, f"it has {frames} {what}; only single images are supported")
    return picture


def _read_exif_and_decode(path: Path, picture: Pillow.Image) -> tuple[bytes | None, list[str]]:
    """Pillow forgets a TIFF's EXIF when it decodes and turns the pixels, so that comes before.

    Of a PNG, whose EXIF may lie behind the pixels, it decodes to find it, and tells only once that
    the pixels are damaged: so that comes after.
    """
    if picture.format == "TIFF":
        exif = _read_exif(picture)
        _decode(path, picture)
        return exif
    _decode(path, picture)
    return _read_exif(picture)


def _decode(path: Path, picture: Pillow.Image) -> None:
    try:
        picture.load()
    except MemoryError as error:
        raise _unreadable(path, "not enough memory") from error
    except Exception as error:  # Decoders raise nearly everything.
        raise _unreadable(path, f"the file is damaged ({_sentence(error)})") from error


def _read_exif(picture: Pillow.Image) -> tuple[bytes | None, list[str]]:
    try:
        return portable_exif(picture.getexif()), []
    except Exception:  # Damaged EXIF breaks Pillow in many ways, and is no reason to stop.
        return None, ["the EXIF data is damaged: it is dropped"]


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


def _encode(path: Path, image: Image, kind: str, quality: int | None) -> bytes:
    """The file's content. In memory, so that a disk that fills up is told from a bad image."""
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
        options["exif"] = sized_exif(image.exif, *image.size)
    if image.dpi:
        options["dpi"] = image.dpi
    buffer = io.BytesIO()
    try:
        picture = to_pillow(image)
        picture.save(buffer, kind, icc_profile=image.icc_profile, **options)
    except Exception as error:  # Encoders raise nearly everything.
        raise ImageError(f"cannot write {shown(path)}: {_sentence(error)}") from error
    return buffer.getvalue()


def _write_file(path: Path, data: bytes, overwrite: bool) -> None:
    """``data`` under a temporary name in the same folder, then under its own."""
    temporary = temporary_path(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        check_destination(path, overwrite)  # It may have appeared meanwhile.
        temporary.replace(path)
    except OSError as error:
        raise ImageError(f"cannot write {shown(path)}: {reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _unreadable(path: Path, why: str) -> ImageError:
    return ImageError(f"cannot read {shown(path)}: {why}")


def _sentence(error: Any) -> str:
    """An error's or a warning's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__
