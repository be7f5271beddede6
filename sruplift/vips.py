"""Pixels by libvips: what Pillow cannot hold (16 bits of colour) and what should be streamed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sruplift.errors import ImageError
from sruplift.store import new_array, release

# Rows are decoded this many pixels at a time.
STRIP = 4 * 1024**2
AVIF_BITS = 12
# Of 0 to 9. libvips' own 4 takes six times as long as 3, which is Pillow's, for files 2 % smaller.
AVIF_EFFORT = 3
# Everything but EXIF, which libvips makes, with a resolution, where there is none.
NO_EXIF = "icc|xmp|iptc|other"
DTYPES: dict[str, np.dtype[Any]] = {"uchar": np.dtype(np.uint8), "ushort": np.dtype(np.uint16)}
INTERPRETATIONS = {
    ("uchar", 1): "b-w",
    ("uchar", 3): "srgb",
    ("ushort", 1): "grey16",
    ("ushort", 3): "rgb16",
}
# What such pixels may mean. Others may have as many channels, and be no RGB.
UNDERSTOOD = frozenset((*INTERPRETATIONS.values(), "rgb"))

# libvips' words about files in which nothing is wrong.
NOT_READ = ("not configured", "unsupported", "not a whole number of bytes")


@functools.cache
def _vips() -> ModuleType:
    """The library, loaded when it is first needed."""
    os.environ.setdefault("VIPS_WARNING", "0")  # Its warnings go to stderr.
    import pyvips

    # Its log ends in Python's, by a way that stumbles over what damaged files say.
    getattr(pyvips, "_remove_log_handler", bool)()
    pyvips.cache_set_max(0)  # It keeps results, of images that are never asked for again.
    pyvips.block_untrusted_set(True)
    return pyvips


def decode(
    path: Path,
    folder: Path | None,
    orient: Callable[[NDArray[Any]], NDArray[Any]] = lambda upright: upright,
    transposed: bool = False,
    bits: int = 16,
    channels: int | None = None,
) -> NDArray[Any]:
    """The pixels of an image file as (H, W, C), uint8 or uint16, row by row.

    Colours that a TIFF has multiplied with alpha are divided again, by libvips (from 8.18 on).

    Args:
        path: PNG, TIFF, JPEG, WebP or AVIF.
        folder: where a large array may be mapped, as in ``new_array``.
        orient: from the upright array to a view of it that lies as the file's pixels do.
        transposed: whether ``orient`` exchanges height and width.
        bits: of 16, the upper ones that count: those of an AVIF, spread over the whole range.
        channels: take so many of the first; None takes all.

    Raises:
        ImageError: damaged pixels, or of another type; the sentence does not name the file.
        OSError: no room for them.
    """
    vips = _vips()
    try:
        image = _opened(path)
        if channels is not None and channels < image.bands:
            image = image.extract_band(0, n=channels)
        if image.format not in DTYPES or not 1 <= image.bands <= 4:
            raise ImageError(f"{image.bands} channels of type {image.format} are not supported")
        if image.interpretation not in UNDERSTOOD:
            raise ImageError(f"pixels of type {image.interpretation!r} are not supported")
        size = (image.width, image.height) if transposed else (image.height, image.width)
        upright = new_array((*size, image.bands), DTYPES[image.format], folder)
        _fill(orient(upright), image, upright, bits)
    except vips.Error as error:
        raise ImageError(_why_not_read(error)) from error
    return upright


def jpeg_complaint(path: Path) -> str | None:
    """What libjpeg first warned of when it decoded ``path``, if anything; other decoders hide it.

    Where the data end too early, or make no sense, it fills the picture with grey and goes on.
    """
    try:
        _opened(path, fail_on="warning").avg()
    except _vips().Error as error:
        return _last_line(error)
    return None


def header(path: Path) -> dict[str, Any]:
    """What libvips reads in a header: size, bands, format, pages, resolution, orientation, blobs.

    ``icc``, ``exif`` and ``xmp`` are bytes or None; ``orientation`` is EXIF's, 1 if it is not said.

    Raises:
        ImageError: it is damaged or not an image; the sentence does not name the file.
    """
    vips = _vips()
    try:
        image = _opened(path)
    except vips.Error as error:
        raise ImageError(_why_not_read(error)) from error
    names = ("width", "height", "bands", "format", "xres", "yres")
    facts = {name: getattr(image, name) for name in names}
    fields = {"icc": "icc-profile-data", "exif": "exif-data", "xmp": "xmp-data"}
    for name, field in fields.items():
        facts[name] = image.get(field) if image.get_typeof(field) else None
    facts["pages"] = image.get("n-pages") if image.get_typeof("n-pages") else 1
    turned = image.get("orientation") if image.get_typeof("orientation") else 1
    return {**facts, "orientation": turned if 1 <= turned <= 8 else 1}


def encode(
    path: Path,
    pixels: NDArray[Any],
    kind: str,
    *,
    quality: int | None = None,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> None:
    """Write (H, W, C), uint8 or uint16, to ``path`` in the format ``kind``, strip by strip.

    A TIFF of 4 GB or more becomes a BigTIFF; AVIF keeps 12 bits of 16. TIFF holds no EXIF here.
    Without ``dpi``, PNG and TIFF say 72.

    Raises:
        ImageError: the encoder failed, or the disk is full; the sentence does not name the file.
    """
    vips = _vips()
    height, width, bands = pixels.shape
    buffer = np.ascontiguousarray(pixels)
    form = "ushort" if pixels.dtype == np.uint16 else "uchar"
    image = vips.Image.new_from_memory(buffer.data, width, height, bands, form)
    meaning = INTERPRETATIONS[form, 3 if bands > 2 else 1]
    x, y = dpi or (72.0, 72.0)
    image = image.copy(interpretation=meaning, xres=x / 25.4, yres=y / 25.4)
    blobs = {"icc-profile-data": icc_profile, "exif-data": exif, "xmp-data": xmp}
    for name, blob in blobs.items():
        if blob:
            image.set_type(vips.GValue.blob_type, name, blob)
    if kind == "AVIF" and bands < 3 and icc_profile:
        # It becomes colour there, of which the profile is not.
        image = image.icc_transform("srgb", depth=8 * pixels.itemsize, intent="relative")
        image.remove("icc-profile-data")
    if kind == "AVIF" and form == "ushort":  # libvips would cut off the lower bits, not round.
        image = _narrowed(image, AVIF_BITS)
    image.set_progress(True)
    image.signal_connect("eval", lambda *_: release(buffer))
    try:
        target = vips.Target.new_to_file(str(path))
        save, options = _encoder(kind, form, quality, height * width * bands * pixels.itemsize)
        getattr(image, save)(target, **options, **({} if exif else {"keep": NO_EXIF}))
    except vips.Error as error:
        raise ImageError(_last_line(error)) from error
    finally:
        release(buffer)


def _encoder(kind: str, form: str, quality: int | None, size: int) -> tuple[str, dict[str, Any]]:
    """The name of libvips' operation and its options."""
    if kind == "PNG":
        return "pngsave_target", {"compression": 4, "filter": "all" if form == "ushort" else "sub"}
    if kind == "TIFF":
        bigtiff = size > 2**32 - 2**26
        return "tiffsave_target", {
            "compression": "deflate",
            "predictor": "horizontal",
            "bigtiff": bigtiff,
        }
    if kind == "JPEG":
        return "jpegsave_target", {"Q": quality, "subsample_mode": "off"}
    if kind == "WEBP":
        return "webpsave_target", {"Q": quality}
    if kind != "AVIF":
        raise ImageError(f"{kind} cannot be written in strips")
    bits = {"bitdepth": AVIF_BITS} if form == "ushort" else {}
    how = {"compression": "av1", "effort": AVIF_EFFORT, "subsample_mode": "off", **bits}
    return "heifsave_target", {"Q": quality, **how}


def _opened(path: Path, fail_on: str = "error") -> Any:
    vips = _vips()
    # From a source: in a name libvips would read "[...]" as options.
    source = vips.Source.new_from_file(str(path))
    return vips.Image.new_from_source(source, "", access="sequential", fail_on=fail_on)


def spread(pixels: NDArray[Any], bits: int) -> NDArray[np.uint16]:
    """``bits`` of 16, the lower ones zero, so that the largest value is the largest of 16."""
    factor = 65_535 / (65_536 - 2 ** (16 - bits))
    return np.rint(pixels * np.float32(factor)).astype(np.uint16)


def _fill(target: NDArray[Any], image: Any, upright: NDArray[Any], bits: int) -> None:
    """Decode ``image`` from top to bottom into ``target``, a view of ``upright``."""
    region = _vips().Region.new(image)
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        count = min(rows, image.height - top)
        data = region.fetch(0, top, image.width, count)
        strip = np.frombuffer(data, upright.dtype)
        strip = strip if bits >= 16 else spread(strip, bits)
        target[top : top + count] = strip.reshape(count, image.width, image.bands)
        release(upright)


def _narrowed(image: Any, bits: int) -> Any:
    """16 bits rounded to ``bits``, which become the upper ones: what ``spread`` undoes."""
    step = 2 ** (16 - bits)
    narrow = (image * ((65_536 - step) / 65_535 / step)).rint() * step
    return narrow.cast(image.format).copy(interpretation=image.interpretation)


def _why_not_read(error: Exception) -> str:
    said = _last_line(error)
    if "known format" in said:
        return "it is not an image that can be read, or its header is damaged"
    if any(words in said.lower() for words in NOT_READ):
        return f"it is of a kind that cannot be read ({said})"
    return f"the file is damaged ({said})"


def _last_line(error: Exception) -> str:
    """libvips' own words. Warnings, also of files before this one, come before them."""
    lines = [line.strip() for line in str(getattr(error, "detail", error)).splitlines()]
    said = next((line for line in reversed(lines) if line), "libvips does not say why")
    return said.removeprefix("VipsJpeg: ")
