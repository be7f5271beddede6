"""What counts as done is right: colours in their order, alpha or a word about it, never black."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from corpus import RGB_ALPHA, Drawing, png
from PIL import Image as Pillow
from torch import Tensor, nn

from sruplift import store, vips
from sruplift.errors import NumericalError
from sruplift.reading import read_image
from sruplift.upscale import upscale_file
from sruplift.upscaler import Upscaler

FORMATS = [".png", ".tif", ".webp", ".avif", ".jpg", ".gif"]
# Red, green, blue, orange: no two channels may change places unnoticed.
COLOURS = np.array([(250, 10, 20), (20, 240, 30), (10, 30, 230), (240, 130, 20)])


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")


class Spoilt(nn.Module):
    """Right, but for one value where the picture is brightest."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        result = F.interpolate(x, scale_factor=2, mode="nearest")
        if float(x.max()) > 0.99:
            result[:, 1, 3, 5] = self.value
        return result


class Black(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(x.shape[0], 3, x.shape[2] * 2, x.shape[3] * 2)


def upscaler(network: nn.Module, **options: object) -> Upscaler:
    return Upscaler(network, scale=2, device="cpu", precision="fp32", **options)


def patches(alpha: bool) -> np.ndarray:
    """Four patches (16, 64, 3 or 4), the last of which is half transparent."""
    pixels = COLOURS.repeat(16, axis=0)[None].repeat(16, axis=0)
    if not alpha:
        return pixels.astype(np.uint8)
    plane = np.full((16, 64, 1), 255)
    plane[:, 48:] = 100
    return np.concatenate([pixels, plane], axis=2).astype(np.uint8)


def source(folder: Path, depth: int, alpha: bool) -> Path:
    pixels = patches(alpha)
    path = folder / "a.png"
    if depth == 8:
        Pillow.fromarray(pixels).save(path)
    else:
        full = patches(True).astype(np.int64)
        full[..., 3] = 255 if not alpha else full[..., 3]
        path.write_bytes(png(Drawing(RGB_ALPHA, 16, full * 257)))
    return path


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("suffix", FORMATS)
def test_colours_and_alpha_arrive(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    depth: int,
    streamed: bool,
    alpha: bool,
) -> None:
    """Looked at by Pillow, in 8 bits, whoever wrote it."""
    path = source(tmp_path, depth, alpha)
    if streamed:
        monkeypatch.setattr(store, "IN_MEMORY", 0)
        monkeypatch.setattr(vips, "STRIP", 500)
    output = tmp_path / f"b{suffix}"
    result = upscale_file(path, output, upscaler(Twice()))
    image = read_image(output) if suffix == ".tif" and depth == 16 else None
    if image is not None:  # Pillow has no 16 bits of colour: it is enough that it agrees on 8.
        seen = (image.array // 257).astype(int)
    else:
        with Pillow.open(output) as picture:
            seen = np.asarray(picture.convert("RGBA")).astype(int)
    middle = seen[16, 16::32]
    holds = suffix in (".png", ".tif", ".webp", ".avif")
    expected = COLOURS.astype(float)
    if alpha and not holds and suffix != ".gif":
        expected[3] = 255 + (expected[3] - 255) * 100 / 255  # On white.
        assert any("is laid on white" in note for note in result.notes)
    exact = suffix in (".png", ".tif")
    compared = slice(0, 3 if alpha and suffix == ".gif" else 4)
    assert np.abs(middle[compared, :3] - expected[compared]).max() <= (1 if exact else 40)
    if alpha and holds:
        assert np.abs(middle[:, 3] - [255, 255, 255, 100]).max() <= (0 if exact else 3)
    if alpha and suffix == ".gif":
        assert any("a GIF has no soft edges" in note for note in result.notes)
    if depth == 16 and not exact:
        kept = "keeps 12 bits per channel" if suffix == ".avif" else "of 16 bits per channel"
        assert any(kept in note for note in result.notes)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_no_number_is_enough(tmp_path: Path, value: float) -> None:
    pixels = np.full((40, 40, 3), 100, np.uint8)
    pixels[30, 30] = 255  # Only the tiles that have it are spoilt.
    Pillow.fromarray(pixels).save(tmp_path / "a.png")
    network = upscaler(Spoilt(value), tile_size=16, overlap=4)
    with pytest.raises(NumericalError, match=r"a\.png: the network returned NaN or infinity"):
        upscale_file(tmp_path / "a.png", tmp_path / "b.png", network)
    assert not (tmp_path / "b.png").exists()


def test_black_is_a_failure_where_the_picture_is_not(tmp_path: Path) -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    Pillow.fromarray(pixels).save(tmp_path / "a.png")
    network = upscaler(Black(), tile_size=16, overlap=4)
    upscale_file(tmp_path / "a.png", tmp_path / "b.png", network)
    assert not read_image(tmp_path / "b.png").array.any()
    pixels[24:, 24:] = 90
    Pillow.fromarray(pixels).save(tmp_path / "c.png")
    with pytest.raises(NumericalError, match=r"c\.png: the network returned black"):
        upscale_file(tmp_path / "c.png", tmp_path / "d.png", network)
    assert not (tmp_path / "d.png").exists()
