"""Animations: GIF, WebP, APNG and AVIF as whole frames with their timing."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image as Pillow

from sruplift.decoding import (
    ANIMATED,
    MAX_PIXELS,
    check_png,
    check_size,
    collected_warnings,
    count_frames,
    damaged,
    open_picture,
    opened,
    sentence,
    unreadable,
)
from sruplift.errors import ImageError
from sruplift.files import WRITABLE, shown
from sruplift.fit import fitted, opaque_or_clear
from sruplift.image import Image, check_holds, encoder_options, from_pillow, to_pillow
from sruplift.metadata import HEADER_BYTES, exif_resolution, stored_bits
from sruplift.outfile import check_destination, new_file
from sruplift.reading import orientation_of, read_image, read_metadata, turned_upright
from sruplift.xmp import gif_with_xmp

# What browsers show a frame for that does not say how long, milliseconds.
DEFAULT_DURATION = 100
# The longest that a format can show a frame for, milliseconds: 16 bits of hundredths of a second,
# of seconds, 24 bits of milliseconds, and what fits an integer.
LONGEST = {"GIF": 655_350, "PNG": 65_535_000, "WEBP": 2**24 - 1, "AVIF": 2**31 - 1}
# Browsers take less for 100.
SHORTEST = {"GIF": 20}
MOST_LOOPS = 65_535


@dataclass(frozen=True, eq=False)
class Animation:
    """``frames`` are whole pictures of one size, shown for ``durations`` milliseconds each.

    ``loop``: how many times it is played, 0 for ever. The first frame has the metadata of all.
    """

    frames: tuple[Image, ...]
    durations: tuple[int, ...]
    loop: int = 0


def read_picture(
    path: Path, *, max_pixels: int = MAX_PIXELS, folder: Path | None = None
) -> Image | Animation:
    """Read a still image as ``read_image`` does, or an animation with all its frames.

    Raises:
        ImageError: as ``read_image``; ``max_pixels`` counts the pixels of all frames.
    """
    notes: list[str] = []
    with opened(path) as file, collected_warnings(notes):
        try:
            picture = open_picture(path, file, max_pixels)
        except ImageError:
            picture = None  # ``read_image`` says why, or can.
        if picture is not None and picture.format in ANIMATED and count_frames(path, picture) > 1:
            return _read_frames(path, file, picture, max_pixels)
    return read_image(path, max_pixels=max_pixels, folder=folder)


def check_animates(path: Path) -> None:
    """Refuse a destination whose format holds one picture only.

    Raises:
        ImageError: with the suffixes that hold more.
    """
    if WRITABLE[path.suffix.lower()] not in ANIMATED:
        suffixes = ", ".join(s for s, kind in WRITABLE.items() if kind in ANIMATED)
        raise ImageError(
            f"cannot write {shown(path)}: {path.suffix} holds no animation (these do: {suffixes})"
        )


def write_animation(
    path: Path, animation: Animation, *, quality: int | None = None, overwrite: bool = False
) -> tuple[str, ...]:
    """Write ``animation`` in the format of ``path``'s suffix, whole or not at all.

    Returns:
        Sentences about what the format could not hold.

    Raises:
        ImageError: the file exists, cannot be written, or the format holds no animation.
        UsageError: the suffix is not one of a format that can be written.
    """
    check_destination(path, overwrite)
    check_animates(path)
    kind = WRITABLE[path.suffix.lower()]
    check_holds(path, kind, animation.frames[0])
    frames = [fitted(frame, kind) for frame in animation.frames]
    if kind == "GIF":
        frames = [opaque_or_clear(frame) for frame in frames]
    first = frames[0]
    options = encoder_options(first, kind, quality) | _timing(animation, kind)
    pictures = [to_pillow(frame) for frame in frames]
    buffer = io.BytesIO()
    with new_file(path, overwrite) as temporary:
        try:
            pictures[0].save(
                buffer,
                kind,
                save_all=True,
                append_images=pictures[1:],
                icc_profile=first.icc_profile,
                **options,
            )
        except Exception as error:  # Encoders raise nearly everything.
            raise ImageError(f"cannot write {shown(path)}: {sentence(error)}") from error
        data = buffer.getvalue()
        if kind == "GIF" and first.xmp:
            data = gif_with_xmp(data, first.xmp)
        temporary.write_bytes(data)
    notes = list(first.notes)
    if kind == "AVIF" and animation.loop:
        notes.append(f"AVIF is played for ever, not {animation.loop} times")
    least = SHORTEST.get(kind, 1)
    if any(each < least for each in animation.durations):
        notes.append(f"frames are shown for {least} ms at least: browsers take less for 100")
    return tuple(notes)


def _read_frames(path: Path, file: BinaryIO, picture: Pillow.Image, max_pixels: int) -> Animation:
    count = count_frames(path, picture)
    place = file.tell()
    file.seek(0)
    bits = stored_bits(file.read(HEADER_BYTES), picture)
    file.seek(place)  # Where the decoder goes on.
    check_size(path, picture.width * count, picture.height, max_pixels)
    check_png(path, file)
    # An APNG may have a picture for those who cannot show the frames.
    first = 1 if picture.info.get("default_image") else 0
    frames, durations = [], []
    size = picture.size
    try:
        told = picture.info.get("loop")
        loop = _plays(told) if picture.format == "GIF" else int(told or 0)
        for index in range(first, count):
            picture.seek(index)
            picture.load()
            if index == first:
                notes = ["the picture for programs without animation is left out"] * first
                found = read_metadata(path, picture, notes)
                orientation = orientation_of(picture)
            durations.append(round(picture.info.get("duration") or 0))
            frames.append(from_pillow(_whole(picture, size, orientation)))
    except MemoryError as error:
        raise unreadable(path, "not enough memory") from error
    except ImageError as error:
        raise unreadable(path, str(error)) from error
    except Exception as error:  # Decoders raise nearly everything.
        raise damaged(path, error) from error
    channels = max(frame.array.shape[2] for frame in frames)
    same = [frame if frame.array.shape[2] == channels else _as(frame, channels) for frame in frames]
    notes += [note for frame in same for note in frame.notes]
    if bits > 8:
        notes.append(f"of {bits} bits per channel, animations keep 8")
    if not all(durations):
        shown = f"{DEFAULT_DURATION} ms, as browsers show them"
        notes.append(f"frames that are shown for no time, or do not say how long, get {shown}")
    durations = [each or DEFAULT_DURATION for each in durations]
    dpi = same[0].dpi or exif_resolution(found["exif"])
    same[0] = dataclasses.replace(same[0], **found, dpi=dpi, notes=tuple(dict.fromkeys(notes)))
    return Animation(tuple(same), tuple(durations), loop)


def _plays(repetitions: int | None) -> int:
    """How many times a GIF is played: it says how often again (its NETSCAPE2.0 block)."""
    if repetitions is None:
        return 1
    return repetitions + 1 if repetitions else 0


def _whole(picture: Pillow.Image, size: tuple[int, int], orientation: int) -> Pillow.Image:
    """A frame as RGB or RGBA, upright: some of a GIF's are palettes, some are not.

    What reaches over the edge of the first is cut off: it makes the picture grow in Pillow only.
    """
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    if picture.mode.startswith("I"):  # Grey of 16 bits, which Pillow would clip to 8.
        exact = np.asarray(picture)
        frame = Pillow.fromarray(np.round(exact / 257).astype(np.uint8)).convert(mode)
        clear = picture.info.get("transparency")
        if isinstance(clear, int):  # This level, to the last of its 16 bits.
            frame.putalpha(Pillow.fromarray(np.where(exact == clear, 0, 255).astype(np.uint8)))
    else:
        frame = picture.convert(mode)
    if frame.size != size:
        frame = frame.crop((0, 0, *size))
    frame.info = {key: picture.info[key] for key in ("icc_profile", "dpi") if key in picture.info}
    return turned_upright(frame, orientation)


def _as(frame: Image, channels: int) -> Image:
    picture = to_pillow(frame).convert({3: "RGB", 4: "RGBA"}[channels])
    return dataclasses.replace(frame, array=from_pillow(picture).array)


def _timing(animation: Animation, kind: str) -> dict[str, Any]:
    """Pillow's options, with the nearest that the format can say."""
    least, most = SHORTEST.get(kind, 1), LONGEST[kind]
    durations = [min(max(each, least), most) for each in animation.durations]
    if kind == "AVIF":  # Its encoder takes no count of repetitions.
        return {"duration": durations}
    # More often than a format can say is for ever. A GIF says how often again.
    most = MOST_LOOPS + (kind == "GIF")
    loop = animation.loop if animation.loop <= most else 0
    if kind == "GIF":
        # A frame with holes must not show the one before; each is whole.
        holes = {"disposal": 2} if animation.frames[0].alpha is not None else {}
        once = {} if loop == 1 else {"loop": max(loop - 1, 0)}
        return {"duration": durations, **once, **holes}
    if kind == "PNG":  # A fraction of two 16-bit numbers: in a long time no thousandths fit.
        durations = [each if each <= 65_535 else round(each, -3) for each in durations]
    return {"duration": durations, "loop": loop}
