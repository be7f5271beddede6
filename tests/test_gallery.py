"""`benchmarks/gallery.py`, and what it made for the documentation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sruplift.datasets import read_hr
from sruplift.metrics import psnr
from sruplift.resize import bicubic

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "tests" / "images"
PAGE = ROOT / "docs" / "gallery.md"


def run(tmp_path: Path, *crops: str) -> subprocess.CompletedProcess[str]:
    said = {"bridge.png": {"title": "A bridge", "credit": "By somebody, CC0."}}
    (tmp_path / "credits.json").write_text(json.dumps(said))
    command = [sys.executable, str(ROOT / "benchmarks" / "gallery.py"), str(IMAGES), *crops]
    options = ["--credits", str(tmp_path / "credits.json"), "--model", "pan", "-o", str(tmp_path)]
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_strip_and_a_page_with_what_was_measured(tmp_path: Path) -> None:
    done = run(tmp_path, "bridge.png:40,60,64")
    assert done.returncode == 0, done.stderr
    hr = read_hr(IMAGES / "bridge.png")
    small = bicubic(bicubic(hr, 1 / 4), 4)
    crops = [image[None, :, 60:124, 40:104].float() / 255 for image in (small, hr)]
    page = (tmp_path / "gallery.md").read_text()
    assert f"![bicubic, {psnr(*crops).item():.2f} dB; pan x4, " in page
    assert "bridge.png:40,60,64" in page
    assert str(IMAGES) not in page
    assert "By somebody, CC0." in page
    with Image.open(tmp_path / "gallery" / "bridge.webp") as strip:
        assert strip.size == (3 * 256 + 2 * 8, 256 + 28)
        original = np.asarray(strip.crop((2 * 264, 28, 784, 284)).resize((64, 64), 0))
    # Lossy, but the right place.
    shown = torch.from_numpy(original.copy()).permute(2, 0, 1)
    assert (shown - crops[1][0] * 255).abs().mean() < 8


@pytest.mark.parametrize(
    ("crop", "words"),
    [
        ("bridge.png:200,60,64", "leaves the image, which is 256x256"),
        ("none.png:0,0,8", "none.png"),
    ],
)
def test_what_cannot_be_cut(tmp_path: Path, crop: str, words: str) -> None:
    done = run(tmp_path, crop)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_page_shows_its_pictures_and_whose_they_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = {ROOT / "docs" / name for name in re.findall(r"!\[.*?\]\((.*?)\)", page)}
    made = set((ROOT / "docs" / "gallery").glob("*.webp"))
    assert shown == made
    sizes = [path.stat().st_size for path in made]
    assert max(sizes) <= 150_000
    assert sum(sizes) <= 600_000
    said = json.loads((ROOT / "docs" / "gallery" / "credits.json").read_text(encoding="utf-8"))
    for name in re.findall(r"(\S+):\d+,\d+,\d+", page):
        assert said[name]["credit"] in page
