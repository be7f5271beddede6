"""What a picture keeps when a file is enlarged to a file: every feature in every format.

Each cell of the table that is printed at the end of the run was checked on the pixels or the bytes
of a file that `upscale_file` wrote: "kept", what became of it, or "-" and what the user is told.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from fidelity import feature
from numpy.typing import NDArray
from pictures import (
    MAKER_NOTE,
    THUMBNAIL,
    bilinear_pan,
    exif_of_a_camera,
    grey_profile,
    photo,
    rgb_profile,
)
from PIL import ExifTags, ImageCms, ImageOps, PngImagePlugin
from PIL import Image as Pillow
from torch import Tensor, nn

from sruplift import store
from sruplift.animation import Animation, read_picture
from sruplift.files import Skipped
from sruplift.image import Image, write_image
from sruplift.reading import read_image
from sruplift.upscale import UpscaleResult, upscale_file
from sruplift.upscaler import Upscaler
from sruplift.words import iptc_segment

LOSSLESS = (".png", ".tif")
PATCH = 16
COLOURS = ((255, 0, 0), (0, 255, 0), (20, 40, 230), (128, 128, 128), (240, 200, 30), (10, 10, 30))
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    b'dc:title="J\xc3\xbcrgen" tiff:Orientation="6" tiff:ImageWidth="30" '
    b'exif:PixelYDimension="20"/></rdf:RDF></x:xmpmeta>'
)


class Nearest(nn.Module):
    """Twice as large, and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")


def enlarge(source: Path, suffix: str, **options: object) -> tuple[Path, UpscaleResult]:
    """``source`` enlarged twice, as well as the format can; without a mark of its own."""
    defaults = {"quality": 100, "provenance": False, "device": "cpu", "precision": "fp32"}
    upscaler = Upscaler(Nearest(), scale=2, **{**defaults, **options})
    destination = source.parent / f"result{suffix}"
    result = upscale_file(source, destination, upscaler)
    assert not isinstance(result, Skipped)
    return destination, result


def save(path: Path, array: NDArray[np.uint8] | NDArray[np.uint16], **options: object) -> Path:
    Pillow.fromarray(array).save(path, **options)
    return path


def twice(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return array.repeat(2, axis=0).repeat(2, axis=1)


def patches(*colours: tuple[int, ...]) -> NDArray[np.uint8]:
    """A row of flat squares, in the middle of which no codec blurs."""
    return np.array(colours or COLOURS, np.uint8).repeat(PATCH, axis=0)[None].repeat(PATCH, axis=0)


def flat(array: NDArray[np.generic]) -> NDArray[np.int64]:
    """The colours of the patches of an enlarged picture, from their middles."""
    return np.asarray(array)[PATCH, PATCH :: 2 * PATCH].astype(int)


def off(found: NDArray[np.generic], expected: object) -> int:
    """The largest error."""
    return int(np.abs(np.asarray(found).astype(int) - np.asarray(expected).astype(int)).max())


def tolerance(suffix: str) -> int:
    """What rounding in YCbCr may cost."""
    return 0 if suffix in (*LOSSLESS, ".gif") else 1 if suffix != ".webp" else 3


def lost(result: UpscaleResult, *words: str) -> str:
    """The cell for what cannot be kept: the note that says so."""
    note = next((n for n in result.notes if all(word in n for word in words)), None)
    assert note is not None, f"nobody is told: {result.notes}"
    return f"- {note}"


def opened(path: Path) -> Pillow.Image:
    """Decoded by Pillow, which is not who wrote 16 bits of colour."""
    with Pillow.open(path) as picture:
        picture.load()
        return picture


# ---- Pixels


@feature("RGB")
def test_rgb(folder: Path, suffix: str) -> None:
    path, _ = enlarge(save(folder / "a.png", patches()), suffix)
    assert off(flat(np.asarray(opened(path).convert("RGB"))), COLOURS) <= tolerance(suffix)


@feature("grey, one channel")
def test_grey(folder: Path, suffix: str) -> str | None:
    levels = [(level,) for level in (0, 1, 64, 128, 254, 255)]
    path, _ = enlarge(save(folder / "a.png", patches(*levels)[..., 0]), suffix)
    picture = opened(path)
    expected = np.broadcast_to(levels, (6, 3))
    assert off(flat(np.asarray(picture.convert("RGB"))), expected) <= min(1, tolerance(suffix))
    if suffix == ".webp":
        assert picture.mode == "RGB"
        return "grey RGB"
    if suffix == ".gif":
        return "palette"
    assert picture.mode == "L"
    return None


def palette(path: Path, **options: object) -> Path:
    picture = Pillow.fromarray(patches((0,), (1,), (2,))[..., 0]).convert("P")
    picture.putpalette([value for colour in COLOURS[:3] for value in colour])
    picture.save(path, **options)
    return path


@feature("palette")
def test_palette(folder: Path, suffix: str) -> str:
    path, _ = enlarge(palette(folder / "a.png"), suffix)
    picture = opened(path)
    assert off(flat(np.asarray(picture.convert("RGB"))), COLOURS[:3]) <= tolerance(suffix)
    assert picture.mode == "RGB" or suffix == ".gif"
    return "palette" if suffix == ".gif" else "as RGB"


@feature("palette with transparency")
def test_palette_with_transparency(folder: Path, suffix: str) -> str:
    answers = set()
    for name in ("a.png", "a.gif"):
        path, result = enlarge(
            palette(folder / name, transparency=1), suffix, overwrite=True, background="black"
        )
        picture = np.asarray(opened(path).convert("RGBA"))
        expected = [(*COLOURS[0], 255), (*COLOURS[1], 0), (*COLOURS[2], 255)]
        if suffix == ".jpg":
            expected[1] = (0, 0, 0, 255)
            answers.add(lost(result, "no transparency", "laid on black"))
        else:
            answers.add("palette" if suffix == ".gif" else "as RGBA")
            assert off(flat(picture)[:, 3], [e[3] for e in expected]) == 0
        seen = [0, 1, 2] if suffix == ".jpg" else [0, 2]
        assert off(flat(picture)[seen], np.array(expected)[seen]) <= tolerance(suffix)
    (answer,) = answers
    return answer


def disc(colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A soft-edged disc; black where nothing is seen."""
    y, x = np.mgrid[0:48, 0:48]
    alpha = np.clip(16.5 - np.hypot(x - 23.5, y - 23.5), 0, 1)[..., None]
    rgb = np.where(alpha > 0, colour, 0)
    return np.concatenate([rgb, alpha * 255], axis=2).round().astype(np.uint8)


@feature("alpha with a soft edge, no fringe")
def test_alpha(folder: Path, suffix: str) -> str | None:
    """Through the bundled network: whoever sees its neighbours makes fringes."""
    colour = (250, 120, 30)
    destination = folder / f"b{suffix}"
    upscaler = Upscaler("pan", scale=2, device="cpu", quality=100, background="white")
    result = upscale_file(save(folder / "a.png", disc(colour)), destination, upscaler)
    assert isinstance(result, UpscaleResult)
    picture = np.asarray(opened(destination).convert("RGBA")).astype(int)
    if suffix == ".jpg":
        # On a line from white to the colour: never darker than either, as a fringe would be.
        assert (picture[..., :3] >= np.array(colour) - 6).all()
        return lost(result, "no transparency", "laid on white")
    alpha = picture[..., 3]
    seen = alpha > 127 if suffix == ".gif" else alpha > 16
    assert off(picture[seen][:, :3], colour) <= max(2, tolerance(suffix))
    assert 0.95 < seen.sum() / ((disc(colour)[..., 3] > 127).sum() * 4) < 1.1
    if suffix == ".gif":
        assert {*np.unique(alpha)} == {0, 255}
        return lost(result, "GIF", "no soft edges")
    assert len(np.unique(alpha)) > 20
    return None


@feature("alpha laid on --background")
def test_background(folder: Path, suffix: str) -> str | None:
    pixels = np.dstack([patches(), np.zeros((PATCH, 6 * PATCH), np.uint8)])
    pixels[:, : PATCH * 3, 3] = 255
    path, result = enlarge(save(folder / "a.png", pixels), suffix, background="#2040c0")
    picture = opened(path)
    if suffix != ".jpg":
        assert off(flat(np.asarray(picture.convert("RGBA")))[:, 3], [255] * 3 + [0] * 3) == 0
        return "has alpha"
    assert off(flat(np.asarray(picture)), [*COLOURS[:3], *[(32, 64, 192)] * 3]) <= 1
    assert "laid on #2040c0" in result.notes[0]
    for channels, profile in ((4, rgb_profile()), (2, grey_profile(gamma=1.2))):
        source = save(folder / "b.png", pixels[..., -channels:], icc_profile=profile)
        path, _ = enlarge(source, suffix, background="#2040c0", overwrite=True)
        assert off(flat(shown(path))[3:], (32, 64, 192)) <= 2
    return None


def deep(folder: Path, channels: int) -> Path:
    """2,000 levels of 65,536 in a row, written by libvips."""
    ramp = np.linspace(0, 65535, 2000).round().astype(np.uint16)
    alpha = np.maximum(ramp[::-1], 1)  # What is not seen takes its neighbours' colours.
    planes = [ramp, alpha] if channels == 2 else [ramp, ramp[::-1], ramp, alpha][:channels]
    write_image(folder / "a.png", Image(np.stack([planes] * 8).swapaxes(1, 2)))
    return folder / "a.png"


def check_deep(folder: Path, suffix: str, channels: int) -> str | None:
    source = deep(folder, channels)
    path, result = enlarge(source, suffix, alpha="net")
    before, after = read_image(source), read_image(path)
    if suffix in (".jpg", ".webp", ".gif"):
        assert after.array.dtype == np.uint8
        return lost(result, "of 16 bits per channel", "keeps 8")
    assert after.array.dtype == np.uint16
    expected = before.array
    if after.colours > before.colours:
        expected = expected[..., [0, 0, 0, 1][: after.array.shape[2]]]
    error = off(after.array, twice(expected))
    for channel in range(after.array.shape[2]):
        assert len(np.unique(after.array[..., channel])) > 1000
    if suffix == ".avif":
        assert error <= 16 * 4
        return "12 bits" if channels > 2 else "12 bits, RGB"
    assert error == 0
    assert after.array.shape[2] == channels
    return None


@feature("16-bit grey")
def test_deep_grey(folder: Path, suffix: str) -> str | None:
    return check_deep(folder, suffix, 1)


@feature("16-bit grey with alpha")
def test_deep_grey_with_alpha(folder: Path, suffix: str) -> str | None:
    return check_deep(folder, suffix, 2)


@feature("16-bit RGB")
def test_deep_rgb(folder: Path, suffix: str) -> str | None:
    return check_deep(folder, suffix, 3)


@feature("16-bit RGB with alpha")
def test_deep_rgba(folder: Path, suffix: str) -> str | None:
    return check_deep(folder, suffix, 4)


@feature("animation: frames, times, loops")
def test_animation(folder: Path, suffix: str) -> str | None:
    source = folder / "a.png"
    frames = [Pillow.fromarray(np.roll(patches(), PATCH * step, axis=1)) for step in range(3)]
    times = [50, 120, 200]
    frames[0].save(source, save_all=True, append_images=frames[1:], duration=times, loop=3)
    if suffix not in (".png", ".webp", ".avif", ".gif"):
        with pytest.raises(Exception, match="holds no animation") as caught:
            enlarge(source, suffix)
        return f"- {str(caught.value).partition(': ')[2]}"
    path, result = enlarge(source, suffix)
    animation = read_picture(path)
    assert isinstance(animation, Animation)
    assert animation.durations == tuple(times)
    for step, frame in enumerate(animation.frames):
        error = off(flat(frame.pixels), np.roll(COLOURS, step, axis=0))
        assert error <= tolerance(suffix) + (suffix == ".avif") * 2
    if suffix == ".avif":
        assert animation.loop == 0
        return lost(result, "played for ever")
    assert animation.loop == 3
    return None


# ---- Colour


def shown(path: Path, space: str = "sRGB") -> NDArray[np.int64]:
    """The patches as a viewer with colour management shows them, in sRGB or LAB."""
    picture = opened(path)
    data = picture.info.get("icc_profile")
    if picture.mode != "L" or not data:
        picture = picture.convert("RGB")
    converted = ImageCms.profileToProfile(
        picture,
        ImageCms.ImageCmsProfile(io.BytesIO(data)) if data else ImageCms.createProfile("sRGB"),
        ImageCms.createProfile(space),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="LAB" if space == "LAB" else "RGB",
    )
    if space == "LAB":  # a and b are signed.
        return np.asarray(converted).view(np.int8).astype(int) % [256, 10**6, 10**6]
    return np.asarray(converted).astype(int)


def assert_same_colours(source: Path, path: Path) -> None:
    """In Lab, where nothing is clipped, for those who keep the profile; else in sRGB."""
    space = "sRGB" if path.suffix == ".gif" else "LAB"
    limit = 1 if path.suffix in (*LOSSLESS, ".gif") else 1 + tolerance(path.suffix)
    assert off(flat(shown(path, space)), flat(twice(shown(source, space)))) <= limit
    if space == "LAB":
        pixels = read_image(path).pixels
        found = np.rint(pixels / 257) if pixels.dtype == np.uint16 else pixels
        assert off(flat(found), COLOURS) <= tolerance(path.suffix)


@feature("ICC profile, byte for byte; colours")
def test_profile(folder: Path, suffix: str) -> str | None:
    source = save(folder / "a.png", patches(), icc_profile=rgb_profile())
    path, _ = enlarge(source, suffix)
    assert_same_colours(source, path)
    if suffix == ".gif":
        return "as sRGB"
    assert opened(path).info["icc_profile"] == rgb_profile()
    return None


@feature("ICC profile of 150 kB")
def test_large_profile(folder: Path, suffix: str) -> str | None:
    profile = rgb_profile() + np.random.default_rng(0).bytes(150_000)
    profile = len(profile).to_bytes(4, "big") + profile[4:]
    source = save(folder / "a.jpg", patches(), icc_profile=profile, quality=100)
    path, _ = enlarge(source, suffix)
    if suffix == ".gif":
        assert_same_colours(source, path)
        return "as sRGB"
    assert opened(path).info["icc_profile"] == profile
    return None


@feature("ICC profile of grey")
def test_grey_profile(folder: Path, suffix: str) -> str | None:
    levels = patches(*[(level,) for level in (0, 20, 90, 128, 200, 255)])[..., 0]
    profile = grey_profile(gamma=1.4)
    source = save(folder / "a.png", levels, icc_profile=profile)
    path, _ = enlarge(source, suffix)
    assert off(flat(shown(path)), flat(twice(shown(source)))) <= 1
    if suffix in (".gif", ".webp"):
        return "as sRGB"
    assert opened(path).info["icc_profile"] == profile
    return None


@feature("ICC profile with 16 bits")
def test_deep_profile(folder: Path, suffix: str) -> str | None:
    source = folder / "a.png"
    write_image(source, Image(patches().astype(np.uint16) * 257, rgb_profile()))
    path, _ = enlarge(source, suffix)
    assert_same_colours(source, path)
    if suffix == ".gif":
        return "as sRGB"
    assert opened(path).info["icc_profile"] == rgb_profile()
    return None


@feature("CMYK with its profile")
def test_cmyk(folder: Path, suffix: str) -> str:
    pyvips = pytest.importorskip("pyvips")
    rgb = pyvips.Image.new_from_array(patches()).copy(interpretation="srgb")
    source = folder / f"a{suffix if suffix == '.tif' else '.jpg'}"
    rgb.icc_export(output_profile="cmyk").write_to_file(str(source))
    assert opened(source).mode == "CMYK"
    # libvips' opinion of the same file, by the same profile.
    how = {"embedded": True, "intent": "relative", "black_point_compensation": True}
    expected = pyvips.Image.new_from_file(str(source)).icc_transform("srgb", **how).numpy()
    path, result = enlarge(source, suffix)
    assert opened(path).info.get("icc_profile") is None
    found = np.asarray(opened(path).convert("RGB"))
    assert off(flat(found), flat(twice(expected))) <= max(1, tolerance(suffix))
    assert not any("CMYK" in note for note in result.notes)
    return "as sRGB"


# ---- What goes with the pixels


def check_exif(path: Path) -> None:
    with Pillow.open(path) as picture:
        exif = picture.getexif()
        assert_camera(exif)
    assert THUMBNAIL not in path.read_bytes()


def assert_camera(exif: Pillow.Exif) -> None:
    assert exif.get(ExifTags.Base.Orientation, 1) == 1
    assert exif[ExifTags.Base.Make] == "maker"
    assert exif[ExifTags.Base.Artist] == "J\xfcrgen"
    assert exif[ExifTags.Base.DateTime] == "2024:05:06 07:08:09"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    assert float(details[ExifTags.Base.ExposureTime]) == 0.008
    assert details[ExifTags.Base.DateTimeOriginal] == "2024:05:06 07:08:09"
    assert details[ExifTags.Base.MakerNote] == MAKER_NOTE
    # Stored lying, shown standing: what was wide is high.
    assert details[ExifTags.Base.ExifImageWidth] == 2 * PATCH
    assert details[ExifTags.Base.ExifImageHeight] == 12 * PATCH
    assert exif.get_ifd(ExifTags.IFD.Interop)[1] == "R98"
    place = exif.get_ifd(ExifTags.IFD.GPSInfo)
    assert place == {1: "N", 2: (48.0, 8.0, 12.3)}
    assert not exif.get_ifd(ExifTags.IFD.IFD1)


@feature("EXIF with place, maker note, sizes")
def test_exif(folder: Path, suffix: str) -> str | None:
    source = save(folder / "a.jpg", patches(), exif=exif_of_a_camera(), quality=100)
    assert THUMBNAIL in source.read_bytes()
    path, result = enlarge(source, suffix, provenance=True)
    if suffix == ".gif":
        assert not opened(path).getexif()
        return lost(result, "GIF", "EXIF")
    check_exif(path)
    if suffix != ".tif":  # Where it must move; and AVIF's orientation is not in EXIF.
        data = opened(path).info["exif"].removeprefix(b"Exif\0\0")
        before = exif_of_a_camera()[6:]
        assert data.index(MAKER_NOTE) == before.index(MAKER_NOTE)
    return None


@feature("EXIF with 16 bits")
def test_deep_exif(folder: Path, suffix: str) -> str | None:
    pixels = patches().astype(np.uint16) * 257
    write_image(folder / "a.png", Image(pixels, exif=exif_of_a_camera()))
    path, result = enlarge(folder / "a.png", suffix)
    if suffix == ".gif":
        return lost(result, "GIF", "EXIF")
    check_exif(path)
    return None


@feature("EXIF of a TIFF of 16 bits")
def test_exif_of_a_deep_tiff(folder: Path, suffix: str) -> str | None:
    pixels = patches().astype(np.uint16) * 257
    write_image(folder / "a.tif", Image(pixels, exif=exif_of_a_camera()))
    path, result = enlarge(folder / "a.tif", suffix)
    if suffix == ".gif":
        return lost(result, "GIF", "EXIF")
    check_exif(path)
    return None


@feature("large pictures: EXIF, ICC, XMP, DPI")
def test_large(folder: Path, suffix: str) -> str | None:
    source = save(
        folder / "a.jpg",
        patches(),
        exif=exif_of_a_camera(),
        icc_profile=rgb_profile(),
        xmp=XMP,
        dpi=(300, 300),
        comment="Jürgen",
        quality=100,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "IN_MEMORY", 2000)
        path, result = enlarge(source, suffix)
    if suffix == ".gif":
        assert opened(path).format == "GIF"
        return lost(result, "GIF", "EXIF")
    check_exif(path)
    assert opened(path).info["icc_profile"] == rgb_profile()
    if suffix == ".jpg":
        assert opened(path).info["comment"].decode() == "Jürgen"
    image = read_image(path)
    assert image.xmp is not None
    assert b"J\xc3\xbcrgen" in image.xmp
    assert image.dpi == pytest.approx((300, 300), abs=0.1)
    error = off(flat(np.asarray(opened(path))[:, ::-1].swapaxes(0, 1)), COLOURS)
    assert error <= tolerance(suffix) + 1
    return None


@feature("all eight orientations")
def test_orientations(folder: Path, suffix: str) -> str | None:
    source = f".{'jpg' if suffix == '.gif' else suffix[1:]}"
    for orientation in range(1, 9):
        exif = Pillow.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        stored = Pillow.fromarray(patches())
        stored.save(folder / f"a{source}", exif=exif, quality=100)
        upright = ImageOps.exif_transpose(opened(folder / f"a{source}"))
        path, _ = enlarge(folder / f"a{source}", suffix, overwrite=True)
        picture = opened(path)
        assert picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
        found = np.asarray(picture.convert("RGB"))
        expected = twice(np.asarray(upright))
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() <= (0 if suffix in LOSSLESS else 8)
    return None


@feature("XMP, orientation and sizes mended")
def test_xmp(folder: Path, suffix: str) -> str | None:
    path, _ = enlarge(save(folder / "a.jpg", patches(), xmp=XMP), suffix)
    xmp = read_image(path).xmp
    assert xmp is not None
    changes = {b'tation="6"': b'tation="1"', b'Width="30"': b'Width="192"', b'"20"': b'"32"'}
    expected = XMP
    for before, after in changes.items():
        expected = expected.replace(before, after)
    # Turned upright: Pillow obeys XMP's orientation where EXIF says nothing.
    turned = expected.replace(b'"192"', b'"w"').replace(b'"32"', b'"192"').replace(b'"w"', b'"32"')
    assert xmp == (turned if read_image(path).size[0] > 32 else expected)
    return None


@feature("resolution")
def test_resolution(folder: Path, suffix: str) -> str | None:
    path, result = enlarge(save(folder / "a.png", patches(), dpi=(300, 150)), suffix)
    if suffix == ".gif":
        return lost(result, "GIF", "resolution")
    assert read_image(path).dpi == pytest.approx((300, 150), abs=0.02)
    if suffix in (".webp", ".avif"):
        assert opened(path).getexif()[ExifTags.Base.XResolution] == pytest.approx(300, abs=0.02)
        return "in EXIF"
    assert opened(path).info["dpi"] == pytest.approx((300, 150), abs=0.02)
    return None


@feature("where it comes from, in XMP")
def test_provenance(folder: Path, suffix: str) -> str | None:
    weights = bilinear_pan(folder, 2)
    source = save(folder / "a.png", photo(8, 8))
    for wanted in (True, False):
        upscaler = Upscaler("pan", scale=2, weights=weights, device="cpu", provenance=wanted)
        destination = folder / f"{wanted}{suffix}"
        upscale_file(source, destination, upscaler)
        assert (b'sruplift:model="pan"' in destination.read_bytes()) == wanted
        xmp = read_image(destination).xmp
        assert (xmp is not None and b'sruplift:model="pan"' in xmp) == wanted
    return None


TEXTS = {"Title": "Brücke", "Author": "Jürgen π", "Comment": "an old one"}


def with_texts(path: Path, deep: bool) -> Path:
    if not deep:
        chunks = PngImagePlugin.PngInfo()
        for keyword, text in TEXTS.items():
            chunks.add_itxt(keyword, text, zip=keyword == "Author")
        return save(path, patches(), pnginfo=chunks)
    image = Image(patches().astype(np.uint16) * 257, texts=tuple(TEXTS.items()))
    write_image(path, image, overwrite=True)
    return path


@feature("PNG's title, author and comment")
def test_texts(folder: Path, suffix: str) -> str | None:
    for deep in (False, True):
        source = with_texts(folder / "a.png", deep)
        assert opened(source).text == TEXTS
        path, result = enlarge(source, suffix, overwrite=True)
        if suffix == ".png":
            assert opened(path).text == TEXTS
    if suffix in (".jpg", ".gif"):
        assert opened(path).info["comment"].decode() == "an old one"
        lost(result, "Author", "dropped")
        return "the comment"
    return None if suffix == ".png" else lost(result, "Title", "dropped")


@feature("JPEG's comment")
def test_comment(folder: Path, suffix: str) -> str | None:
    source = save(folder / "a.jpg", patches(), comment="Jürgen")
    path, result = enlarge(source, suffix)
    if suffix == ".png":
        assert opened(path).text == {"Comment": "Jürgen"}
    elif suffix in (".jpg", ".gif"):
        assert opened(path).info["comment"].decode() == "Jürgen"
    else:
        return lost(result, "Comment", "dropped")
    return None


IPTC = b"\x1c\x02\x78\0\x07caption"


@feature("IPTC")
def test_iptc(folder: Path, suffix: str) -> str | None:
    source = save(folder / "a.jpg", patches(), extra=iptc_segment(IPTC))
    save(folder / "a.tif", patches(), tiffinfo={33723: IPTC})
    for name in (source, folder / "a.tif"):
        path, result = enlarge(name, suffix, overwrite=True)
        if suffix == ".jpg":
            assert opened(path).info["photoshop"] == {0x0404: IPTC}
        elif suffix == ".tif":
            assert opened(path).tag_v2[33723] == IPTC
    return None if suffix in (".jpg", ".tif") else lost(result, "IPTC", "dropped")


# ---- Sources


@feature("from HEIC, with EXIF and profile")
def test_heic(folder: Path, suffix: str) -> str | None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    source = save(
        folder / "a.heic",
        patches(),
        quality=-1,
        exif=exif_of_a_camera(),
        icc_profile=rgb_profile(),
        chroma=444,
    )
    path, result = enlarge(source, suffix)
    found = opened(path)
    assert found.size == (2 * PATCH, 12 * PATCH)
    if suffix == ".gif":
        return lost(result, "GIF", "EXIF")
    check_exif(path)
    assert found.info["icc_profile"] == rgb_profile()
    assert off(flat(np.asarray(found)[:, ::-1].swapaxes(0, 1)), COLOURS) <= 3
    return None


@feature("from HEIC of 10 bits")
def test_deep_heic(folder: Path, suffix: str) -> str | None:
    pillow_heif = pytest.importorskip("pillow_heif")
    ramp = np.linspace(0, 65535, 900).astype(np.uint16)[None, :, None]
    pixels = np.ascontiguousarray(ramp.repeat(64, axis=0).repeat(3, axis=2))
    pillow_heif.from_bytes("RGB;16", (900, 64), pixels.tobytes()).save(
        folder / "a.heic", quality=-1, chroma=444
    )
    path, result = enlarge(folder / "a.heic", suffix)
    after = read_image(path).pixels
    if suffix not in (*LOSSLESS, ".avif"):
        return lost(result, "of 16 bits per channel", "keeps 8")
    assert len(np.unique(after[..., 0])) > 700
    assert off(after, twice(pixels)) < 65535 / 256
    return None


@feature("from AVIF of 12 bits")
def test_deep_avif(folder: Path, suffix: str) -> str | None:
    before = read_image(deep(folder, 3))
    write_image(folder / "a.avif", before, quality=100)
    path, result = enlarge(folder / "a.avif", suffix)
    if suffix not in (*LOSSLESS, ".avif"):
        return lost(result, "of 16 bits per channel", "keeps 8")
    after = read_image(path).pixels
    assert len(np.unique(after[..., 0])) > 1000
    assert off(after, twice(before.pixels)) <= 16 * 8
    return None


# ---- Rounding


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("way", ["", "bf16", "tiles", "ensemble", "fraction", "alpha net"])
def test_every_level_stays_what_it_is(dtype: type, channels: int, way: str, tmp_path: Path) -> None:
    """A picture of one colour through a network that adds nothing, for many colours."""
    options: dict[str, object] = {
        "": {"precision": "fp32"},
        "bf16": {"precision": "bf16"},
        "tiles": {"tile_size": 24, "overlap": 8},
        "ensemble": {"self_ensemble": True},
        "fraction": {"scale": 1.7},
        "alpha net": {"alpha": "net"},
    }[way]
    weights = bilinear_pan(tmp_path, 2)
    upscaler = Upscaler("pan", **{"scale": 2, "weights": weights, "device": "cpu", **options})
    highest = np.iinfo(dtype).max
    size = 40 if way == "tiles" else 8
    for level in (0, 1, highest // 2, highest):
        colour = np.array([level, highest - level, level // 2, level][-channels:], dtype)
        image = Image(np.broadcast_to(colour, (size, size, channels)).copy())
        result, notes = upscaler.enlarge(image)
        assert np.array_equal(np.unique(result.array.reshape(-1, channels), axis=0), colour[None])
        assert notes == ()


@pytest.mark.parametrize("channels", [1, 3])
def test_every_level_of_16_bits_survives_the_trip_through_floating_point(channels: int) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(channels, axis=2)
    result, _ = Upscaler(Nearest(), scale=2, device="cpu", precision="fp32").enlarge(Image(levels))
    assert np.array_equal(result.array, twice(levels))
