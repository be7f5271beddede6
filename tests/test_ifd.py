"""Directories of TIFF: what Pillow and libvips make of what we wrote, and damage."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from pictures import photo
from PIL import ExifTags
from PIL import Image as Pillow

from sruplift.ifd import (
    EXIF,
    GPS,
    INTEROP,
    PREFIX,
    Directory,
    Entry,
    change_exif,
    long,
    make_exif,
    rational,
    read_directory,
    read_exif,
    rewrite,
    short,
    without_thumbnail,
)

pyvips = pytest.importorskip("pyvips")
NAME = Entry(2, 7, b"camera\0")


def folders() -> Directory:
    return {
        272: NAME,
        274: short(1),
        EXIF: {
            33434: rational(0.0125),
            37500: Entry(7, 5, b"maker"),
            40962: long(70_000),
            INTEROP: {1: Entry(2, 4, b"R98\0")},
        },
        GPS: {1: Entry(2, 2, b"N\0"), 2: Entry(5, 3, struct.pack("<6I", 48, 1, 8, 1, 123, 10))},
    }


def check(exif: Pillow.Exif) -> None:
    assert exif[ExifTags.Base.Model] == "camera"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    assert float(details[ExifTags.Base.ExposureTime]) == 0.0125
    assert details[ExifTags.Base.MakerNote] == b"maker"
    assert details[ExifTags.Base.ExifImageWidth] == 70_000
    assert exif.get_ifd(ExifTags.IFD.Interop) == {1: "R98"}
    assert exif.get_ifd(ExifTags.IFD.GPSInfo) == {1: "N", 2: (48.0, 8.0, 12.3)}


def save(path: Path, big: bool, order: str) -> np.ndarray:
    """A TIFF: libvips' own, or one of grey by hand, for nobody writes a big-endian BigTIFF."""
    pixels = photo(60, 50, 3 if order == "<" else 1)
    if order == "<":
        image = pyvips.Image.new_from_array(pixels)
        image.tiffsave(str(path), bigtiff=big, compression="deflate")
        return pixels
    number, offset, first = ("Q", "Q", 16) if big else ("H", "I", 8)
    tags = [(256, 50), (257, 60), (258, 8), (259, 1), (262, 1), (273, 400), (278, 60), (279, 3000)]
    table = struct.pack(">" + number, len(tags))
    for tag, value in tags:
        field = struct.pack(">H", value).ljust(8 if big else 4, b"\0")
        table += struct.pack(">HH" + offset, tag, 3, 1) + field
    head = b"MM\0+\0\x08\0\0" if big else b"MM\0*"
    data = head + struct.pack(">" + offset, first) + table + bytes(8 if big else 4)
    path.write_bytes(data.ljust(400, b"\0") + pixels.tobytes())
    return pixels


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_folders_are_added_to_a_finished_file(tmp_path: Path, big: bool, order: str) -> None:
    path = tmp_path / "a.tif"
    pixels = save(path, big, order)
    head = path.read_bytes()[:4]
    assert head == (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 42 + big)
    with path.open("r+b") as file:
        rewrite(file, folders(), drop=(305,))
    if not (big and order == ">"):  # Which Pillow does not read.
        with Pillow.open(path) as picture:
            check(picture.getexif())
            assert np.array_equal(np.asarray(picture), pixels)
    decoded = pyvips.Image.new_from_file(str(path)).numpy()
    assert np.array_equal(decoded.reshape(pixels.shape), pixels)
    with path.open("rb") as file:
        found = read_directory(file, skip=(256, 257))
    assert 256 not in found
    assert {tag: found[tag] for tag in folders()} == folders()


def test_data_of_their_own() -> None:
    data = make_exif(folders())
    exif = Pillow.Exif()
    exif.load(data)
    check(exif)
    assert read_exif(data) == folders()


@pytest.mark.parametrize("order", ["<", ">"])
def test_what_there_is_room_for_stays_in_place(order: str) -> None:
    exif = Pillow.Exif()
    exif.endian = order
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Model] = "camera"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = b"maker"
    data = exif.tobytes()
    result = change_exif(data, {274: short(3)})
    assert len(result) == len(data)
    assert read_exif(result)[274] == short(3)
    assert read_exif(result)[EXIF] == read_exif(data)[EXIF]
    fewer = change_exif(data, {}, drop=(274,))
    assert len(fewer) == len(data)
    assert fewer.index(b"maker") == data.index(b"maker")
    assert 274 not in read_exif(fewer)
    more = change_exif(data, {315: Entry(2, 4, b"who\0")})
    assert more.index(b"maker") == data.index(b"maker")
    assert read_exif(more)[315] == Entry(2, 4, b"who\0")
    assert read_exif(more)[274] == short(6)


def test_a_directory_below_is_changed_but_not_extended() -> None:
    file = io.BytesIO(make_exif(folders()).removeprefix(PREFIX))
    rewrite(file, {40962: long(5), 40963: long(6)}, within=EXIF)
    details = read_directory(file)[EXIF]
    assert isinstance(details, dict)
    assert details[40962] == long(5)
    assert 40963 not in details
    before = file.getvalue()
    rewrite(file, {1: long(5)}, within=INTEROP)  # Not where it could be.
    assert file.getvalue() == before


def with_thumbnail(order: str, behind: bytes = b"") -> bytes:
    """EXIF data with a small picture, and something behind it."""
    first = struct.pack(order + "H", 1) + struct.pack(order + "HHII", 256, 4, 1, 7)
    first += struct.pack(order + "I", 26)
    second = struct.pack(order + "H", 2)
    second += struct.pack(order + "HHII", 513, 4, 1, 56) + struct.pack(order + "HHII", 514, 4, 1, 9)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return PREFIX + head + first + second + bytes(4) + b"THUMBNAIL" + behind


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_thumbnail_goes(order: str) -> None:
    result = without_thumbnail(with_thumbnail(order))
    assert result == with_thumbnail(order)[: 6 + 22] + bytes(4)
    behind = without_thumbnail(with_thumbnail(order, b"note"))
    assert behind.endswith(bytes(9) + b"note")
    assert read_exif(behind) == {256: long(7)}
    plain = make_exif(folders())
    assert without_thumbnail(plain) == plain


@pytest.mark.parametrize("order", ["<", ">"])
def test_damage_gives_less_or_an_error_of_one_kind(order: str) -> None:
    exif = Pillow.Exif()
    exif.load(make_exif(folders()))
    exif.endian = order
    check(exif)
    data = exif.tobytes().removeprefix(PREFIX)
    random = np.random.default_rng(0)
    cuts = [data[:end] for end in range(0, len(data), 3)]
    for _ in range(600):
        changed = bytearray(data)
        for where in random.integers(0, len(data), 3):
            changed[where] = random.integers(256)
        cuts.append(bytes(changed))
    kept = 0
    for each in cuts:
        try:
            kept += len(read_exif(each)) > 0
            change_exif(without_thumbnail(each), {274: short(1)}, drop=(272,))
            rewrite(io.BytesIO(each), {40962: long(1)}, within=EXIF)
        except ValueError:
            pass
    assert kept > 300


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize(("mark", "order"), [(b"II*\0", "<"), (b"MM\0*", ">")])
def test_values_of_no_known_kind_are_left_out(mark: bytes, order: str, count: int) -> None:
    entries = struct.pack(order + "HHII", 272, 99, count, 0) + struct.pack(
        order + "HHIHH", 274, 3, 1, 6, 0
    )
    data = mark + struct.pack(order + "IH", 8, 2) + entries + bytes(4)
    assert read_exif(data) == {274: short(6)}


def test_folders_that_point_to_themselves_end() -> None:
    loop = struct.pack("<H", 1) + struct.pack("<HHII", EXIF, 4, 1, 8) + bytes(4)
    assert read_exif(b"II*\0\x08\0\0\0" + loop) == {EXIF: {EXIF: {}}}


def test_a_classic_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    save(path, False, "<")
    with path.open("r+b") as file:
        file.truncate(2**32 - 4)  # A hole: it takes no room.
        with pytest.raises(ValueError, match="too large for another directory"):
            rewrite(file, folders())
