"""The HTML page: nothing from outside, pictures as measured, and what a browser makes of it."""

from __future__ import annotations

import base64
import io
import itertools
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import photo_like
from PIL import Image
from reports import make_report, scores

from sruplift import htmlreport
from sruplift.evaluate import Pictures, bicubic_upscale, evaluate
from sruplift.htmlreport import CROP, WHITE, Gallery, as_html, make_crop, worst_place
from sruplift.results import EvalOptions, ImageResult
from sruplift.scores import degrade, to_float, to_levels

VOID = {"meta", "img", "input"}


class Page(HTMLParser):
    """Every tag with its attributes; whether all are closed; the words outside of them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def pictures(
    name: str = "a.png", psnr: float = 30.0, height: int = 40, width: int = 48, dataset: int = 0
) -> Pictures:
    """Of a result that is bicubic but for a bright square near the right bottom corner."""
    hr = to_levels(photo_like(height, width))
    lr = to_float(degrade(hr, 2))[None]
    sr = bicubic_upscale(lr, 2)
    sr[..., -6:-2, -8:-4] += 0.9
    result = ImageResult(name, (height, width), scores(psnr))
    return Pictures(EvalOptions(("Set5",), "pan", 2), dataset, result, lr, sr, to_float(hr)[None])


def decode(webp: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(webp)) as image:
        return np.array(image.convert("RGB"))


class TestCrops:
    def test_pixels_are_those_that_were_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(htmlreport, "CROP", 16)
        given = pictures()
        crop = make_crop(given)
        place = (slice(crop.top, crop.top + 16), slice(crop.left, crop.left + 16))
        assert crop.size == (16, 16)
        bicubic = bicubic_upscale(given.lr, 2)
        for webp, image in ((crop.sr, given.sr), (crop.hr, given.hr), (crop.bicubic, bicubic)):
            expected = to_levels(image[0]).permute(1, 2, 0).numpy()[place]
            assert np.array_equal(decode(webp), expected)
        # The square is in the crop, and 0.9 of 255 levels is more than what is white.
        assert decode(crop.error).max() == 255

    def test_error_map_is_linear_in_levels_of_y(self) -> None:
        given = pictures()
        grey = torch.full_like(given.hr, 100 / 255)
        off = Pictures(given.options, 0, given.result, given.lr, grey + 10 / 255, grey)
        # Y has 219 levels where grey has 255.
        assert np.unique(decode(make_crop(off).error)) == round(10 * 219 / 255 * 255 / WHITE)

    def test_small_images_are_shown_whole(self) -> None:
        crop = make_crop(pictures(height=40, width=48))
        assert (crop.top, crop.left, crop.size) == (0, 0, (40, 48))
        assert CROP > 48

    @pytest.mark.parametrize("size", [(9, 12), (4, 12), (3, 3)])
    def test_the_worst_place_against_every_place(self, size: tuple[int, int]) -> None:
        error = torch.from_numpy(np.random.default_rng(5).random(size))
        rows, columns = (min(4, side) for side in size)
        places = itertools.product(range(size[0] - rows + 1), range(size[1] - columns + 1))
        expected = max(
            places,
            key=lambda at: error[at[0] : at[0] + rows, at[1] : at[1] + columns].square().sum(),
        )
        assert worst_place(error, 4) == expected

    def test_a_gallery_keeps_the_hardest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(htmlreport, "SHOWN", 2)
        gallery = Gallery()
        for name, psnr in (("b", 31.0), ("a", 30.0), ("d", 33.0), ("c", 29.0)):
            gallery(pictures(name, psnr))
        report = make_report(scale=2)
        assert [crop.name for crop in gallery.crops(report, 0)] == ["c", "a"]
        assert gallery.crops(make_report(scale=4), 0) == ()

    def test_sets_of_one_name_keep_their_own(self) -> None:
        """Folders of HR images are often called HR."""
        gallery = Gallery()
        for number in (0, 1):
            gallery(pictures(f"{number}.png", dataset=number))
        report = make_report(scale=2)
        assert [c.name for number in (0, 1) for c in gallery.crops(report, number)] == [
            "0.png",
            "1.png",
        ]


class TestPage:
    def test_is_whole_and_has_every_image_and_number(self) -> None:
        gallery = Gallery()
        gallery(pictures("image_0.png"))
        page = Page(as_html([make_report(scale=2), make_report("bicubic", 2)], gallery))
        assert page.open == []
        for words in ("pan x2", "bicubic x2", "image_2.png", "31.0000", "38.00 / 0.9605"):
            assert words in page.words
        assert [tag for tag, _ in page.tags].count("figure") == 1
        assert "The 1 of 3 images with the lowest PSNR:" in page.words

    def test_has_nothing_from_elsewhere(self) -> None:
        gallery = Gallery()
        gallery(pictures())
        text = as_html([make_report(scale=2)], gallery)
        page = Page(text)
        sources = [attributes["src"] for _, attributes in page.tags if "src" in attributes]
        assert len(sources) == 4
        for source in sources:
            assert source
            kind, data = source.split(",", 1)
            assert kind == "data:image/webp;base64"
            assert decode(base64.b64decode(data)).shape == (40, 48, 3)
        assert not any("href" in attributes for _, attributes in page.tags)
        assert not re.search(r"https?://|url\(|@import", text)
        assert "default-src 'none'" in text

    def test_names_are_text_and_not_markup(self) -> None:
        gallery = Gallery()
        gallery(pictures("<b>&.png"))
        page = Page(as_html([make_report(scale=2, dataset="<i>")], gallery))
        assert "<i>" in page.words
        assert not {"b", "i"} & {tag for tag, _ in page.tags}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    for index in range(2):
        pixels = to_levels(photo_like(40, 44, seed=index)).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "mine" / f"{index}.png")
    return tmp_path / "mine"


def test_an_evaluation_fills_the_gallery(folder: Path) -> None:
    gallery = Gallery()
    report = evaluate(EvalOptions((str(folder),), "bicubic", 2), keep=gallery)
    (result,) = report.datasets
    crops = gallery.crops(report, 0)
    assert {crop.name for crop in crops} == {"0.png", "1.png"}
    assert {crop.psnr for crop in crops} == set(result.values("psnr_y"))
    for crop in crops:
        assert crop.sr == crop.bicubic != crop.hr


def test_in_a_browser(folder: Path, tmp_path: Path) -> None:
    """Its script runs, every picture is decoded, and the console has no complaint."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("there is no chromium on this machine")
    gallery = Gallery()
    report = evaluate(EvalOptions((str(folder),), "bicubic", 2), keep=gallery)
    check = (
        "<script>document.title = [...document.images].every("
        "i => i.complete && i.naturalWidth === 44) ? 'all seen' : 'not seen'</script></body>"
    )
    page = tmp_path / "report.html"
    page.write_text(as_html([report], gallery).replace("</body>", check), encoding="utf-8")
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"),
            *("--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count('style="--at: 50%;"') == 2
    assert "<title>all seen</title>" in done.stdout
