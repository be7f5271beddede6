"""A sheet that shows what the network did: bicubic beside the result, and a few crops enlarged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from sruplift.image import Image
from sruplift.resize import bicubic

# The larger pictures are shown at most so large, and crops at least so large; pixels.
OVERVIEW = 1000
CROP = 256
# A crop's edge in pixels of the input, and how many there are.
WINDOW = 40
CROPS = 3
GAP = 12
LABEL = 22
COLOURS = ("#e6194b", "#3cb44b", "#4363d8")


@dataclass(frozen=True)
class Window:
    """A square of the input: its first row and column, and its edge."""

    top: int
    left: int
    edge: int


def comparison(before: Image, after: Image, name: str, background: str = "white") -> Pillow.Image:
    """The sheet, RGB: overviews on top, below for each crop bicubic and ``name`` side by side.

    Args:
        before: the picture that was enlarged.
        after: the result.
        name: what the result is called on the sheet.
        background: the colour behind transparent pixels and around the pictures.
    """
    windows = choose_windows(before)
    panes = [_overview(before, after, windows, background), _overview(after, after, (), background)]
    rows = [labelled(panes, ("bicubic", name), background)]
    for window, colour in zip(windows, COLOURS, strict=False):
        crops = [_framed(each, colour) for each in _crops(before, after, window, background)]
        rows.append(labelled(crops, ("bicubic", name), background))
    return stacked([rows[0], beside(rows[1:], background)], background)


def choose_windows(image: Image) -> list[Window]:
    """The squares of ``image`` with the most detail, apart from each other."""
    height, width = image.size
    edge = min(WINDOW, height, width)
    candidates = [
        Window(top, left, edge) for top in _steps(height, edge) for left in _steps(width, edge)
    ]
    ranked = sorted(candidates, key=lambda w: -_detail(image, w))
    chosen: list[Window] = []
    for window in ranked:
        if all(_apart(window, other) for other in chosen):
            chosen.append(window)
        if len(chosen) == CROPS:
            break
    return chosen


def _steps(length: int, edge: int) -> list[int]:
    """Up to 24 places along an axis."""
    count = min(24, max(1, 2 * length // edge - 1))
    return [round(i * (length - edge) / max(count - 1, 1)) for i in range(count)]


def _detail(image: Image, window: Window) -> float:
    pixels = image.pixels[
        window.top : window.top + window.edge, window.left : window.left + window.edge
    ]
    values = pixels.astype(np.float32).mean(axis=2)
    steps = [np.abs(np.diff(values, axis=axis)) for axis in (0, 1)]
    return sum(float(each.mean()) if each.size else 0.0 for each in steps)


def _apart(one: Window, other: Window) -> bool:
    return max(abs(one.top - other.top), abs(one.left - other.left)) >= one.edge


def _crops(
    before: Image, after: Image, window: Window, background: str
) -> tuple[Pillow.Image, Pillow.Image]:
    """A window of the input by bicubic, and the same of the result, in the size of a crop."""
    scale = after.size[0] / before.size[0], after.size[1] / before.size[1]
    size = tuple(max(1, round(window.edge * factor)) for factor in scale)
    factor = max(1, round(CROP / max(size)))
    shown = (size[1] * factor, size[0] * factor)
    # With neighbours, or bicubic would repeat the crop's border.
    top, left = max(0, window.top - 4), max(0, window.left - 4)
    bottom, right = window.top + window.edge + 4, window.left + window.edge + 4
    part = before.array[top:bottom, left:right]
    large = tuple(max(1, round(side * by)) for side, by in zip(part.shape, scale, strict=False))
    smooth = _resized(part, large)
    inner = (round((window.top - top) * scale[0]), round((window.left - left) * scale[1]))
    low = smooth[inner[0] : inner[0] + size[0], inner[1] : inner[1] + size[1]]
    corner = round(window.top * scale[0]), round(window.left * scale[1])
    high = after.array[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
    nearest = Pillow.Resampling.NEAREST
    panes = [_rgb(each, background).resize(shown, nearest) for each in (low, high)]
    return panes[0], panes[1]


def _overview(
    image: Image, after: Image, windows: Sequence[Window], background: str
) -> Pillow.Image:
    """``image`` as large as ``after`` is shown, its windows marked."""
    height, width = after.size
    factor = min(1.0, OVERVIEW / max(height, width))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    # What is far too large is thinned out first: the overview has no use for every pixel.
    step = max(1, min(image.size[0] // (4 * size[0]), image.size[1] // (4 * size[1])))
    pane = _rgb(_resized(image.array[::step, ::step], size), background)
    draw = ImageDraw.Draw(pane)
    for window, colour in zip(windows, COLOURS, strict=False):
        y, x = size[0] / image.size[0], size[1] / image.size[1]
        box = (window.left * x, window.top * y)
        end = ((window.left + window.edge) * x, (window.top + window.edge) * y)
        draw.rectangle((*box, *end), outline=colour, width=2)
    return pane


def _resized(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """(H, W, C) of 8 or 16 bits resized by bicubic, as 8 bits."""
    planes = torch.from_numpy(array.astype(np.float32) / np.iinfo(array.dtype).max)
    large = bicubic(planes.movedim(2, 0), size=size).clamp(0, 1)
    return large.mul(255).round().movedim(0, 2).to(torch.uint8).numpy()


def _rgb(array: NDArray[Any], background: str) -> Pillow.Image:
    """Pixels of either depth as RGB, before ``background``."""
    if array.dtype == np.uint16:
        array = (array / 257).round().astype(np.uint8)
    array = np.ascontiguousarray(array)
    picture = Pillow.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    if array.shape[2] in (1, 3):
        return picture.convert("RGB")
    behind = Pillow.new("RGBA", picture.size, background)
    return Pillow.alpha_composite(behind, picture.convert("RGBA")).convert("RGB")


def _framed(picture: Pillow.Image, colour: str) -> Pillow.Image:
    framed = Pillow.new("RGB", (picture.width + 4, picture.height + 4), colour)
    framed.paste(picture, (2, 2))
    return framed


def labelled(panes: Sequence[Pillow.Image], labels: Sequence[str], background: str) -> Pillow.Image:
    """Pictures side by side, each with its label below."""
    font = ImageFont.load_default(size=15)
    named = []
    for pane, label in zip(panes, labels, strict=True):
        sheet = Pillow.new("RGB", (pane.width, pane.height + LABEL), background)
        sheet.paste(pane, (0, 0))
        draw = ImageDraw.Draw(sheet)
        dark = sum(sheet.getpixel((0, pane.height))) > 380  # type: ignore[arg-type]
        draw.text((2, pane.height + 2), label, fill="black" if dark else "white", font=font)
        named.append(sheet)
    return beside(named, background)


def beside(pictures: Sequence[Pillow.Image], background: str) -> Pillow.Image:
    """Pictures in a row, their tops in line."""
    width = sum(each.width for each in pictures) + GAP * (len(pictures) - 1)
    sheet = Pillow.new("RGB", (width, max(each.height for each in pictures)), background)
    left = 0
    for each in pictures:
        sheet.paste(each, (left, 0))
        left += each.width + GAP
    return sheet


def stacked(pictures: Sequence[Pillow.Image], background: str) -> Pillow.Image:
    """Pictures one below the other, with a margin around all."""
    height = sum(each.height for each in pictures) + GAP * (len(pictures) + 1)
    width = max(each.width for each in pictures) + 2 * GAP
    sheet = Pillow.new("RGB", (width, height), background)
    top = GAP
    for each in pictures:
        sheet.paste(each, (GAP, top))
        top += each.height + GAP
    return sheet
