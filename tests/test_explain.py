"""Crops, refusals and what is told of local attribution maps of a photo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import bilinear_pan, photo

from sruplift import explain as service
from sruplift.attribution import BlurPath, Window
from sruplift.errors import SrupliftError, UsageError, WeightsError
from sruplift.explain import (
    Crop,
    ExplainOptions,
    Explanation,
    explain,
    explanation_as_dict,
    place_crop,
)
from sruplift.image import Image
from sruplift.weights import load_model

QUICK = BlurPath(steps=2)


@pytest.fixture(scope="module")
def bilinear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PAN x4 that enlarges bilinearly, so that each result pixel sees four of the input."""
    return bilinear_pan(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def explanation(bilinear: Path) -> Explanation:
    options = ExplainOptions(
        Window(80, 200, 16), ("pan", "pan"), 4, (bilinear, bilinear), 20, QUICK, "cpu"
    )
    return explain(Image(photo(60, 90)), options)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        # LR 20…23 and 50…53: 22 and 52 in the middle of 20 pixels.
        (Window(80, 200, 16), Crop(12, 42, 20, 20)),
        (Window(0, 0, 16), Crop(0, 0, 20, 20)),
        (Window(224, 344, 16), Crop(40, 70, 20, 20)),
        # As large as the crop: there is one place for it.
        (Window(4, 8, 80), Crop(1, 2, 20, 20)),
    ],
)
def test_the_window_is_in_the_middle_of_the_crop(window: Window, expected: Crop) -> None:
    assert place_crop((60, 90), ExplainOptions(window, context=20)) == expected


def test_a_photo_smaller_than_the_context_is_taken_whole() -> None:
    options = ExplainOptions(Window(40, 200, 16))
    assert place_crop((30, 90), options) == Crop(0, 20, 30, 64)


def test_every_window_lies_in_its_crop() -> None:
    for scale in (2, 3, 4):
        for top in range(30 * scale - 17):
            window = Window(top, 30 * scale - 18 - top, 17)
            options = ExplainOptions(window, scale=scale, context=10)
            crop = place_crop((30, 30), options)
            first, left, bottom, right = window.footprint(scale)
            assert crop.top <= first < bottom <= crop.top + crop.height <= 30
            assert crop.left <= left < right <= crop.left + crop.width <= 30
            # In the middle, to half a pixel, unless the photo ends.
            if 0 < crop.top < 20:
                assert abs((first + bottom) - (2 * crop.top + 10)) <= 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"window": Window(0, 360, 16)}, "360,0,16 is not inside the result, which has 360x240"),
        ({"window": Window(-1, 0, 16)}, "0,-1,16 is not inside"),
        ({"window": Window(230, 0, 16)}, "0,230,16 is not inside"),
        ({"window": Window(0, 0, 84), "context": 20}, "covers 21 pixels of the input, more than"),
        ({"window": Window(0, 0, 3)}, "at least 4 pixels of the result, not 3"),
        ({"models": ()}, "at least one model"),
        ({"models": ("pam",)}, "unknown model 'pam'; did you mean 'pan'"),
        ({"models": ("pan", "a2n"), "weights": ("a",)}, "2 models and 1 weights"),
        ({"scale": 5}, "no scale 5"),
        ({"device": "tpu"}, "unknown device"),
    ],
)
def test_what_cannot_be_meant(wrong: dict[str, object], words: str) -> None:
    fields = {"window": Window(0, 0, 16), "device": "cpu", **wrong}
    with pytest.raises(UsageError, match=words):
        explain(Image(photo(60, 90)), ExplainOptions(**fields))


def test_all_weights_are_found_before_the_first_network_runs(
    monkeypatch: pytest.MonkeyPatch, bilinear: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(service, "load_model", lambda *_: pytest.fail("it ran"))
    options = ExplainOptions(
        Window(0, 0, 16), ("pan", "pan"), weights=(bilinear, tmp_path / "none"), device="cpu"
    )
    with pytest.raises(WeightsError, match="does not exist"):
        explain(Image(photo(60, 90)), options)


def test_the_crop_is_what_the_network_sees(explanation: Explanation, bilinear: Path) -> None:
    assert explanation.crop == Crop(12, 42, 20, 20)
    assert explanation.window == Window(32, 32, 16)
    pixels = torch.from_numpy(photo(60, 90)[12:32, 42:62]).movedim(2, 0) / 255
    torch.testing.assert_close(explanation.lr, pixels)
    first, second = explanation.networks
    with torch.no_grad():
        sr = load_model("pan", 4, bilinear)(pixels[None])[0]
    torch.testing.assert_close(first.attribution.sr, sr)
    assert torch.equal(first.attribution.values, second.attribution.values)


def test_bilinear_counts_the_next_pixel_and_no_other(explanation: Explanation) -> None:
    found = explanation.networks[0].attribution.map
    rows, columns = torch.nonzero(found > found.max() * 1e-6, as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (7, 12)
    assert (int(columns.min()), int(columns.max())) == (7, 12)
    assert explanation.networks[0].reach == 1


def test_grey_alpha_and_16_bits(bilinear: Path) -> None:
    options = ExplainOptions(
        Window(16, 16, 8), weights=(bilinear,), context=12, path=QUICK, device="cpu"
    )
    grey = photo(20, 20, 1)[..., None]
    deep = np.concatenate([grey.astype(np.uint16) * 257, np.full_like(grey, 9, np.uint16)], axis=2)
    maps = []
    for array in (grey, deep, np.repeat(grey, 3, axis=2)):
        explanation = explain(Image(array), options)
        assert explanation.lr.shape == (3, 12, 12)
        maps.append(explanation.networks[0].attribution.map)
    torch.testing.assert_close(maps[0], maps[1], atol=1e-6, rtol=1e-4)
    assert torch.equal(maps[0], maps[2])


def test_progress_names_the_network(bilinear: Path) -> None:
    told: list[tuple[str, int, int]] = []
    options = ExplainOptions(
        Window(0, 0, 8), weights=(bilinear,), context=8, path=QUICK, device="cpu"
    )
    explain(Image(photo(20, 20)), options, lambda *now: told.append(now))
    assert told == [("pan", 1, 2), ("pan", 2, 2)]


def test_too_little_memory_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, bilinear: Path
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(service, "attribute", full)
    options = ExplainOptions(Window(0, 0, 8), weights=(bilinear,), context=8, device="cpu")
    with pytest.raises(SrupliftError, match="gradients of 8x8 pixels: take a smaller context"):
        explain(Image(photo(20, 20)), options)


def test_as_json(explanation: Explanation) -> None:
    data = json.loads(json.dumps(explanation_as_dict(explanation), allow_nan=False))
    assert data["window"] == {"x": 200, "y": 80, "size": 16}
    assert data["crop"] == {"x": 42, "y": 12, "width": 20, "height": 20}
    assert data["path"] == {"sigma": 1.2, "steps": 2, "kernel": 9}
    network = data["networks"][0]
    assert network["diffusion_index"] == pytest.approx(100 * (1 - network["gini"]))
    assert network["diffusion_index"] == explanation.networks[0].attribution.diffusion_index
    assert "2011.11036" in data["method"]
