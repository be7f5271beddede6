"""The sheet of local attribution maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import photo
from PIL import ImageColor

from sruplift.attribution import Attribution, Window
from sruplift.explain import ExplainOptions, Explanation, NetworkExplanation, place_crop
from sruplift.explainsheet import DIMMED, MARK, draw_sheet, overlay, strength
from sruplift.sheet import GAP, LABEL
from sruplift.weights import WeightsFile

# What margins, a row's label and the legend take.
AROUND = 3 * GAP + LABEL + 36
CORNER = Window(8, 12, 8)


def sheet(context: int, *, models: int = 1, scale: int = 4, window: Window = CORNER) -> np.ndarray:
    """Of a photo 60 pixels high, its upper left corner."""
    options = ExplainOptions(window, ("pan",) * models, scale, context=context)
    crop = place_crop((60, 700), options)
    assert (crop.top, crop.left) == (0, 0)
    lr = torch.from_numpy(photo(60, 700)[: crop.height, : crop.width]).movedim(2, 0) / 255
    sr = lr.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    file = WeightsFile(Path("pan.safetensors"), "ab" * 32, "pan", scale, "file")
    network = NetworkExplanation("pan", file, Attribution(lr.double(), sr, 1.0, 2.0), 3)
    picture = draw_sheet(
        Explanation(options, (60, 700), crop, options.window, lr, "cpu", (network,) * models)
    )
    assert picture.mode == "RGB"
    return np.asarray(picture)


def test_a_row_for_each_network() -> None:
    one = sheet(64)
    assert one.shape[0] == 60 * 8 + AROUND
    assert one.shape[1] >= 4 * 480
    two = sheet(64, models=2)
    assert two.shape[0] == one.shape[0] + 60 * 8 + LABEL + GAP
    row = 60 * 8 + LABEL
    # The same network: its rows are the same.
    np.testing.assert_array_equal(two[GAP : GAP + row], two[2 * GAP + row : 2 * GAP + 2 * row])


def test_panes_show_pixels_and_the_window_is_marked() -> None:
    result = sheet(64)
    lr = photo(60, 700)[:, :64]
    pane = result[GAP : GAP + 480, GAP : GAP + 512]
    marked = (pane == ImageColor.getrgb(MARK)).all(axis=2)
    rows, columns = np.nonzero(marked)
    # The window's result pixels 8…15 and 12…19 are shown twice as large, the frame around them.
    assert (rows.min(), rows.max()) == (16 - 2, 32 + 1)
    assert (columns.min(), columns.max()) == (24 - 2, 40 + 1)
    np.testing.assert_array_equal(pane[4::8, 4::8][10:], lr[10:])


@pytest.mark.parametrize(("context", "scale"), [(5, 3), (12, 2), (300, 4), (700, 2)])
def test_crops_of_every_size(context: int, scale: int) -> None:
    result = sheet(context, scale=scale, window=Window(0, 0, 8))
    assert result.shape[1] <= 4 * 640 + 5 * GAP


def test_the_scale_is_logarithmic() -> None:
    shown = strength(torch.tensor([[1.0, 0.1, 0.01, 0.001, 1e-9, 0.0]], dtype=torch.float64) * 7)
    np.testing.assert_allclose(shown, [[1, 2 / 3, 1 / 3, 0, 0, 0]], atol=1e-12)


def test_the_overlay_leaves_grey_what_does_not_count() -> None:
    lr = torch.full((3, 2, 2), 0.5)
    shown = overlay(lr, torch.tensor([[1.0, 0.0], [0.03, 0.0]], dtype=torch.float64))
    grey = round(127.5 * DIMMED)
    assert shown[0, 1].tolist() == [grey] * 3
    red, _, blue = (int(value) for value in shown[1, 0])
    assert red > blue + 50
    assert shown[0, 0].min() > shown[1, 0].mean()
