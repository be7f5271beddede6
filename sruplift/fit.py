"""What a format can hold of an image, and sentences about the rest."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pillow

from sruplift.metadata import (
    exif_resolution,
    exif_with_resolution,
    open_profile,
    sized_exif,
    to_srgb,
)
from sruplift.words import COMMENT
from sruplift.xmp import sized_xmp

if TYPE_CHECKING:
    from sruplift.image import Image

# What each format holds beside pixels. Of texts, JPEG and GIF hold a comment.
HOLDS = {
    "PNG": {"icc_profile", "exif", "xmp", "dpi", "texts"},
    "JPEG": {"icc_profile", "exif", "xmp", "dpi", "iptc"},
    "WEBP": {"icc_profile", "exif", "xmp"},
    "TIFF": {"icc_profile", "exif", "xmp", "dpi", "iptc"},
    "AVIF": {"icc_profile", "exif", "xmp"},
    "GIF": {"xmp"},
}
NAMES = {"exif": "EXIF", "xmp": "XMP", "dpi": "the resolution", "iptc": "IPTC"}
COMMENTED = ("JPEG", "GIF")
# What fits a JPEG's segments (ITU-T T.81, B.1.1.4, less the identifiers), bytes.
JPEG_SEGMENT = {"exif": 65_527, "xmp": 65_502, "iptc": 65_500}


def fitted(image: Image, kind: str) -> Image:
    """``image`` as the format ``kind`` can hold it; ``notes`` say what was dropped, no more.

    Sizes in EXIF and XMP become those of the pixels. Depth and transparency are left alone.
    """
    image = dataclasses.replace(
        image,
        exif=sized_exif(image.exif, *image.size) if image.exif else None,
        xmp=sized_xmp(image.xmp, *image.size) if image.xmp else None,
        notes=(),
    )
    image = _with_resolution_in_exif(_with_usable_profile(image, kind), kind)
    image = _less_what_is_not_held(image, kind)
    return _less_what_is_too_long(image) if kind == "JPEG" else image


def opaque_or_clear(image: Image) -> Image:
    """``image`` with every pixel seen or not, as a GIF has them: then in colour for Pillow."""
    if image.alpha is None:
        return image
    alpha = np.where(image.alpha > np.iinfo(image.array.dtype).max // 2, 255, 0)
    colours = np.broadcast_to(image.pixels, (*image.size, 3))
    pixels = np.concatenate([colours, alpha[..., None].astype(image.array.dtype)], axis=2)
    return dataclasses.replace(image, array=pixels)


def _with_usable_profile(image: Image, kind: str) -> Image:
    """Colours in sRGB where their profile cannot go with them."""
    icc = image.icc_profile
    if not icc or image.array.dtype != np.uint8:
        return image
    grey = open_profile(icc, "L") is not None
    # WebP has no grey pixels; grey with alpha is colour with alpha for our encoder of AVIF.
    becomes_colour = kind == "WEBP" or (kind == "AVIF" and image.alpha is not None)
    misfit = grey and (becomes_colour or image.colours == 3)
    if "icc_profile" in HOLDS[kind] and not misfit:
        return image
    array = image.array.copy()
    for channels in [[c] for c in range(image.colours)] if grey else [[0, 1, 2]]:
        converted = _in_srgb(array[..., channels], icc)
        if converted is None:
            note = f"{kind} cannot hold the colour profile, nor can it be converted: it is dropped"
            return dataclasses.replace(image, icc_profile=None, notes=(*image.notes, note))
        array[..., channels] = converted
    return dataclasses.replace(image, array=array, icc_profile=None)


def _in_srgb(pixels: Any, icc: bytes) -> Any:
    """(H, W, 1 or 3) of a profile -> the same in sRGB; None: the profile cannot be used."""
    mode = "L" if pixels.shape[2] == 1 else "RGB"
    profile = open_profile(icc, mode)
    if profile is None:
        return None
    picture = Pillow.fromarray(np.ascontiguousarray(pixels.squeeze(2) if mode == "L" else pixels))
    converted = to_srgb(picture, profile)
    return None if converted is None else np.asarray(converted)[..., : pixels.shape[2]]


def _with_resolution_in_exif(image: Image, kind: str) -> Image:
    """WebP and AVIF have no other place for it."""
    if image.dpi is None or kind not in ("WEBP", "AVIF"):
        return image
    exif = image.exif
    if exif_resolution(exif) != image.dpi:
        exif = exif_with_resolution(exif, image.dpi)
    return dataclasses.replace(image, exif=exif, dpi=None)


def _less_what_is_not_held(image: Image, kind: str) -> Image:
    changed: dict[str, Any] = {
        name: None for name in NAMES if getattr(image, name) and name not in HOLDS[kind]
    }
    dropped = [NAMES[name] for name in changed]
    if "texts" not in HOLDS[kind]:
        texts = tuple(each for each in image.texts if each[0] == COMMENT and kind in COMMENTED)
        keywords = ", ".join(each[0] for each in image.texts if each not in texts)
        dropped += [f"its texts ({keywords})"] if keywords else []
        changed["texts"] = texts
    if dropped:
        changed["notes"] = (*image.notes, f"{kind} does not hold {', '.join(dropped)}: dropped")
    return dataclasses.replace(image, **changed)


def _less_what_is_too_long(image: Image) -> Image:
    for name, limit in JPEG_SEGMENT.items():
        data = getattr(image, name)
        if data and len(data) > limit:
            note = f"the {name.upper()} data of {len(data):,} bytes do not fit a JPEG: dropped"
            changed: dict[str, Any] = {name: None, "notes": (*image.notes, note)}
            image = dataclasses.replace(image, **changed)
    return image
