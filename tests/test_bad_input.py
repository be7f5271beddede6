"""Whatever a file holds: its picture, exactly, or one sentence; and nothing on stderr."""

from __future__ import annotations

import functools
import io
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from corpus import GREY, KINDS, PALETTE, RGB, chunk, drawing, png, rows, tiff
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import exif_of_a_camera, photo, rgb_profile
from PIL import Image as Pillow
from PIL import PngImagePlugin
from torch import Tensor, nn

from sruplift import store, vips
from sruplift.animation import Animation, read_picture
from sruplift.errors import ImageError, SrupliftError
from sruplift.image import Image, write_image
from sruplift.png import SIGNATURE
from sruplift.reading import read_image
from sruplift.upscale import upscale_file
from sruplift.upscaler import Upscaler

MOST = 10**6


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")


@functools.cache
def twice() -> Upscaler:
    return Upscaler(
        Twice(), scale=2, device="cpu", precision="fp32", max_pixels=MOST, overwrite=True
    )


@pytest.fixture(params=["Pillow", "libvips"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who decodes what either could: for libvips everything is too large for the memory."""
    if request.param == "libvips":
        monkeypatch.setattr(store, "IN_MEMORY", 0)
        monkeypatch.setattr(vips, "STRIP", 20)
    return request.param


def put(folder: Path, data: bytes, name: str = "a.png") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refused(path: Path, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        read_picture(path, max_pixels=MOST, folder=path.parent)
    assert str(caught.value).startswith(f"cannot read {path}: ")
    assert "\n" not in str(caught.value)


# ---- PNGs as they should be


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("interlace", [False, True])
@pytest.mark.parametrize(
    ("colour", "depth", "transparent"),
    [(*kind, hidden) for hidden in (False, True) for kind in KINDS if not hidden or kind[0] < 4],
)
def test_every_kind_of_png(
    tmp_path: Path, colour: int, depth: int, interlace: bool, transparent: bool
) -> None:
    """PngSuite's basn*, basi*, tb*, tp*, s??n3p??, s??i3p??: against samples that are known."""
    for height, width in [(32, 32), (1, 1), (1, 9), (9, 1), *((n, 10 - n) for n in range(2, 9))]:
        drawn = drawing(colour, depth, height, width, transparent=transparent)
        path = put(tmp_path, png(drawn, interlace=interlace))
        image = read_image(path, folder=tmp_path)
        assert image.notes == ()
        assert image.array.dtype == drawn.pixels.dtype
        assert np.array_equal(image.array, drawn.pixels)


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("filters", [(0,), (1,), (2,), (3,), (4,), (4, 0, 3, 1, 2)])
@pytest.mark.parametrize(
    ("colour", "depth"), [(GREY, 1), (PALETTE, 4), (RGB, 8), (RGB, 16), (6, 16)]
)
def test_every_filter(tmp_path: Path, colour: int, depth: int, filters: tuple[int, ...]) -> None:
    """PngSuite's f*."""
    drawn = drawing(colour, depth, 7, 9)
    for interlace in (False, True):
        path = put(tmp_path, png(drawn, interlace=interlace, filters=filters))
        assert np.array_equal(read_image(path, folder=tmp_path).array, drawn.pixels)


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("depth", [8, 16])
def test_compression_and_chunks_change_no_pixel(tmp_path: Path, depth: int) -> None:
    """PngSuite's z*, oi*, g*, bg*, c*: levels, split pixels, gamma, background, and the others."""
    drawn = drawing(RGB, depth, 9, 7)
    plain = [
        chunk(b"gAMA", struct.pack(">I", 100_000)),
        chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
        chunk(b"sBIT", bytes([5, 6, 5])),
        chunk(b"sPLT", b"name\0" + bytes([8]) + bytes(6)),
    ]
    middle = [
        chunk(b"bKGD", struct.pack(">3H", 0, 9, 200)),
        chunk(b"pHYs", struct.pack(">IIB", 3, 1, 0)),
    ]
    anywhere = [
        chunk(b"tIME", struct.pack(">HBBBBB", 1999, 12, 31, 23, 59, 59)),
        chunk(b"tEXt", b"Title\0a picture"),
        chunk(b"zTXt", b"Title\0\0" + zlib.compress(b"a picture" * 99)),
        chunk(b"iTXt", b"Title\0\0\0fi\0Otsikko\0" + "ä".encode()),
        chunk(b"unKn", b"whatever"),
        chunk(b"idAt", b""),
    ]
    ways: list[dict[str, object]] = [{"level": level} for level in range(10)]
    ways += [{"idat": 1}, {"idat": 7}]
    ways += [{"before": each} for each in (*plain, *anywhere)]
    ways += [{"between": each} for each in (*middle, *anywhere)]
    ways += [{"after": each} for each in anywhere]
    ways += [{"before": b"".join(plain), "between": b"".join(middle), "after": b"".join(anywhere)}]
    for way in ways:
        path = put(tmp_path, png(drawn, **way))  # type: ignore[arg-type]
        assert np.array_equal(read_image(path, folder=tmp_path).array, drawn.pixels), way


# ---- PNGs as they should not be


def header(
    width: int = 9, height: int = 9, depth: int = 8, colour: int = RGB, **rest: int
) -> bytes:
    layout = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, rest.get("interlace", 0))
    return chunk(b"IHDR", layout, rest.get("checksum"))


@functools.cache
def broken_pngs() -> dict[str, tuple[bytes, str]]:
    """PngSuite's x*, and those of libpng's ``crashers`` that are not fixed in any decoder."""
    drawn = drawing(RGB, 8, 9, 9)
    whole = png(drawn)
    content = zlib.compress(rows(drawn))
    no_image, no_format = "it is not an image|damaged", "it is not an image that can be read"

    def pixels(data: bytes, checksum: int | None = None) -> bytes:
        return SIGNATURE + header() + chunk(b"IDAT", data, checksum) + chunk(b"IEND")

    bomb = zlib.compress(bytes(2**27), 9)
    return {
        "first byte": (b"\x88" + whole[1:], no_format),
        "second byte": (whole[:1] + b"Q" + whole[2:], no_format),
        "ends of lines as on Unix": (whole.replace(b"\r\n", b"\n"), no_format),
        "ends of lines as on a Mac": (whole.replace(b"\r\n", b"\r"), no_format),
        "a byte of 7 bits": (bytes([whole[0] & 127]) + whole[1:], no_format),
        "colour type 1": (png(drawn, header=header(colour=1)), no_image),
        "colour type 9": (png(drawn, header=header(colour=9)), no_image),
        "depth 0": (png(drawn, header=header(depth=0)), no_image),
        "depth 3": (png(drawn, header=header(depth=3)), no_image),
        "depth 99": (png(drawn, header=header(depth=99)), no_image),
        "checksum of the header": (png(drawn, header=header(checksum=1)), no_image),
        "no header": (png(drawn, header=b""), no_image),
        "a short header": (png(drawn, header=chunk(b"IHDR", bytes(5))), no_image),
        "no width": (png(drawn, header=header(width=0)), no_image),
        "no height": (png(drawn, header=header(height=0)), no_image),
        "enormous": (png(drawn, header=header(2**31 - 1, 2**31 - 1)), "more than the limit of"),
        "large": (png(drawn, header=header(999, 999)), "damaged"),
        "checksum of the pixels": (pixels(content, 1), "damaged .*wrong checksum in IDAT"),
        "no pixels": (SIGNATURE + header() + chunk(b"IEND"), "damaged"),
        "nothing in the pixels": (pixels(b""), "damaged"),
        "no rows": (pixels(zlib.compress(b"")), "damaged .a part of its pixels is missing"),
        "a row too few": (pixels(zlib.compress(rows(drawn)[:-28])), "damaged"),
        "a byte too few": (pixels(zlib.compress(rows(drawn)[:-1])), "damaged"),
        "no deflate": (pixels(b"pixels" * 50), "damaged"),
        "checksum of the stream": (pixels(content[:-1] + bytes([content[-1] ^ 1])), "damaged"),
        "a filter that is none": (pixels(zlib.compress(b"\x09" + rows(drawn)[1:])), "damaged"),
        "no palette": (png(drawing(GREY, 8, 9, 9), header=header(colour=PALETTE)), "no palette"),
        "a profile that swells": (
            png(drawn, before=chunk(b"iCCP", b"a\0\0" + bomb)),
            "damaged .*too large",
        ),
        "a text that swells": (png(drawn, before=chunk(b"zTXt", b"a\0\0" + bomb)), "damaged"),
        "XMP that swells": (
            png(drawn, after=chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb)),
            "damaged",
        ),
        "a length beyond the end": (
            SIGNATURE + header() + b"\x7f\xff\xff\xffIDAT" + content[:40],
            "damaged",
        ),
    }


@pytest.mark.parametrize("fault", broken_pngs())
def test_a_broken_png_is_a_sentence(
    tmp_path: Path, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data, said = broken_pngs()[fault]
    refused(put(tmp_path, data), said)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("interlace", [False, True])
def test_rows_that_are_missing_are_never_black(tmp_path: Path, depth: int, interlace: bool) -> None:
    """Pillow is content with a stream that ends well, however little was in it."""
    drawn = drawing(RGB, depth, 9, 9)
    content = rows(drawn, interlace=interlace)
    for length in range(0, len(content), 11):
        packed = chunk(b"IDAT", zlib.compress(content[:length]))
        start = header(depth=depth, interlace=interlace)
        refused(put(tmp_path, SIGNATURE + start + packed + chunk(b"IEND")), "the file is damaged")


def test_frames_of_an_apng_are_checked(tmp_path: Path) -> None:
    frames = [Pillow.fromarray(np.roll(photo(12, 16), step, 1)) for step in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], compress_level=0)
    data = (tmp_path / "a.png").read_bytes()
    assert isinstance(read_picture(tmp_path / "a.png"), Animation)
    last = data.rindex(b"fdAT")
    changed = data[: last + 40] + bytes([data[last + 40] ^ 1]) + data[last + 41 :]
    refused(put(tmp_path, changed, "b.png"), "the file is damaged")
    numbers = data.replace(b"fcTL\0\0\0\1", b"fcTL\0\0\0\7")
    refused(put(tmp_path, numbers, "c.png"), "damaged")
    begins = data.rindex(b"fcTL") + 34
    part = chunk(b"fdAT", data[begins + 8 : begins + 12] + zlib.compress(bytes(40)))
    refused(put(tmp_path, data[:begins] + part + chunk(b"IEND"), "e.png"), "part of its pixels")
    many = data.replace(b"acTL\0\0\0\3", b"acTL\xff\xff\xff\xff")
    refused(put(tmp_path, many, "d.png"), "damaged|not an image|more than the limit")


def test_what_libvips_logs_in_other_alphabets(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Python's log would stumble over it."""
    profile = rgb_profile()
    odd = zlib.compress(profile[:16] + b"\xa3GB " + profile[20:])
    drawn = drawing(RGB, 16, 6, 5)
    path = put(tmp_path, png(drawn, before=chunk(b"iCCP", b"a\xa3\xe9\0\0" + odd)))
    image = read_image(path)
    assert np.array_equal(image.array, drawn.pixels)
    assert capfd.readouterr() == ("", "")


# ---- JPEG


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(photo(48, 64)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


WAYS: list[dict[str, object]] = [{}, {"progressive": True}, {"restart_marker_rows": 1}]


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("options", WAYS)
def test_a_jpeg_that_was_cut_and_closed_is_refused(
    tmp_path: Path, options: dict[str, object]
) -> None:
    """libjpeg fills the rest with grey, and Pillow does not tell."""
    data = jpeg(**options)
    start = data.index(b"\xff\xda") + 20
    for cut in np.linspace(start, len(data) - 60, 12).astype(int):
        if options.get("progressive") and data[cut - 1] == 0xFF:
            continue
        refused(
            put(tmp_path, data[:cut] + b"\xff\xd9", "a.jpg"),
            "the file is damaged .*(premature end|truncated)",
        )


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("options", WAYS)
def test_what_lies_behind_a_jpeg_is_no_damage(tmp_path: Path, options: dict[str, object]) -> None:
    data = jpeg(**options)
    whole = read_image(put(tmp_path, data, "a.jpg"), folder=tmp_path)
    assert whole.notes == ()
    for extra in (b"\0" * 100, b"a note of a camera", data):
        image = read_image(put(tmp_path, data + extra, "b.jpg"), folder=tmp_path)
        assert np.array_equal(image.array, whole.array)
        assert image.notes == ()


def test_bytes_that_libjpeg_skips_are_told(tmp_path: Path) -> None:
    data = jpeg(progressive=True)
    image = read_image(put(tmp_path, data[:-2] + bytes(50) + data[-2:], "a.jpg"))
    (note,) = image.notes
    assert note.startswith("the file may be damaged (Corrupt JPEG data: ")
    assert "extraneous bytes before marker 0xd9" in note


def test_libvips_gives_its_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings come before it: what stopped it is behind them."""
    monkeypatch.setattr(store, "IN_MEMORY", 0)
    data = jpeg()
    start = data.index(b"\xff\xc4")
    skipped = data[:start] + bytes(20) + data[start:]
    refused(
        put(tmp_path, skipped[: start + 20], "a.jpg"),
        "the file is damaged .*(premature end|truncated)|missing",
    )
    bad = skipped[: start + 24] + b"\xff" + skipped[start + 25 :]
    refused(put(tmp_path, bad, "b.jpg"), r"damaged \((?!Corrupt)")


def test_cmyk_with_a_profile_that_is_hollow(tmp_path: Path) -> None:
    """Its header says CMYK; there is nothing behind it that could convert."""
    profile = bytearray(rgb_profile())
    profile[16:20] = b"CMYK"
    picture = Pillow.fromarray(photo(8, 8)).convert("CMYK")
    picture.save(tmp_path / "a.jpg", icc_profile=bytes(profile))
    image = read_image(tmp_path / "a.jpg")
    assert image.notes == ("CMYK without a usable colour profile: the colours are approximate",)
    assert image.icc_profile is None


# ---- TIFF


def samples(channels: int, dtype: type, height: int = 6, width: int = 5) -> np.ndarray:
    random = np.random.default_rng(channels)
    return random.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_a_tiffs_channels_mean(tmp_path: Path, dtype: type, compressed: bool) -> None:
    """Grey that is white at 0, alpha, and channels that are no alpha because nobody says so."""
    most = np.iinfo(dtype).max
    for photometric, channels, extra, expected in (
        (1, 1, (), lambda a: a),
        (0, 1, (), lambda a: most - a),
        (1, 2, (2,), lambda a: a),
        (0, 2, (2,), lambda a: np.dstack([most - a[..., 0], a[..., 1]])),
        (1, 2, (0,), lambda a: a[..., :1]),
        (2, 3, (), lambda a: a),
        (2, 4, (2,), lambda a: a),
        (2, 4, (0,), lambda a: a[..., :3]),
        (2, 5, (0, 0), lambda a: a[..., :3]),
        (2, 5, (2, 0), lambda a: a[..., :4]),
    ):
        array = samples(channels, dtype)
        path = put(tmp_path, tiff(array, photometric, extra=extra, compressed=compressed), "a.tif")
        image = read_image(path)
        assert np.array_equal(image.array, expected(array)), (photometric, extra)
        assert image.array.dtype == dtype
        dropped = ("the file has a channel whose meaning it does not tell: it is dropped",)
        assert image.notes == (dropped if 0 in extra else ())


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_strips_that_are_missing_are_never_black(
    tmp_path: Path, channels: int, dtype: type, compressed: bool
) -> None:
    array = samples(channels, dtype)
    photometric = 1 if channels == 1 else 2
    for left_out in (1, 2):
        data = tiff(array, photometric, rows_per_strip=2, left_out=left_out, compressed=compressed)
        refused(put(tmp_path, data, "a.tif"), "the file is damaged")
    data = tiff(array, photometric, rows_per_strip=4, compressed=compressed)
    assert np.array_equal(read_image(put(tmp_path, data, "a.tif")).array, array)


def test_tiffs_that_only_libvips_opens(tmp_path: Path) -> None:
    """Grey with alpha at 16 bits: what is refused of others is refused of them."""
    pyvips = pytest.importorskip("pyvips")
    array = samples(2, np.uint16)
    path = put(tmp_path, tiff(array, 1, extra=(2,)), "a.tif")
    assert np.array_equal(read_image(path, max_pixels=30).array, array)
    with pytest.raises(ImageError, match=r"^cannot read [^ ]*a\.tif: 5x6 are 30 pixels"):
        read_image(path, max_pixels=29)
    picture = pyvips.Image.new_from_memory(array.data, 5, 6, 2, "ushort")
    two = picture.copy(interpretation="grey16").join(picture, "vertical")
    two.copy(interpretation="grey16").tiffsave(str(tmp_path / "b.tif"), page_height=6)
    refused(tmp_path / "b.tif", "it has 2 pages; only single images are supported")
    refused(put(tmp_path, tiff(samples(3, np.uint16), 5), "c.tif"), "not supported|damaged")


@pytest.mark.parametrize("channels", [118, 7936])
def test_more_channels_than_can_be(
    tmp_path: Path, channels: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Pillow logs that, and what nobody handles Python prints; asked in a process of its own."""
    data = tiff(samples(3, np.uint8), 2)
    known, odd = (struct.pack("<HHII", 277, 3, 1, number) for number in (3, channels))
    path = put(tmp_path, data.replace(known, odd), "a.tif")
    program = "import sys, pathlib; from sruplift.reading import read_image\ntry: read_image("
    program += "pathlib.Path(sys.argv[1]))\nexcept Exception as error: print(error)"
    subprocess.run([sys.executable, "-c", program, path], check=True)
    said, printed = capfd.readouterr()
    assert said.startswith(f"cannot read {path}: ")
    assert printed == ""


def test_a_tiff_that_goes_round_in_circles(tmp_path: Path) -> None:
    array = samples(3, np.uint8)
    path = put(tmp_path, tiff(array, 2, cyclic=True), "a.tif")
    assert np.array_equal(read_image(path).array, array)


def test_a_fax_that_libtiff_goes_on_after(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It prints its errors to stderr, and gives what came out."""
    picture = Pillow.fromarray(photo(40, 40)).convert("1")
    picture.save(tmp_path / "a.tif", compression="group4")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with Pillow.open(tmp_path / "a.tif") as opened:
        start = opened.tag_v2[273][0]
    assert np.array_equal(
        read_image(tmp_path / "a.tif").array[..., 0], np.asarray(picture.convert("L"))
    )
    data[start + 10 : start + 20] = bytes(10)
    refused(put(tmp_path, bytes(data), "b.tif"), "damaged .Bad code word at line")
    assert capfd.readouterr() == ("", "")


# ---- Others


@pytest.mark.usefixtures("decoder")
def test_exif_that_cannot_be_understood_is_no_obstacle(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    exif = Pillow.Exif()
    exif[274], exif[271] = 6, "maker"
    good = exif.tobytes()
    for where in range(6, len(good)):
        for value in (0, 255):
            damaged = good[:where] + bytes([value]) + good[where + 1 :]
            Pillow.fromarray(photo(6, 8)).save(tmp_path / "a.jpg", exif=damaged)
            image = read_image(tmp_path / "a.jpg", folder=tmp_path)
            assert image.size in ((6, 8), (8, 6))
            write_image(tmp_path / "b.jpg", image, overwrite=True)
    assert not recwarn.list


@pytest.mark.parametrize("moving", [False, True])
def test_exif_as_text_that_is_damaged_is_told(tmp_path: Path, moving: bool) -> None:
    """ImageMagick's: hexadecimal digits, in a text of a PNG."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n8\n4578zz")
    plain = Pillow.fromarray(photo(6, 8))
    more = {"save_all": True, "append_images": [plain.rotate(180)], "duration": 50}
    plain.save(tmp_path / "a.png", pnginfo=info, **(more if moving else {}))
    image = first(read_picture(tmp_path / "a.png"))
    assert np.array_equal(image.array, photo(6, 8))
    assert image.notes == ("the EXIF data is damaged: it is dropped",)


def test_a_profile_that_libpng_does_not_take_is_told(tmp_path: Path) -> None:
    """Sixteen bits are written by libvips, and so libpng; it is stricter than Pillow."""
    profile = rgb_profile()
    odd = struct.pack(">I", len(profile) + 4) + profile[4:]
    array = np.zeros((4, 5, 3), np.uint16)
    notes = write_image(tmp_path / "a.png", Image(array, icc_profile=odd))
    assert len(notes) == 1
    assert notes[0].startswith("the colour profile does not keep to the standard")
    assert write_image(tmp_path / "b.png", Image(array, icc_profile=profile)) == ()
    assert read_image(tmp_path / "b.png").icc_profile == profile
    assert read_image(tmp_path / "a.png").icc_profile is None


@pytest.mark.parametrize("compression", ["zstd", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_large_tiff_in_any_compression(
    tmp_path: Path, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvips as it comes does not know them all."""
    monkeypatch.setattr(store, "IN_MEMORY", 0)
    Pillow.fromarray(photo(12, 16)).save(tmp_path / "a.tif", compression=compression)
    image = read_image(tmp_path / "a.tif", folder=tmp_path)
    assert np.array_equal(image.array, photo(12, 16))


# ---- Random damage


def encoded(kind: str, picture: Pillow.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


WORDY = (".png", ".jpg", ".webp", ".tif", ".gif", ".avif")


def with_words(suffix: str, dtype: type) -> bytes:
    """A picture with all that may go with one."""
    image = Image(
        samples(3, dtype, 12, 16),
        rgb_profile(),
        exif_of_a_camera(),
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>',
        (300, 150),
        iptc=b"\x1c\x02\x78\0\5words",
        texts=(("Title", "a"), ("Comment", "ä")),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        write_image(path, image)
        return path.read_bytes()


def deep_heic(array: np.ndarray) -> bytes:
    """Ten bits of 16."""
    import pillow_heif

    buffer = io.BytesIO()
    size = (array.shape[1], array.shape[0])
    heif = pillow_heif.from_bytes("RGB;16", size, np.ascontiguousarray(array).tobytes())
    heif.save(buffer)
    return buffer.getvalue()


@functools.cache
def corpus() -> dict[str, bytes]:
    """A small file of every kind that is read."""
    plain = Pillow.fromarray(photo(12, 16))
    clear = plain.copy()
    clear.putalpha(Pillow.linear_gradient("L").resize(plain.size))
    exif = Pillow.Exif()
    exif[274], exif[271] = 6, "maker"
    known = {"exif": exif.tobytes(), "icc_profile": rgb_profile()}
    moving = {"save_all": True, "append_images": [plain.rotate(180)], "duration": [40, 90]}
    deep = samples(3, np.uint16, 12, 16)
    files = {
        "8.png": encoded("PNG", plain, **known),
        "16.png": png(drawing(RGB, 16, 9, 7, transparent=True), interlace=True),
        "palette.png": png(drawing(PALETTE, 4, 9, 7, transparent=True)),
        "stored.png": encoded("PNG", clear, compress_level=0),
        "moving.png": encoded("PNG", plain, **moving),
        "baseline.jpg": encoded("JPEG", plain, **known),
        "progressive.jpg": encoded("JPEG", plain, progressive=True),
        "cmyk.jpg": encoded("JPEG", plain.convert("CMYK")),
        "lossy.webp": encoded("WEBP", plain, **known),
        "lossless.webp": encoded("WEBP", clear, lossless=True),
        "moving.webp": encoded("WEBP", plain, **moving),
        "plain.tif": encoded("TIFF", plain, **known),
        "deflate.tif": encoded("TIFF", clear, compression="tiff_adobe_deflate"),
        "lzw.tif": encoded("TIFF", plain, compression="tiff_lzw"),
        "jpeg.tif": encoded("TIFF", plain, compression="jpeg"),
        "fax.tif": encoded("TIFF", plain.convert("1"), compression="group4"),
        "16.tif": tiff(deep, 2, compressed=True),
        "16_alpha.tif": tiff(deep[..., :2], 1, extra=(2,)),
        "still.gif": encoded("GIF", plain),
        "moving.gif": encoded("GIF", plain, **moving),
        "plain.bmp": encoded("BMP", plain),
        "palette.bmp": encoded("BMP", plain.quantize(16)),
        "plain.avif": encoded("AVIF", plain),
        "moving.avif": encoded("AVIF", plain, **moving),
        **{f"words{suffix}": with_words(suffix, np.uint8) for suffix in WORDY},
        "12.avif": with_words(".avif", np.uint16),
        "16_words.png": with_words(".png", np.uint16),
        "16_words.tif": with_words(".tif", np.uint16),
    }
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
        files["plain.heic"] = encoded("HEIF", clear)
        files["10.heic"] = deep_heic(deep)
    return files


def good_or_sentence(name: str, data: bytes, folder: Path) -> Image | Animation | None:
    """What is read of a file, nothing after a sentence; and the same of enlarging it."""
    with tempfile.TemporaryDirectory(dir=folder) as here:
        path, output = put(Path(here), data, name), Path(here) / "large.png"
        try:
            picture = read_picture(path, max_pixels=MOST, folder=path.parent)
            result = upscale_file(path, output, twice())
        except SrupliftError as error:
            said = str(error)
        else:
            said = ""
        if said:
            assert "\n" not in said
            assert here in said
            assert [each.name for each in Path(here).iterdir()] == [name]
            return None
        height, width = first(picture).size
        assert 0 < height * width <= MOST
        assert result.output_size == (2 * height, 2 * width)
        assert {each.name for each in Path(here).iterdir()} == {name, "large.png"}
        with Pillow.open(output) as large:
            assert large.size == (2 * width, 2 * height)
    return picture


@pytest.fixture
def _silence(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Decoders print nothing, neither from Python nor from C."""
    yield
    assert capfd.readouterr() == ("", "")


def first(picture: Image | Animation) -> Image:
    return picture.frames[0] if isinstance(picture, Animation) else picture


bounded = settings(
    max_examples=250,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Most damage is done near the beginning, where sizes and tables are.
names = st.sampled_from(sorted(corpus()))
places = st.one_of(st.integers(0, 60), st.integers(0, 3000))


@pytest.mark.usefixtures("decoder", "_silence")
@bounded
@given(name=names, share=st.floats(0, 1, exclude_max=True))
def test_any_beginning_of_a_file(tmp_path: Path, name: str, share: float) -> None:
    """The picture is whole or there is none."""
    data = corpus()[name]
    picture = good_or_sentence(name, data[: int(len(data) * share)], tmp_path)
    if picture is not None:
        whole = read_picture(put(tmp_path, data, name), folder=tmp_path)
        assert np.array_equal(first(picture).array, first(whole).array)
        assert isinstance(picture, Animation) == isinstance(whole, Animation)


@pytest.mark.usefixtures("decoder", "_silence")
@bounded
@given(name=names, flips=st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=6))
def test_any_bits_of_a_file_changed(
    tmp_path: Path, name: str, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(corpus()[name])
    for where, bit in flips:
        data[where % len(data)] ^= 1 << bit
    good_or_sentence(name, bytes(data), tmp_path)


@pytest.mark.usefixtures("decoder", "_silence")
@bounded
@given(
    name=names,
    where=places,
    gone=st.integers(0, 40),
    new=st.one_of(st.binary(max_size=20), st.sampled_from((b"\xff" * 4, bytes(4), b"\x7f\xff"))),
)
def test_any_part_of_a_file_replaced(
    tmp_path: Path, name: str, where: int, gone: int, new: bytes
) -> None:
    data = corpus()[name]
    where %= len(data)
    good_or_sentence(name, data[:where] + new + data[where + gone :], tmp_path)
