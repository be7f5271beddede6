"""Files to pixels and back, each promise checked on real pixels."""

from __future__ import annotations

import errno
import io
import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from corpus import tiff
from pictures import grey_profile, photo, rgb_profile
from PIL import ExifTags, ImageCms
from PIL import Image as Pillow

from sruplift import image as image_module
from sruplift import outfile, store, vips, words
from sruplift.errors import ImageError, UsageError
from sruplift.image import Image, from_pillow, holds_alpha, output_dtype, write_image
from sruplift.reading import read_image

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'xmlns:dc="http://purl.org/dc/elements/1.1/" dc:title="a photo" tiff:Orientation="6"/>'
    b"</rdf:RDF></x:xmpmeta>"
)
LOSSLESS = [".png", ".tif", ".tiff"]
ALL = [*LOSSLESS, ".jpg", ".jpeg", ".webp", ".avif"]


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Pillow.fromarray(array).save(path, **options)
    return path


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def smooth(height: int = 32, width: int = 40, channels: int = 3) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    planes = [20 + x * 5, 230 - y * 5, 60 + x + y * 2, 250 - x * 2][:channels]
    return np.stack(planes, axis=2).astype(np.uint8).squeeze()


def rgb16_png(height: int, width: int) -> bytes:
    """Sixteen bits per channel, which Pillow reads but cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    rows = b"".join(b"\0" + bytes(range(6)) * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


# ---- Pixels


@pytest.mark.parametrize("suffix", ALL)
def test_rgb_survives_every_format(tmp_path: Path, suffix: str) -> None:
    pixels = smooth()
    path = tmp_path / f"a{suffix}"
    write_image(path, Image(pixels))
    result = read_image(path)
    assert result.pixels.dtype == np.uint8
    assert difference(result.pixels, pixels) <= (0 if suffix in LOSSLESS else 1.5)
    assert result.alpha is None
    assert result.notes == ()


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg"])
def test_grey_stays_one_channel(tmp_path: Path, suffix: str) -> None:
    pixels = smooth(channels=1)[..., None]
    path = tmp_path / f"a{suffix}"
    write_image(path, Image(pixels))
    with Pillow.open(path) as written:
        assert written.mode == "L"
    result = read_image(path)
    assert result.pixels.shape == (32, 40, 1)
    assert difference(result.pixels, pixels) < 1


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".avif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_survives(tmp_path: Path, suffix: str, channels: int) -> None:
    pixels = smooth(channels=channels).reshape(32, 40, channels)
    alpha = smooth(channels=1)
    path = tmp_path / f"a{suffix}"
    write_image(path, Image(np.concatenate([pixels, alpha[..., None]], axis=2)))
    result = read_image(path)
    assert result.alpha is not None
    assert difference(result.alpha, alpha) < 1.5
    assert difference(np.broadcast_to(pixels, result.pixels.shape), result.pixels) < 3


def test_jpeg_colours_are_not_halved(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, ::2] = (255, 0, 0)
    pixels[:, 1::2] = (0, 0, 255)
    write_image(tmp_path / "a.jpg", Image(pixels), quality=100)
    assert difference(read_image(tmp_path / "a.jpg").pixels, pixels) < 5


def test_quality_is_obeyed(tmp_path: Path) -> None:
    for suffix in (".jpg", ".webp", ".avif"):
        sizes = []
        for quality in (20, 90):
            path = tmp_path / f"{quality}{suffix}"
            write_image(path, Image(photo(64, 64)), quality=quality)
            sizes.append(path.stat().st_size)
        assert sizes[0] * 1.5 < sizes[1]


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_sixteen_bit_grey_stays_sixteen(tmp_path: Path, suffix: str) -> None:
    pixels = (np.arange(2000, dtype=np.uint16) * 30).reshape(40, 50)
    result = read_image(save(tmp_path / f"a{suffix}", pixels))
    assert result.pixels.dtype == np.uint16
    assert np.array_equal(result.pixels[..., 0], pixels)
    assert output_dtype(tmp_path / f"b{suffix}", result) == np.uint16
    write_image(tmp_path / f"b{suffix}", result)
    assert np.array_equal(read_image(tmp_path / f"b{suffix}").pixels, result.pixels)


def test_sixteen_bits_need_a_format_that_holds_them() -> None:
    deep = Image(np.zeros((2, 2, 1), np.uint16))
    assert output_dtype(Path("a.jpg"), deep) == np.uint8
    assert output_dtype(Path("a.png"), Image(np.zeros((2, 2, 1), np.uint8))) == np.uint8
    with_alpha = Image(np.zeros((2, 2, 2), np.uint16))
    assert output_dtype(Path("a.png"), with_alpha) == np.uint16
    with pytest.raises(ImageError, match="JPEG has no 16 bits per channel"):
        write_image(Path("a.jpg"), deep)


def test_sixteen_bit_colour_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(rgb16_png(3, 4))
    result = read_image(path)
    assert result.pixels.dtype == np.uint16
    assert result.pixels[0, 0].tolist() == [0x0001, 0x0203, 0x0405]
    assert result.notes == ()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bits_of_colour_and_alpha_survive(
    tmp_path: Path, suffix: str, channels: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (19, 31, channels), dtype=np.uint16)
    profile = rgb_profile() if channels > 2 else grey_profile()
    upright = XMP.replace(b'tation="6"', b'tation="1"')
    image = Image(pixels, profile, xmp=upright, dpi=(300, 300))
    assert write_image(tmp_path / f"a[1]{suffix}", image) == ()
    result = read_image(tmp_path / f"a[1]{suffix}")
    assert np.array_equal(result.array, pixels)
    assert result.icc_profile == profile
    assert result.xmp is not None
    assert b"a photo" in result.xmp
    assert result.dpi == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".avif"])
def test_deep_pixels_keep_their_exif(tmp_path: Path, suffix: str) -> None:
    exif = Pillow.Exif()
    exif[ExifTags.Base.Make] = "maker"
    image = Image(np.zeros((4, 5, 3), np.uint16), exif=exif.tobytes())
    assert write_image(tmp_path / f"a{suffix}", image) == ()
    kept = Pillow.Exif()
    kept.load(read_image(tmp_path / f"a{suffix}").exif)
    assert kept[ExifTags.Base.Make] == "maker"


@pytest.mark.parametrize("channels", [1, 3])
def test_an_avif_of_12_bits_has_black_and_white(tmp_path: Path, channels: int) -> None:
    ramp = np.linspace(0, 65535, 200).round().astype(np.uint16)
    pixels = ramp[None, :, None].repeat(20, axis=0).repeat(channels, axis=2)
    write_image(tmp_path / "a.avif", Image(pixels), quality=100)
    result = read_image(tmp_path / "a.avif")
    assert result.array.dtype == np.uint16
    assert np.abs(result.pixels.astype(int) - pixels).max() < 65535 / 256 / 2
    assert result.pixels.max() > 65535 * 0.999


@pytest.mark.parametrize("bits", [10, 12])
def test_a_deep_heic_is_read_deep(tmp_path: Path, bits: int) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    ramp = np.linspace(0, 65535, 400).astype(np.uint16)[None, :, None]
    pixels = np.ascontiguousarray(ramp.repeat(64, axis=0).repeat(3, axis=2))
    deep = pillow_heif.from_bytes("RGB;16", (400, 64), pixels.tobytes())
    pillow_heif.options.SAVE_HDR_TO_12_BIT = bits == 12
    try:
        deep.save(tmp_path / "a.heic", quality=-1)
    finally:
        pillow_heif.options.SAVE_HDR_TO_12_BIT = False
    result = read_image(tmp_path / "a.heic")
    assert result.notes == ()
    assert result.array.dtype == np.uint16
    assert len(np.unique(result.pixels)) > 350
    assert np.abs(result.pixels.astype(int) - pixels).max() < 65535 / 256
    assert result.pixels.max() > 65535 * 0.998


def test_palettes_become_rgb_and_keep_transparency(tmp_path: Path) -> None:
    pixels = np.array([[0, 1], [2, 1]], np.uint8)
    palette = Pillow.fromarray(pixels).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "a.png")
    opaque = read_image(tmp_path / "a.png")
    assert opaque.pixels[0].tolist() == [[255, 0, 0], [0, 255, 0]]
    assert opaque.alpha is None
    for name in ("a.png", "a.gif"):
        palette.save(tmp_path / name, transparency=1)
        clear = read_image(tmp_path / name)
        assert clear.pixels[1, 0].tolist() == [0, 0, 255]
        assert clear.alpha is not None
        assert clear.alpha.tolist() == [[255, 0], [255, 0]]


def test_bitmaps_and_black_and_white_are_read(tmp_path: Path) -> None:
    pixels = smooth()
    assert np.array_equal(read_image(save(tmp_path / "a.bmp", pixels)).pixels, pixels)
    Pillow.fromarray(smooth(channels=1)).convert("1").save(tmp_path / "b.png")
    result = read_image(tmp_path / "b.png")
    assert result.pixels.shape == (32, 40, 1)
    assert {*np.unique(result.pixels)} == {0, 255}


def test_cmyk_becomes_rgb_with_a_warning(tmp_path: Path) -> None:
    Pillow.fromarray(smooth()).convert("CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    result = read_image(tmp_path / "a.jpg")
    assert difference(result.pixels, smooth()) < 4
    assert result.notes == ("CMYK without a usable colour profile: the colours are approximate",)


def test_pixels_of_32_bits_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.zeros((3, 3), np.float32))
    with pytest.raises(ImageError, match=r"a\.tif: pixels of type 'F' are not supported"):
        read_image(path)


@pytest.mark.parametrize("size", [(1, 1), (3, 20_000), (20_000, 3)])
def test_extreme_shapes(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.full((*size, 3), 77, np.uint8)
    write_image(tmp_path / "a.png", Image(pixels))
    assert np.array_equal(read_image(tmp_path / "a.png").pixels, pixels)


# ---- What goes with the pixels


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_reset(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:12, :20], upright[:12, 20:], upright[12:, :20] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    turn = {
        2: Pillow.Transpose.FLIP_LEFT_RIGHT,
        3: Pillow.Transpose.ROTATE_180,
        4: Pillow.Transpose.FLIP_TOP_BOTTOM,
        5: Pillow.Transpose.TRANSPOSE,
        6: Pillow.Transpose.ROTATE_90,
        7: Pillow.Transpose.TRANSVERSE,
        8: Pillow.Transpose.ROTATE_270,
    }
    stored = Pillow.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(turn[orientation])
    exif = Pillow.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored.save(tmp_path / f"a{suffix}", exif=exif, quality=95)
    image = read_image(tmp_path / f"a{suffix}")
    assert image.size == (24, 40)
    assert difference(image.pixels, upright) < 8
    write_image(tmp_path / f"b{suffix}", image)
    with Pillow.open(tmp_path / f"b{suffix}") as written:
        assert written.getexif().get(ExifTags.Base.Orientation, 1) == 1
        assert difference(np.asarray(written), upright) < 8


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("source", [".jpg", ".tif"])
def test_exif_is_kept(tmp_path: Path, source: str, suffix: str) -> None:
    exif = Pillow.Exif()
    exif[ExifTags.Base.Model] = "camera"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
    details[ExifTags.Base.ExifImageWidth] = 1
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    save(tmp_path / f"a{source}", smooth(), exif=exif.tobytes())
    write_image(tmp_path / f"b{suffix}", read_image(tmp_path / f"a{source}"))
    with Pillow.open(tmp_path / f"b{suffix}") as written:
        result = written.getexif()
        details = result.get_ifd(ExifTags.IFD.Exif)
        assert result[ExifTags.Base.Model] == "camera"
        assert details[ExifTags.Base.DateTimeOriginal] == "2024:05:06 07:08:09"
        assert details[ExifTags.Base.ExifImageWidth] == 40
        assert result.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
    assert difference(read_image(tmp_path / f"b{suffix}").pixels, smooth()) < 2


@pytest.mark.parametrize("rubbish", [b"rubbish", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_is_dropped_with_a_warning(tmp_path: Path, rubbish: bytes) -> None:
    path = save(tmp_path / "a.jpg", smooth(), exif=b"Exif\0\0" + rubbish)
    image = read_image(path)
    assert image.exif is None
    assert "the EXIF data is damaged: it is dropped" in image.notes


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_resolution_is_kept(tmp_path: Path, suffix: str) -> None:
    image = read_image(save(tmp_path / f"a{suffix}", smooth(), dpi=(300, 300)))
    write_image(tmp_path / f"b{suffix}", image)
    with Pillow.open(tmp_path / f"b{suffix}") as written:
        assert written.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_grey_is_transparent_in_a_gif(tmp_path: Path) -> None:
    pixels = np.full((8, 9, 2), 200, np.uint8)
    pixels[4:, :, 1] = 0
    write_image(tmp_path / "a.gif", Image(pixels))
    result = read_image(tmp_path / "a.gif")
    assert np.array_equal(result.array[..., 3], np.where(pixels[..., 1] > 127, 255, 0))
    assert (result.array[:4, :, :3] == 200).all()


@pytest.mark.parametrize("channels", [1, 2])
def test_deep_grey_with_a_profile_keeps_its_brightness_in_an_avif(
    tmp_path: Path, channels: int
) -> None:
    """libvips has no grey ones: what is half of the light in a linear profile is 188 of sRGB."""
    pixels = np.full((16, 16, channels), 65_535, np.uint16)
    pixels[..., 0] = 65_535 // 2
    write_image(tmp_path / "a.avif", Image(pixels, grey_profile(1.0)))
    result = read_image(tmp_path / "a.avif")
    assert np.abs(result.array[..., 0] / 257 - 187.5).max() < 1


def test_large_grey_with_a_profile_keeps_its_brightness_in_an_avif(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "IN_MEMORY", 100)
    write_image(tmp_path / "a.avif", Image(np.full((16, 16, 1), 127, np.uint8), grey_profile(1.0)))
    assert np.abs(read_image(tmp_path / "a.avif").array[..., 0].astype(int) - 187).max() <= 1


@pytest.mark.parametrize("block", [7, 10_000_000])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("how", ["bare", "full", "long"])
def test_a_large_jpeg_says_what_a_small_one_does(
    tmp_path: Path, block: int, channels: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Pillow.Exif()
    exif[0x10F] = "NIKON"
    exif[0x4746] = 5  # a rating
    exif[65_000] = "private"
    exif.get_ifd(ExifTags.IFD.Exif)[0x927C] = b"Nikon\0\2\x10\0\0MM\0*\0\0\0\x08\0\0"
    length = 65_502 if how == "long" else 500
    said = {
        "exif": exif.tobytes(),
        "xmp": XMP + b" " * (length - len(XMP)),
        "iptc": b"\x1c\x02\x78\0\x07caption",
        "dpi": (300.0, 150.0),
        "texts": (("Comment", "J\xfcrgen"),),
    }
    profile = grey_profile(2.2) if channels == 1 else rgb_profile()
    image = Image(photo(40, 30)[..., :channels], profile, **({} if how == "bare" else said))
    monkeypatch.setattr(words, "BLOCK", block)
    for name, limit in (("small", 10**9), ("large", 0)):
        monkeypatch.setattr(store, "IN_MEMORY", limit)
        assert write_image(tmp_path / f"{name}.jpg", image) == ()
    small, large = (Pillow.open(tmp_path / f"{name}.jpg") for name in ("small", "large"))
    assert dict(large.info) == dict(small.info)
    assert ("exif" in large.info) == (how != "bare")
    assert (large.mode, large.size) == (small.mode, small.size)
    assert difference(np.asarray(large), np.asarray(small)) < 1


def test_jpegs_and_tiffs_are_written_in_strips_sooner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RESIDENT", 100)
    by_vips: list[str] = []
    encode = vips.encode
    monkeypatch.setattr(
        vips,
        "encode",
        lambda path, *args, **how: (by_vips.append(path.name), encode(path, *args, **how)),
    )
    for suffix in ALL:
        write_image(tmp_path / f"a{suffix}", Image(photo(40, 30)))
    assert len(by_vips) == len([s for s in ALL if s in (".jpg", ".jpeg", ".tif", ".tiff")])


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("dpi", [None, (300.0, 150.0)])
def test_a_large_png_keeps_exif_as_it_is(
    tmp_path: Path, deep: bool, dpi: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "IN_MEMORY", 0)
    exif = Pillow.Exif()
    exif[0x4746] = 5
    dtype = np.uint16 if deep else np.uint8
    texts = (("Title", "a photo"),)
    image = Image(photo(9, 8).astype(dtype), exif=exif.tobytes(), texts=texts, dpi=dpi)
    write_image(tmp_path / "a.png", image)
    read = read_image(tmp_path / "a.png")
    assert read.exif == exif.tobytes()
    assert np.array_equal(read.array, image.array)
    with Pillow.open(tmp_path / "a.png") as written:
        written.load()
        assert written.info["exif"] == exif.tobytes()
        assert written.text == {"Title": "a photo"}
        assert written.info.get("dpi") == (None if dpi is None else pytest.approx(dpi, abs=0.02))


def test_grey_of_twelve_bits(tmp_path: Path) -> None:
    levels = np.array([0, 1, 2048, 4095])
    bits = "".join(f"{level:012b}" for level in levels)
    data = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    stored = np.frombuffer(data, np.uint8).reshape(1, len(data), 1)
    for photometric in (1, 0):
        whole = tiff(stored, photometric)
        for tag, kind, before, after in ((256, 4, len(data), 4), (258, 3, 8, 12)):
            old, new = (struct.pack("<HHII", tag, kind, 1, value) for value in (before, after))
            assert old in whole
            whole = whole.replace(old, new)
        (tmp_path / f"{photometric}.tif").write_bytes(whole)
    image = read_image(tmp_path / "1.tif")
    assert image.array[0, :, 0].tolist() == np.rint(levels * (65_535 / 4_095)).tolist()
    with pytest.raises(ImageError, match="it is of a kind that cannot be read"):
        read_image(tmp_path / "0.tif")


def test_a_png_may_have_a_large_profile(tmp_path: Path) -> None:
    profile = rgb_profile()
    data = np.random.default_rng(0).integers(0, 256, 1_200_000, np.uint8).tobytes()
    profile = struct.pack(">I", len(profile) + len(data)) + profile[4:] + data
    write_image(tmp_path / "a.png", Image(photo(5, 6), profile))
    result = read_image(tmp_path / "a.png")
    assert (result.icc_profile, result.notes) == (profile, ())


def test_what_a_jpeg_has_beside_its_picture_is_told(tmp_path: Path) -> None:
    packet = XMP.replace(b" tiff:O", b' xmpNote:HasExtendedXMP="ABCD" tiff:O')
    save(tmp_path / "a.jpg", smooth(), xmp=packet)
    content = b"http://ns.adobe.com/xmp/extension/\0" + b"ABCD" * 8 + bytes(8) + b"more"
    segment = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    plain = (tmp_path / "a.jpg").read_bytes()
    at = plain.index(b"\xff\xdb")
    (tmp_path / "a.jpg").write_bytes(plain[:at] + segment + plain[at:])
    image = read_image(tmp_path / "a.jpg")
    assert image.notes == ("the extended part of its XMP is dropped",)
    assert image.xmp is not None
    assert b"HasExtendedXMP" not in image.xmp
    assert b"a photo" in image.xmp
    first, second = (Pillow.fromarray(smooth(*size)) for size in ((32, 40), (8, 8)))
    first.save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[second])
    (note,) = read_image(tmp_path / "b.jpg").notes
    assert note == "the pictures behind the first one (previews, a gain map) are dropped"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("how", ["small", "large", "deep"])
def test_no_resolution_is_made_up(
    tmp_path: Path, suffix: str, channels: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvips, which writes what is large or deep, would say 72, some of it in EXIF of its own."""
    if suffix == ".jpg" and channels == 2:
        pytest.skip("JPEG has no transparency")
    if suffix in (".jpg", ".webp") and how == "deep":
        pytest.skip("no 16 bits")
    if how == "large":
        monkeypatch.setattr(store, "IN_MEMORY", 100)
    dtype = np.uint16 if how == "deep" else np.uint8
    path = tmp_path / f"a{suffix}"
    write_image(path, Image(np.full((9, 8, channels), 77, dtype)))
    image = read_image(path)
    assert image.dpi is None
    assert image.array.shape[:2] == (9, 8)
    if not (suffix == ".tif" and how == "deep" and channels == 2):  # Pillow does not open it.
        with Pillow.open(path) as written:
            assert not {282, 283, 296} & set(written.getexif())
            written.load()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_a_wide_gamut_profile_keeps_its_colours(tmp_path: Path, suffix: str) -> None:
    profile = rgb_profile()
    patches = np.array([(255, 0, 0), (0, 255, 0), (128, 128, 128), (10, 10, 30)], np.uint8)
    pixels = patches.repeat(16, axis=0)[None].repeat(16, axis=0)
    save(tmp_path / "a.png", pixels, icc_profile=profile)
    write_image(tmp_path / f"b{suffix}", read_image(tmp_path / "a.png"), quality=100)
    with Pillow.open(tmp_path / f"b{suffix}") as written:
        assert written.info["icc_profile"] == profile
        flat = np.asarray(written)[8, 8::16].astype(int)
    assert np.abs(flat - patches).max() <= (0 if suffix in LOSSLESS else 1)


def test_grey_keeps_its_profile(tmp_path: Path) -> None:
    save(tmp_path / "a.png", smooth(channels=1), icc_profile=grey_profile())
    image = read_image(tmp_path / "a.png")
    assert image.icc_profile == grey_profile()
    assert image.notes == ()


@pytest.mark.parametrize("profile", [b"rubbish", rgb_profile()[:150], grey_profile()])
def test_a_profile_that_cannot_be_used_is_dropped_with_a_warning(
    tmp_path: Path, profile: bytes
) -> None:
    image = read_image(save(tmp_path / "a.jpg", smooth(), icc_profile=profile))
    assert image.icc_profile is None
    assert image.notes == (
        "the colour profile is damaged or of another colour space: it is dropped",
    )


def test_cmyk_with_a_profile_is_converted_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CMYK profile is at hand: an RGB conversion stands in, and must be called."""
    used = []

    def convert(picture: Pillow.Image, profile: object) -> Pillow.Image:
        used.append(profile)
        return Pillow.new("RGB", picture.size, (1, 2, 3))

    picture = Pillow.new("CMYK", (2, 2))
    picture.info["icc_profile"] = b"cmyk"
    stand_in = ImageCms.createProfile("sRGB")
    monkeypatch.setattr(image_module, "open_profile", lambda *_: stand_in)
    monkeypatch.setattr(image_module, "to_srgb", convert)
    image = from_pillow(picture)
    assert used == [stand_in]
    assert image.pixels[0, 0].tolist() == [1, 2, 3]
    assert image.icc_profile is None


# ---- Bad input


def assert_refused(path: Path, match: str, **options: int) -> None:
    with pytest.raises(ImageError, match=match) as caught:
        read_image(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_an_image_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.png", "there is no such file")
    assert_refused(tmp_path, "it is a folder")
    (tmp_path / "empty.png").touch()
    assert_refused(tmp_path / "empty.png", "the file is empty")
    (tmp_path / "text.jpg").write_text("This is not a picture.")
    assert_refused(tmp_path / "text.jpg", "it is not an image that can be read .PNG, JPEG")
    os.mkfifo(tmp_path / "pipe.png")
    assert_refused(tmp_path / "pipe.png", "it is not a regular file")


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", smooth())

    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    assert_refused(path, "permission denied$")


def picture_or_sentence(path: Path) -> Image | None:
    """The image, or nothing after an error that is fit to be shown."""
    try:
        return read_image(path, max_pixels=10**6)
    except ImageError as error:
        message = str(error)
    assert str(path) in message
    assert "\n" not in message
    return None


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif", ".bmp"])
def test_a_truncated_file_fails_and_never_gives_grey_rows(tmp_path: Path, suffix: str) -> None:
    whole = save(tmp_path / f"whole{suffix}", photo(48, 64))
    data = whole.read_bytes()
    expected = read_image(whole).pixels
    path = tmp_path / f"cut{suffix}"
    refused = 0
    for share in np.linspace(0.01, 0.99, 40):
        path.write_bytes(data[: int(len(data) * share)])
        result = picture_or_sentence(path)
        refused += result is None
        assert result is None or np.array_equal(result.pixels, expected)
    assert refused >= 36


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_png_with_damaged_pixels_is_refused(tmp_path: Path, share: float) -> None:
    """Pillow tells it once only, and looking for EXIF behind the pixels was that time."""
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Pillow.fromarray(noise).save(path)
    data = bytearray(path.read_bytes())
    where = int(len(data) * share)
    data[where : where + 20] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"photo\.png: the file is damaged"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif", ".gif"])
def test_damaged_files_give_a_picture_or_a_sentence(tmp_path: Path, suffix: str) -> None:
    data = bytearray(save(tmp_path / f"a{suffix}", photo(24, 32)).read_bytes())
    random = np.random.default_rng(0)
    path = tmp_path / f"b{suffix}"
    for _ in range(60):
        damaged = bytearray(data)
        for where in random.integers(0, len(data), 3):
            damaged[where] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        result = picture_or_sentence(path)
        assert result is None or min(result.size) > 0


def test_large_images_need_leave(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", smooth(50, 60))
    assert_refused(path, "60x50 are 3,000 pixels, more than the limit of 2,999", max_pixels=2999)
    assert_refused(path, "--max-pixels allows more", max_pixels=2999)
    assert read_image(path, max_pixels=3000).size == (50, 60)


def test_beyond_pillows_own_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 100)
    path = save(tmp_path / "a.png", smooth(50, 60))
    assert read_image(path, max_pixels=3000).size == (50, 60)
    assert Pillow.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    ("suffix", "what"),
    [(".gif", "frames"), (".webp", "frames"), (".png", "frames"), (".tif", "pages")],
)
def test_more_than_one_picture_is_refused(tmp_path: Path, suffix: str, what: str) -> None:
    frames = [Pillow.fromarray(photo(8, 8)).rotate(90 * turn) for turn in range(3)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    assert_refused(tmp_path / f"a{suffix}", f"it has 3 {what}; only single images")


def test_a_cameras_two_picture_jpeg_is_read(tmp_path: Path) -> None:
    frames = [Pillow.fromarray(smooth()), Pillow.fromarray(smooth(8, 8))]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:], quality=95)
    with Pillow.open(tmp_path / "a.jpg") as picture:
        assert picture.format == "MPO"
    assert difference(read_image(tmp_path / "a.jpg").pixels, smooth()) < 2


def test_a_decoder_that_needs_too_much_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(_: object) -> None:
        raise MemoryError

    path = save(tmp_path / "a.bmp", smooth())
    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", greedy)
    assert_refused(path, "not enough memory")


# ---- Writing


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_existing_file_is_kept_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, Image(smooth()))
    before = path.read_bytes()
    with pytest.raises(ImageError, match=r"a\.png exists .--overwrite replaces it"):
        write_image(path, Image(photo(5, 5)))
    assert path.read_bytes() == before
    write_image(path, Image(photo(5, 5)), overwrite=True)
    assert read_image(path).size == (5, 5)
    assert leftovers(tmp_path) == ["a.png"]


def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    monkeypatch.setattr(outfile.os, "fsync", lambda _: path.write_text("somebody else's"))
    with pytest.raises(ImageError, match="exists"):
        write_image(path, Image(smooth()))
    assert path.read_text() == "somebody else's"
    assert leftovers(tmp_path) == ["a.png"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    path = tmp_path / "a.png"
    path.write_text("the old one")
    monkeypatch.setattr(outfile.os, "fsync", full)
    with pytest.raises(ImageError, match=f"cannot write .*a.png: {os.strerror(code).lower()}"):
        write_image(path, Image(smooth()), overwrite=True)
    assert leftovers(tmp_path) == ["a.png"]
    assert path.read_text() == "the old one"


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(outfile.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "a.png", Image(smooth()))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_real_lack_of_room(tmp_path: Path, suffix: str, dtype: type) -> None:
    """The system refuses to make a file larger than 10 kB, as it would on a full disk."""
    image = Image(np.random.default_rng(0).integers(0, 256, (100, 100, 3)).astype(dtype))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(ImageError, match=r"^cannot write .*a\.(png|tif): .*"):
            write_image(tmp_path / f"a{suffix}", image)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert leftovers(tmp_path) == []


def test_folders_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match="there is no folder"):
        write_image(tmp_path / "none" / "a.png", Image(smooth()))
    (tmp_path / "b.png").mkdir()
    with pytest.raises(ImageError, match="it is a folder"):
        write_image(tmp_path / "b.png", Image(smooth()), overwrite=True)
    monkeypatch.setattr(outfile.os, "access", lambda *_: False)
    with pytest.raises(ImageError, match="the folder is read-only"):
        write_image(tmp_path / "a.png", Image(smooth()))


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write '\.bmp' images"):
        write_image(tmp_path / "a.bmp", Image(smooth()))
    assert not holds_alpha(Path("a.jpg"))
    with pytest.raises(ImageError, match="JPEG has no transparency"):
        write_image(tmp_path / "a.jpg", Image(smooth(channels=4)))
    with pytest.raises(ImageError, match="WEBP holds at most 16383 pixels a side"):
        write_image(tmp_path / "a.webp", Image(np.zeros((1, 16_384, 3), np.uint8)))
    with pytest.raises(ImageError, match="16 bits per channel"):
        write_image(tmp_path / "a.webp", Image(np.zeros((2, 2, 3), np.uint16)))
    assert leftovers(tmp_path) == []


def test_files_get_the_users_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_image(tmp_path / "a.png", Image(smooth()))
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_permissions_of_a_file_that_is_replaced_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch()
    path.chmod(0o600)
    write_image(path, Image(smooth()), overwrite=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_image(path).size == (32, 40)


def test_a_name_as_long_as_the_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 125 + ".png")
    write_image(path, Image(smooth()))
    assert read_image(path).size == (32, 40)


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 300 + ".png")
    assert_refused(path, "file name too long")
    with pytest.raises(ImageError, match="file name too long"):
        write_image(path, Image(smooth()))
    assert leftovers(tmp_path) == []


def test_pillow_images_in_memory() -> None:
    picture = Pillow.open(io.BytesIO(rgb16_png(2, 2)))
    assert from_pillow(picture).size == (2, 2)
    with pytest.raises(ImageError, match="'F' are not supported"):
        from_pillow(Pillow.new("F", (2, 2)))
