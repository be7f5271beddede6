"""The sheet that shows before and after."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import photo

from sruplift.image import Image
from sruplift.sheet import choose_windows, comparison
from sruplift.upscaler import Upscaler


def sheet(before: Image, scale: int) -> np.ndarray:
    after, _ = Upscaler("pan", scale=scale, device="cpu").enlarge(before)
    picture = comparison(before, after, f"pan x{scale}")
    assert picture.mode == "RGB"
    return np.asarray(picture)


def test_detail_is_where_something_is() -> None:
    pixels = np.full((200, 300, 3), 90, np.uint8)
    pixels[120:160, 200:240] = photo(40, 40)
    first, *others = choose_windows(Image(pixels))
    assert abs(first.top - 120) < 20
    assert abs(first.left - 200) < 20
    for index, one in enumerate((first, *others)):
        for other in (first, *others)[index + 1 :]:
            assert max(abs(one.top - other.top), abs(one.left - other.left)) >= one.edge


def test_a_sheet_shows_both_and_they_differ() -> None:
    before = Image(photo(120, 90))
    result = sheet(before, 4)
    # Two overviews of 480x360 side by side, with margins; the crops need more width than that.
    assert result.shape[0] > 480 + 256
    assert result.shape[1] > 2 * 360
    left = result[12 : 12 + 480, 12 : 12 + 360].astype(int)
    right = result[12 : 12 + 480, 24 + 360 : 24 + 720].astype(int)
    assert 0.2 < np.abs(left - right).mean() < 20


def test_a_picture_made_tiny() -> None:
    before = Image(photo(40, 100))
    after, _ = Upscaler("pan", width=2, device="cpu").enlarge(before)
    assert after.size == (1, 2)
    assert min(comparison(before, after, "tiny").size) > 20


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (3, 70), (50, 60)])
def test_every_kind_of_picture(channels: int, dtype: type, size: tuple[int, int]) -> None:
    array = np.concatenate([photo(*size, 3), photo(*size, 3)], axis=2)[..., :channels]
    result = sheet(Image(np.ascontiguousarray(array).astype(dtype)), 2)
    assert min(result.shape[:2]) > 20
