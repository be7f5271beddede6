"""A sheet of local attribution maps: for each network what went in, what counted, what came out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from torch import Tensor

from sruplift.attribution import Window
from sruplift.explain import Explanation, NetworkExplanation
from sruplift.sheet import beside, labelled, stacked

# Panes are enlarged by whole numbers to about so many pixels.
PANE = 448
BACKGROUND = "white"
MARK = "#00e5ff"
# The map is shown on a logarithmic scale, this share of its largest value and less as nothing: on
# a linear one little but the window itself would be seen.
FAINTEST = 1e-3
# How much of the grey picture is left below the map.
DIMMED = 0.55
# The colours of the map, from faint to strong (RGB), and how much they cover what lies below.
STRENGTHS = (0.0, 0.4, 0.75, 1.0)
COLOURS = ((70, 0, 90), (200, 20, 60), (255, 140, 0), (255, 255, 170))
COVER = (0.0, 0.75, 0.95, 1.0)
BAR = (320, 16)
# Room beside the bar for half of a number.
MARGIN = 24

Picture = NDArray[np.uint8]


def draw_sheet(explanation: Explanation) -> Pillow.Image:
    """The sheet, RGB: a row for each network, below them what the colours mean.

    In a row: the crop of the input with the window marked; its grey version under the network's
    attribution map; the result; the window of the result.
    """
    rows = [_row(explanation, network) for network in explanation.networks]
    return stacked([*rows, _legend()], BACKGROUND)


def strength(attributions: Tensor) -> NDArray[np.float64]:
    """A map (h, w) as it is shown: 1 its largest value, 0 what is ``FAINTEST`` of it or less."""
    largest = attributions.max().clamp(min=torch.finfo(torch.float64).tiny)
    decades = (attributions / largest).clamp(min=FAINTEST).log10()
    shown: NDArray[np.float64] = (1 - decades / np.log10(FAINTEST)).numpy()
    return shown


def overlay(lr: Tensor, attributions: Tensor) -> Picture:
    """A map (h, w) over the grey version of a picture (3, h, w): (h, w, 3)."""
    grey = (lr.mean(0).numpy() * 255 * DIMMED)[..., None]
    return _coloured(strength(attributions), grey)


def _coloured(shown: NDArray[np.float64], below: NDArray[np.floating]) -> Picture:
    """Strengths (h, w) in colours, over what lies below (h, w, 1) from 0 to 255."""
    channels = [np.interp(shown, STRENGTHS, channel) for channel in zip(*COLOURS, strict=True)]
    cover = np.interp(shown, STRENGTHS, COVER)[..., None]
    mixed = below * (1 - cover) + np.stack(channels, axis=-1) * cover
    return mixed.round().astype(np.uint8)


def _row(explanation: Explanation, network: NetworkExplanation) -> Pillow.Image:
    crop, scale, window = explanation.crop, explanation.options.scale, explanation.window
    found = network.attribution
    factor = _factor(max(crop.height, crop.width), scale)
    size = (max(1, round(crop.width * factor)), max(1, round(crop.height * factor)))
    sr = _pixels(found.sr)
    below, right = window.top + window.size, window.left + window.size
    edge = max(size[1] // window.size, 1) * window.size
    panes = [
        _marked(_resized(picture, size), window, factor / scale)
        for picture in (_pixels(explanation.lr), overlay(explanation.lr, found.map), sr)
    ]
    panes.append(_resized(sr[window.top : below, window.left : right], (edge, edge)))
    name = f"{network.model} x{scale}"
    labels = (
        f"input: {crop.width}x{crop.height} pixels at {crop.left},{crop.top}",
        f"{name}: diffusion index {found.diffusion_index:.2f}",
        f"{name}: result",
        f"{name}: the window, {window.size}x{window.size} pixels",
    )
    return labelled(panes, labels, BACKGROUND)


def _factor(edge: int, scale: int) -> float:
    """Pixels of a pane for each of the input, whole for the result too where that is not huge."""
    factor = PANE / edge
    for unit in (scale, 1):
        if factor >= 0.75 * unit:
            return unit * round(factor / unit)
    return factor


def _pixels(picture: Tensor) -> Picture:
    """(3, h, w) -> (h, w, 3), rounded to 8 bits."""
    levels = picture.clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.movedim(0, 2).numpy())


def _resized(picture: Picture, size: tuple[int, int]) -> Pillow.Image:
    """``picture`` at (width, height): each pixel seen, unless there are more than can be."""
    enlarged = size[0] >= picture.shape[1]
    how = Pillow.Resampling.NEAREST if enlarged else Pillow.Resampling.BOX
    return Pillow.fromarray(np.ascontiguousarray(picture)).resize(size, how)


def _marked(pane: Pillow.Image, window: Window, factor: float) -> Pillow.Image:
    """``pane``, which has ``factor`` pixels for each of the result, with a frame around the window.

    The frame lies around the window, not on it.
    """
    left, top = window.left * factor, window.top * factor
    edge = window.size * factor
    draw = ImageDraw.Draw(pane)
    draw.rectangle((left - 2, top - 2, left + edge + 1, top + edge + 1), outline=MARK, width=2)
    return pane


def _legend() -> Pillow.Image:
    """The colours of the map and the shares of the largest attribution that they mean."""
    width, height = BAR
    ramp = np.tile(np.linspace(0, 1, width), (height, 1))
    bar = Pillow.fromarray(_coloured(ramp, np.full((height, width, 1), 255 * DIMMED)))
    decades = round(-np.log10(FAINTEST))
    font = ImageFont.load_default(size=13)
    ticks = Pillow.new("RGB", (width + 2 * MARGIN, height + 20), BACKGROUND)
    ticks.paste(bar, (MARGIN, 0))
    draw = ImageDraw.Draw(ticks)
    for decade in range(decades + 1):
        place = MARGIN + width * decade / decades
        share = 100 * 10.0 ** (decade - decades)
        draw.text((place, height + 2), f"{share:g} %", fill="black", font=font, anchor="ma")
    words = Pillow.new("RGB", (900, height + 20), BACKGROUND)
    text = "of the largest attribution of a pixel, in each map of its own"
    ImageDraw.Draw(words).text((0, 0), text, fill="black", font=font)
    return beside([ticks, words], BACKGROUND)
