"""What of a TIFF no decoder tells: the meaning of its channels, and what libtiff found wrong.

The libtiff inside Pillow prints its errors to stderr, and decodes on after some. Pillow offers no
way to them, so its copy of the library is asked directly. Where that cannot be reached (Windows),
they go where they went before, and nothing else changes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

from PIL import Image as Pillow
from PIL import TiffImagePlugin, _imaging

# Tags and values of TIFF 6.0, section 8.
_PHOTOMETRIC, _SAMPLES, _EXTRA_SAMPLES = 262, 277, 338
_WHITE_IS_ZERO, _UNSPECIFIED = 0, 0
# About tags that are passed over, which is no damage to the pixels.
_ABOUT_TAGS = frozenset(
    ("TIFFFetchNormalTag", "TIFFFetchDirectory", "TIFFReadDirectory", "TIFFReadCustomDirectory")
)
_LONGEST = 500
# void handler(const char *module, const char *format, va_list values): a pointer to the values is
# what every common machine passes for the last.
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_SAID = threading.local()


def read_tags(file: BinaryIO) -> Mapping[int, Any]:
    """The tags of the first picture in a TIFF, also of one that Pillow cannot open; maybe none."""
    file.seek(0)
    try:
        header = file.read(8)
        if header[2:3] == b"+" or header[3:4] == b"+":
            header += file.read(8)  # A BigTIFF.
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
        return dict(tags)
    except Exception:  # Damage breaks Pillow in many ways; whoever decodes the file will say so.
        return {}


def tags_of(picture: Pillow.Image) -> Mapping[int, Any]:
    """The tags of a picture that Pillow opened; none if it is no TIFF."""
    return getattr(picture, "tag_v2", {})


def is_negative(tags: Mapping[int, Any]) -> bool:
    """Whether 0 is white, which Pillow forgets where a pixel has 16 bits."""
    return tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def named_channels(tags: Mapping[int, Any]) -> int | None:
    """How many of the first channels have a meaning; None if all have.

    One that is not said to be alpha is none: it may be infrared, or what a program kept for itself.
    """
    extra = _numbers(tags, _EXTRA_SAMPLES)
    if _UNSPECIFIED not in extra:
        return None
    count = _number(tags, _SAMPLES, 1) - len(extra) + extra.index(_UNSPECIFIED)
    return count if count > 0 else None


def lacks_pixels(tags: Mapping[int, Any]) -> bool:
    """Whether strips or tiles are missing, or are too short for pixels that are not compressed."""
    width, height, bits = _number(tags, 256, 1), _number(tags, 257, 1), _numbers(tags, 258) or (1,)
    planes = len(bits) if tags.get(284) == 2 else 1
    if 324 in tags:
        across, down = (
            -(-width // _number(tags, 322, width)),
            -(-height // _number(tags, 323, height)),
        )
        return len(_numbers(tags, 324)) < across * down * planes
    strips = -(-height // _number(tags, 278, height))
    if len(_numbers(tags, 273)) < strips * planes:
        return True
    counts = _numbers(tags, 279)
    if _number(tags, 259, 1) != 1 or tags.get(_PHOTOMETRIC) == 6 or 0 in (counts or (0,)):
        return False  # How long they must be is another matter, or is not said.
    rows = (sum(bits),) if planes == 1 else bits
    return sum(counts) < height * sum(-(-width * row // 8) for row in rows)


def deep_grey_size(tags: Mapping[int, Any]) -> tuple[int, int] | None:
    """(height, width) as grey with alpha at 16 bits should be seen; None: the picture is none."""
    width, height, orientation = (_number(tags, tag, 0) for tag in (256, 257, 274))
    unsigned = all(kind == 1 for kind in _numbers(tags, 339))
    if not (width and height and _numbers(tags, 258) == (16, 16) and unsigned):
        return None
    return (width, height) if orientation > 4 else (height, width)


def _numbers(tags: Mapping[int, Any], tag: int) -> tuple[int, ...]:
    """The whole numbers of a tag; a damaged file may have anything."""
    value = tags.get(tag, ())
    return tuple(v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, int))


def _number(tags: Mapping[int, Any], tag: int, default: int) -> int:
    """The first of them, if it can be a size or a count."""
    return next((value for value in _numbers(tags, tag) if value > 0), default)


@contextmanager
def complaints() -> Iterator[list[str]]:
    """A list that fills with what is wrong with the pixels that this thread decodes."""
    _listen()
    said: list[str] = []
    _SAID.here = said
    try:
        yield said
    finally:
        del _SAID.here


def _hear(module: bytes | None, form: bytes | None, values: Any) -> None:
    said = getattr(_SAID, "here", None)
    name = (module or b"").decode("utf-8", "replace")
    if said is None or name in _ABOUT_TAGS:
        return
    text = ctypes.create_string_buffer(_LONGEST)
    _formatter()(text, _LONGEST, form, values)
    said.append(text.value.decode("utf-8", "replace"))


_CALLBACK = _HANDLER(_hear)  # libtiff keeps its address: it must live for ever.


@functools.cache
def _listen() -> None:
    """Take libtiff's errors from now on."""
    # AttributeError: the library is not to be found through Pillow's module.
    with contextlib.suppress(AttributeError, OSError):
        _formatter()
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(ctypes.cast(_CALLBACK, ctypes.c_void_p))


@functools.cache
def _formatter() -> Callable[..., int]:
    """C's ``vsnprintf``."""
    function = ctypes.CDLL(None).vsnprintf
    function.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]
    return function
