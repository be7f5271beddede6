"""Pictures and colour profiles that more than one test file makes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from conftest import photo_like
from numpy.typing import NDArray
from PIL import ExifTags
from PIL import Image as Pillow
from torch import nn

from sruplift.models import create_model
from sruplift.weights import save_weights

# Display P3's primaries and white, adapted to D50 as profiles want them (SMPTE EG 432-1).
P3_TO_XYZ = ((0.5151, 0.2919, 0.1572), (0.2412, 0.6922, 0.0666), (-0.0011, 0.0419, 0.7841))


def photo(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    """(H, W, C) or, for one channel, (H, W): a picture with gradients, edges and texture."""
    pixels = (photo_like(height, width) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    if channels == 1:
        return np.ascontiguousarray(pixels[..., 0])
    return np.ascontiguousarray(pixels[..., :channels])


def rgb_profile(columns: tuple[tuple[float, ...], ...] = P3_TO_XYZ, gamma: float = 2.2) -> bytes:
    """A version 2 display profile of three primaries and a gamma (ICC.1:2001-04)."""
    curve = b"curv" + struct.pack(">4xIH", 1, round(gamma * 256))
    tags = {b"wtpt": _xyz(0.9642, 1.0, 0.8249), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    for index, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ")):
        tags[name] = _xyz(*(row[index] for row in columns))
    return _profile(b"RGB ", tags)


def grey_profile(gamma: float = 2.2) -> bytes:
    """A version 2 display profile for grey pictures."""
    curve = b"curv" + struct.pack(">4xIH", 1, round(gamma * 256))
    return _profile(b"GRAY", {b"wtpt": _xyz(0.9642, 1.0, 0.8249), b"kTRC": curve})


def _xyz(*values: float) -> bytes:
    return b"XYZ " + struct.pack(">4x3i", *(round(value * 65536) for value in values))


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    title = b"test\0"
    tags = {
        b"desc": b"desc" + struct.pack(">4xI", len(title)) + title + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        **tags,
    }
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data
    header = struct.pack(
        ">I4sI4s4s4s12s4s28x3i48x",
        128 + len(table) + len(body),
        b"\0\0\0\0",
        0x02100000,
        b"mntr",
        space,
        b"XYZ ",
        bytes(12),
        b"acsp",
        63190,
        65536,
        54061,
    )
    return header[:128] + table + body


def bilinear_pan(folder: Path, scale: int = 4) -> Path:
    """Weights of a PAN whose network adds nothing: the result is bilinear, exactly."""
    model = create_model("pan", scale)
    nn.init.zeros_(model.last.weight)
    nn.init.zeros_(model.last.bias)
    path = folder / f"bilinear_x{scale}.safetensors"
    save_weights(path, model.state_dict(), model="pan", scale=scale, metadata={})
    return path


THUMBNAIL = b"\xff\xd8 a small picture \xff\xd9"
MAKER_NOTE = b"maker\0" + bytes(range(256))


def exif_of_a_camera(orientation: int = 6) -> bytes:
    """Big-endian EXIF data with exposure, place, maker note, thumbnail, and a name in Latin 1."""
    exif = Pillow.Exif()
    exif.endian = ">"
    exif[ExifTags.Base.Make] = "maker"
    exif[ExifTags.Base.Model] = "camera"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Artist] = "J?rgen"
    exif[ExifTags.Base.DateTime] = "2024:05:06 07:08:09"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.ExposureTime] = 0.008
    details[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
    details[ExifTags.Base.MakerNote] = MAKER_NOTE
    details[ExifTags.Base.ExifImageWidth] = 1
    details[ExifTags.Base.ExifImageHeight] = 2
    details[ExifTags.IFD.Interop] = {1: "R98"}
    place = exif.get_ifd(ExifTags.IFD.GPSInfo)
    place[ExifTags.GPS.GPSLatitudeRef] = "N"
    place[ExifTags.GPS.GPSLatitude] = (48.0, 8.0, 12.3)
    tiff = bytearray(exif.tobytes()[6:].replace(b"J?rgen", b"J\xfcrgen"))
    tiff += bytes(len(tiff) % 2)
    link = 8 + 2 + 12 * int.from_bytes(tiff[8:10], "big")
    tiff[link : link + 4] = struct.pack(">I", len(tiff))
    where = len(tiff) + 2 + 2 * 12 + 4
    tiff += struct.pack(">HHHIIHHIII", 2, 513, 4, 1, where, 514, 4, 1, len(THUMBNAIL), 0)
    return b"Exif\0\0" + bytes(tiff) + THUMBNAIL
