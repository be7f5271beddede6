"""Image files as Pillow understands them; whatever a decoder raises becomes one sentence."""

from __future__ import annotations

import contextlib
import functools
import logging
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, PngImagePlugin, UnidentifiedImageError
from PIL import Image as Pillow

from sruplift.errors import ImageError
from sruplift.files import READABLE, reason, shown
from sruplift.metadata import stated_orientation
from sruplift.png import damage as png_damage
from sruplift.tiff import complaints, deep_grey_size, read_tags
from sruplift.words import LONGEST, png_metadata

# A guard against decompression bombs: 16384 x 16384.
MAX_PIXELS = 2**28
# Formats whose several pictures are frames, not pages.
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
FORMATS = tuple(dict.fromkeys(READABLE.values()))
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
# Pillow's grey of few bits is spread to 0..255, but not the level that is to be transparent.
PNG_LEVELS = {"L;2": 3, "L;4": 15}
# Pillow's limit and Python's warning filters belong to the whole process.
_PILLOW = threading.Lock()
# Pillow logs some of what it raises; without any handler Python prints that to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """``path`` for reading, if it is a regular file: a pipe would wait for ever.

    Raises:
        ImageError: it cannot be opened.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise unreadable(path, "it is a folder")
        if not stat.S_ISREG(kind):
            raise unreadable(path, "it is not a regular file")
        file = path.open("rb")
    except FileNotFoundError as error:
        raise unreadable(path, "there is no such file") from error
    except (OSError, ValueError) as error:
        text = reason(error) if isinstance(error, OSError) else str(error)
        raise unreadable(path, text) from error
    with file:
        yield file


@contextmanager
def collected_warnings(notes: list[str]) -> Iterator[None]:
    """What decoders warn of goes to ``notes``. One thread at a time."""
    with _PILLOW, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    notes += [sentence(warning.message) for warning in caught]


def open_picture(path: Path, file: BinaryIO, max_pixels: int) -> Pillow.Image:
    """The file's header as Pillow understands it, checked; no pixels yet.

    Raises:
        ImageError: damaged, of more than ``max_pixels``, or in a format that is not supported.
    """
    limit, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
    # Of colour profiles, too, and there are larger ones than Pillow has in mind.
    longest, PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_CHUNK, LONGEST
    try:
        picture = Pillow.open(file, formats=_formats())
    except UnidentifiedImageError as error:
        raise unreadable(path, _why_unknown(file)) from error
    except Exception as error:  # Decoders raise nearly everything.
        raise damaged(path, error) from error
    finally:
        Pillow.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = limit, longest
    check_size(path, picture.width, picture.height, max_pixels)
    _spread_transparency(picture)
    return picture


def check_png(path: Path, file: BinaryIO) -> None:
    """Refuse a PNG that has not all its pixels, or not as they were written.

    Raises:
        ImageError: with what is wrong.
    """
    said = png_damage(file)
    if said is not None:
        raise damaged(path, said)


def count_frames(path: Path, picture: Pillow.Image) -> int:
    """How many pictures the file holds that are to be shown."""
    if picture.format == "MPO":  # A camera's JPEG with a preview or a gain map behind it.
        return 1
    try:
        return getattr(picture, "n_frames", 1)
    except Exception as error:  # Decoders raise nearly everything.
        raise damaged(path, error) from error


def several(path: Path, picture: Pillow.Image, frames: int) -> ImageError:
    """The error for a file of several pictures where there can be only one."""
    what = "pages" if picture.format == "TIFF" else "frames"
    return unreadable(path, f"it has {frames} {what}; only single images are supported")


def check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Refuse an image of more than ``max_pixels``."""
    pixels = width * height
    if pixels > max_pixels:
        raise unreadable(
            path,
            f"{width}x{height} are {pixels:,} pixels, more than the limit of "
            f"{max_pixels:,} (--max-pixels allows more)",
        )


def decode(path: Path, picture: Pillow.Image) -> None:
    """Decode the pixels.

    Raises:
        ImageError: they are damaged, or there is not enough memory.
    """
    with complaints() as said:
        try:
            picture.load()
        except MemoryError as error:
            raise unreadable(path, "not enough memory") from error
        except Exception as error:  # Decoders raise nearly everything.
            raise damaged(path, said[0] if said else error) from error
    if said:
        raise damaged(path, said[0])


def unreadable(path: Path, why: str) -> ImageError:
    """The error for an input that cannot be used."""
    return ImageError(f"cannot read {shown(path)}: {why}")


def damaged(path: Path, error: Exception | str) -> ImageError:
    """The error for a file that a decoder stumbled over."""
    return unreadable(path, f"the file is damaged ({sentence(error)})")


def sentence(error: Any) -> str:
    """An error's or a warning's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__


@functools.cache
def _formats() -> tuple[str, ...]:
    """Pillow's names of the formats that can be read here."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        return FORMATS
    return tuple(name for name in FORMATS if name != "HEIF")


def _spread_transparency(picture: Pillow.Image) -> None:
    """Make the transparent level of a grey PNG of 2 or 4 bits one of its 8-bit levels."""
    level = picture.info.get("transparency")
    if picture.format != "PNG" or picture.mode != "L" or not isinstance(level, int):
        return
    raw = getattr(picture, "tile", [])[:1]
    most = PNG_LEVELS.get(str(raw[0].args)) if raw else None
    if most is not None and level <= most:
        picture.info["transparency"] = level * 255 // most


def _why_unknown(file: BinaryIO) -> str:
    file.seek(0)
    header = file.read(12)
    if header[4:8] == b"ftyp" and header[8:12] in HEIF_BRANDS and "HEIF" not in _formats():
        return "HEIC needs the extra: pip install 'sruplift[heic]'"
    return f"it is not an image that can be read ({', '.join(_formats())})"


def picture_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int, int]:
    """(height, width, frames) of an image file, upright. Decodes no pixels.

    Raises:
        ImageError: it cannot be opened, is damaged, has more than ``max_pixels``, or several
            pictures that are no animation.
    """
    with opened(path) as file, collected_warnings([]):
        try:
            picture = open_picture(path, file, max_pixels)
        except ImageError:
            # libvips opens TIFFs that Pillow does not.
            if (size := deep_grey_size(read_tags(file))) is None:
                raise
            check_size(path, size[1], size[0], max_pixels)
            return (*size, 1)
        frames = count_frames(path, picture)
        if frames > 1 and picture.format not in ANIMATED:
            raise several(path, picture, frames)
        orientation = 1
        if picture.format == "PNG" and "exif" not in picture.info:
            # Pillow would decode it to look behind the pixels. A buffer would be filled for each
            # of many chunks.
            with path.open("rb", buffering=0) as unbuffered:
                found = png_metadata(unbuffered)
            orientation = stated_orientation(found["exif"], found["xmp"])
        elif picture.format != "TIFF":  # Whose size Pillow has turned already.
            with contextlib.suppress(Exception):
                orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    turned = orientation in (5, 6, 7, 8)
    height, width = (picture.width, picture.height) if turned else (picture.height, picture.width)
    return height, width, frames
