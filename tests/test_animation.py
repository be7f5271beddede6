"""Animations: every frame, its time, and what a format cannot hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from pictures import exif_of_a_camera, photo, rgb_profile
from PIL import ExifTags
from PIL import Image as Pillow

from sruplift.animation import Animation, read_picture, write_animation
from sruplift.errors import ImageError
from sruplift.image import Image

SUFFIXES = [".gif", ".webp", ".png", ".avif"]
DURATIONS = [50, 120, 200]


def frames(channels: int = 3) -> list[np.ndarray]:
    """A bright square that wanders over a photo; with four channels through a hole as well."""
    result = []
    for step in range(3):
        frame = photo(24, 32, 3).copy()
        frame[4:12, 4 + 8 * step : 12 + 8 * step] = (250, 250, 20)
        if channels == 4:
            alpha = np.full((24, 32, 1), 255, np.uint8)
            alpha[14:22, 4 + 8 * step : 12 + 8 * step] = 0
            frame = np.concatenate([frame, alpha], axis=2)
        result.append(frame)
    return result


def save(path: Path, channels: int = 3, **options: object) -> Path:
    pictures = [Pillow.fromarray(frame) for frame in frames(channels)]
    if path.suffix == ".gif":
        options["disposal"] = 2
    if path.suffix != ".avif":
        # A GIF says how often it is played again.
        options["loop"] = 2 if path.suffix == ".gif" else 3
    if path.suffix == ".webp":
        options["lossless"] = True
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=DURATIONS, **options)
    return path


def shown(path: Path) -> list[np.ndarray]:
    """The frames as a viewer shows them, RGBA."""
    with Pillow.open(path) as picture:
        result = []
        for index in range(picture.n_frames):
            picture.seek(index)
            result.append(np.asarray(picture.convert("RGBA")))
    return result


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_and_times_are_read(tmp_path: Path, suffix: str) -> None:
    animation = read_picture(save(tmp_path / f"a{suffix}"))
    assert isinstance(animation, Animation)
    assert animation.durations == tuple(DURATIONS)
    assert animation.loop == (0 if suffix == ".avif" else 3)
    for frame, expected in zip(animation.frames, frames(), strict=True):
        error = np.abs(frame.pixels.astype(int) - expected).mean()
        assert error < (12 if suffix in (".gif", ".avif") else 0.01)


@pytest.mark.parametrize("target", SUFFIXES)
@pytest.mark.parametrize("source", SUFFIXES)
@pytest.mark.parametrize("channels", [3, 4])
def test_every_format_to_every_other(
    tmp_path: Path, source: str, target: str, channels: int
) -> None:
    animation = read_picture(save(tmp_path / f"a{source}", channels))
    assert isinstance(animation, Animation)
    write_animation(tmp_path / f"b{target}", animation)
    again = read_picture(tmp_path / f"b{target}")
    assert isinstance(again, Animation)
    assert again.durations == tuple(DURATIONS)
    if ".avif" not in (source, target):
        assert again.loop == 3
    for picture, expected in zip(shown(tmp_path / f"b{target}"), frames(channels), strict=True):
        if channels == 4:
            assert np.abs(picture[..., 3].astype(int) - expected[..., 3]).mean() < 8
        visible = picture[..., 3] > 250
        assert visible.mean() > 0.85
        error = np.abs(picture[..., :3].astype(int) - expected[..., :3])
        assert error[visible].mean() < 16


@pytest.mark.parametrize("target", [".webp", ".png", ".avif"])
def test_metadata_go_with_the_first_frame(tmp_path: Path, target: str) -> None:
    exif = exif_of_a_camera(orientation=6)
    save(tmp_path / "a.webp", exif=exif, icc_profile=rgb_profile(), xmp=b"<x/>")
    animation = read_picture(tmp_path / "a.webp")
    assert isinstance(animation, Animation)
    for frame, expected in zip(animation.frames, frames(), strict=True):
        assert np.array_equal(frame.pixels, np.rot90(expected, -1))
    assert write_animation(tmp_path / f"b{target}", animation) == (
        ("AVIF is played for ever, not 3 times",) if target == ".avif" else ()
    )
    with Pillow.open(tmp_path / f"b{target}") as picture:
        assert picture.info["icc_profile"] == rgb_profile()
        assert picture.getexif()[ExifTags.Base.Model] == "camera"
        assert picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
        assert picture.info["xmp"] == b"<x/>"


def test_frames_without_a_time_get_the_browsers(tmp_path: Path) -> None:
    pictures = [Pillow.fromarray(frame) for frame in frames()]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=0)
    animation = read_picture(tmp_path / "a.gif")
    assert isinstance(animation, Animation)
    assert animation.durations == (100, 100, 100)
    assert "get 100 ms" in animation.frames[0].notes[-1]
    assert animation.loop == 1


@pytest.mark.parametrize(("again", "plays"), [(None, 1), (0, 0), (1, 2), (5, 6), (65_535, 65_536)])
def test_a_gif_says_how_often_it_is_played_again(
    tmp_path: Path, again: int | None, plays: int
) -> None:
    pictures = [Pillow.fromarray(frame) for frame in frames()]
    options = {} if again is None else {"loop": again}
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], **options)
    animation = read_picture(tmp_path / "a.gif")
    assert isinstance(animation, Animation)
    assert animation.loop == plays
    for suffix, told in ((".gif", again), (".webp", plays), (".png", plays)):
        write_animation(tmp_path / f"b{suffix}", animation)
        with Pillow.open(tmp_path / f"b{suffix}") as written:
            assert written.info.get("loop") == (told if plays <= 65_535 or suffix == ".gif" else 0)


def test_frames_too_short_for_a_gif_are_told(tmp_path: Path) -> None:
    animation = read_picture(save(tmp_path / "a.png"))
    assert isinstance(animation, Animation)
    quick = dataclasses.replace(animation, durations=(10, 120, 200))
    (note,) = write_animation(tmp_path / "b.gif", quick)
    assert note == "frames are shown for 20 ms at least: browsers take less for 100"
    assert write_animation(tmp_path / "c.gif", animation) == ()
    assert write_animation(tmp_path / "d.png", quick) == ()


def test_the_picture_for_those_who_show_no_frames_is_no_frame(tmp_path: Path) -> None:
    pictures = [Pillow.fromarray(frame) for frame in frames()]
    Pillow.new("RGB", (32, 24)).save(
        tmp_path / "a.png", save_all=True, append_images=pictures, default_image=True, duration=70
    )
    animation = read_picture(tmp_path / "a.png")
    assert isinstance(animation, Animation)
    assert len(animation.frames) == 3
    assert np.array_equal(animation.frames[0].pixels, frames()[0])
    notes = animation.frames[0].notes
    assert notes == ("the picture for programs without animation is left out",)


def test_sixteen_bits_become_eight_and_are_told(tmp_path: Path) -> None:
    levels = np.linspace(300, 65535, 24 * 32).reshape(24, 32).round().astype(np.uint16)
    both = (np.zeros_like(levels), levels)  # Pillow writes what differs in 8 bits.
    pictures = [Pillow.fromarray(each) for each in both]
    path = tmp_path / "a.png"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    animation = read_picture(path)
    assert isinstance(animation, Animation)
    for frame, expected in zip(animation.frames, both, strict=True):
        grey = (expected / 257).round()[..., None].repeat(3, 2)
        assert np.array_equal(frame.pixels, grey)
    assert animation.frames[0].notes == ("of 16 bits per channel, animations keep 8",)
    assert read_picture(save(tmp_path / "b.png")).frames[0].notes == ()  # type: ignore[union-attr]


def test_the_transparent_level_of_sixteen_bits_is_one_of_65536(tmp_path: Path) -> None:
    levels = np.linspace(300, 65535, 24 * 32).reshape(24, 32).round().astype(np.uint16)
    levels[0, :3] = 299, 300, 301  # All alike in 8 bits.
    pictures = [Pillow.fromarray(each) for each in (levels, np.zeros_like(levels))]
    path = tmp_path / "a.png"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=99, transparency=300)
    first = read_picture(path).frames[0]  # type: ignore[union-attr]
    assert first.alpha is not None
    assert np.array_equal(first.alpha == 0, levels == 300)
    grey = (levels / 257).round()[..., None].repeat(3, 2)
    assert np.array_equal(first.pixels[..., :3], grey)


def test_a_still_picture_is_a_picture(tmp_path: Path) -> None:
    Pillow.fromarray(photo(5, 6)).save(tmp_path / "a.gif")
    assert isinstance(read_picture(tmp_path / "a.gif"), Image)


def test_pages_are_no_frames(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="it has 3 pages; only single images"):
        read_picture(save(tmp_path / "a.tif"))


def test_all_frames_count_for_the_limit(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png")
    assert isinstance(read_picture(path, max_pixels=24 * 32 * 3), Animation)
    with pytest.raises(ImageError, match="96x24 are 2,304 pixels, more than the limit of 2,303"):
        read_picture(path, max_pixels=24 * 32 * 3 - 1)


def test_a_format_of_one_picture_is_refused(tmp_path: Path) -> None:
    animation = read_picture(save(tmp_path / "a.png"))
    assert isinstance(animation, Animation)
    with pytest.raises(ImageError, match=r"\.jpg holds no animation .these do: .*\.gif"):
        write_animation(tmp_path / "a.jpg", animation)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cut_animation_is_damaged(tmp_path: Path, suffix: str) -> None:
    data = save(tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"b{suffix}").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ImageError, match=f"cannot read .*b{suffix}: "):
        read_picture(tmp_path / f"b{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_times_that_a_format_cannot_say_become_the_nearest(tmp_path: Path, suffix: str) -> None:
    pictures = tuple(Image(frame) for frame in frames())
    times = (1, 1_000_001, 2**40)
    write_animation(tmp_path / f"a{suffix}", Animation(pictures, times, loop=10**6))
    animation = read_picture(tmp_path / f"a{suffix}")
    assert isinstance(animation, Animation)
    assert animation.loop == 0
    assert (
        animation.durations
        == {
            ".gif": (20, 655_350, 655_350),
            ".png": (1, 1_000_000, 65_535_000),
            ".webp": (1, 1_000_001, 2**24 - 1),
            ".avif": (1, 1_000_001, 2**31 - 1),
        }[suffix]
    )


def test_a_frame_that_reaches_over_the_edge_is_cut(tmp_path: Path) -> None:
    data = bytearray(save(tmp_path / "a.gif").read_bytes())
    frame = data.rindex(b",\0\0\0\0\x20\0\x18\0")  # An image descriptor: left, top, size.
    data[frame + 1 : frame + 5] = b"\x05\0\x03\0"
    (tmp_path / "b.gif").write_bytes(data)
    animation = read_picture(tmp_path / "b.gif")
    assert isinstance(animation, Animation)
    assert [frame.size for frame in animation.frames] == [(24, 32)] * 3
    whole = read_picture(tmp_path / "a.gif")
    assert isinstance(whole, Animation)
    moved, still = animation.frames[2].pixels, whole.frames[2].pixels
    assert np.array_equal(moved[3:, 5:], still[:-3, :-5])
