"""Crops side by side: bicubic, networks, and the original; writes gallery.md and its pictures.

Each image is made smaller by MATLAB's bicubic and enlarged again as a whole, in float32 as papers
measure. Each crop is labelled with its PSNR on Y, measured before the picture is compressed.

    python benchmarks/gallery.py IMAGES NAME:X,Y,SIZE... --credits FILE [--model pan ...] [-o docs]

IMAGES is a folder; X, Y and SIZE are pixels of the original. FILE is JSON, with what must be said
of each image: {"NAME": {"title": ..., "credit": ...}}. The networks are pan and the best other one
with released weights, if --model names none.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sruplift.datasets import read_hr
from sruplift.errors import SrupliftError
from sruplift.manifest import read_manifest
from sruplift.metrics import psnr
from sruplift.resize import bicubic, modcrop
from sruplift.upscaler import Upscaler

MAX_BYTES = 150_000
WIDTH = 256  # of a column, at least; crops are magnified by whole numbers
GAP = 8
LABEL = 28


@dataclass(frozen=True)
class Crop:
    """A square of an image, in pixels of the original."""

    name: str
    x: int
    y: int
    size: int

    @classmethod
    def parse(cls, text: str) -> Crop:
        name, _, numbers = text.rpartition(":")
        x, y, size = map(int, numbers.split(","))
        if not name or min(x, y) < 0 or size < 1:
            raise ValueError(text)
        return cls(name, x, y, size)

    def __str__(self) -> str:
        return f"{self.name}:{self.x},{self.y},{self.size}"

    def cut(self, image: Tensor) -> Tensor:
        """(3, H, W) -> (3, size, size)."""
        square = image[:, self.y : self.y + self.size, self.x : self.x + self.size]
        if square.shape[1:] != (self.size, self.size):
            height, width = image.shape[1:]
            sys.exit(f"{self.name}: the crop leaves the image, which is {width}x{height}")
        return square


def columns(hr: Tensor, crop: Crop, scale: int, models: list[str]) -> list[tuple[str, Tensor]]:
    """What stands side by side, labelled; (3, size, size) ``uint8`` each."""
    hr = modcrop(hr, scale)
    lr = bicubic(hr, 1 / scale)
    enlarged = {"bicubic": bicubic(lr, scale)}
    for model in models:
        enlarged[f"{model} x{scale}"] = Upscaler(model, scale=scale, precision="fp32")(lr)
    original = crop.cut(hr)
    found = []
    for name, image in enlarged.items():
        square = crop.cut(image)
        decibels = psnr(square[None].float() / 255, original[None].float() / 255).item()
        found.append((f"{name}, {decibels:.2f} dB", square))
    return [*found, ("original", original)]


def draw(squares: list[tuple[str, Tensor]]) -> Image.Image:
    """One strip. Pixels are repeated, not smoothed: what is seen is what was measured."""
    size = squares[0][1].shape[-1]
    width = size * -(-WIDTH // size)
    strip = Image.new("RGB", (len(squares) * (width + GAP) - GAP, width + LABEL), "white")
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(18)
    for place, (label, square) in enumerate(squares):
        left = place * (width + GAP)
        picture = Image.fromarray(square.permute(1, 2, 0).numpy())
        strip.paste(picture.resize((width, width), Image.Resampling.NEAREST), (left, LABEL))
        pen.text((left, 2), label, fill="black", font=font)
    return strip


def save(strip: Image.Image, path: Path) -> None:
    """As WebP, in the best quality that fits."""
    for quality in (95, 90, 85, 80, 70, 60):
        strip.save(path, quality=quality, method=6)
        if path.stat().st_size <= MAX_BYTES:
            return
    sys.exit(f"{path} is larger than {MAX_BYTES} bytes: choose a smaller crop")


def best_other(scale: int) -> list[str]:
    """The network besides PAN whose released weights measure best, if there is one."""
    entries = [e for e in read_manifest().weights if e.scale == scale and e.model != "pan"]
    ranked = sorted((e.metrics["Set5"].psnr_y, e.model) for e in entries if "Set5" in e.metrics)
    return [model for _, model in ranked[-1:]]


def page(options: argparse.Namespace, models: list[str], sections: list[str]) -> str:
    weights = [read_manifest().find(model, options.scale) for model in models]
    pinned = ", ".join(f"`{entry.file}` (sha256 `{entry.sha256[:12]}…`)" for entry in weights)
    words = ["python", "benchmarks/gallery.py", "IMAGES", *map(str, options.crops)]
    words += ["--credits", options.credits.as_posix()]
    if options.scale != 4:
        words += ["--scale", str(options.scale)]
    for model in options.model:
        words += ["--model", model]
    return "\n".join(
        [
            "# Gallery",
            "",
            "Validation images of the released weights: no network was trained on them, but the"
            " iterations that were kept are those that did best on them. Each was made smaller by"
            f" {options.scale} with MATLAB's bicubic, which is what the networks were trained to"
            f" undo, and enlarged again. PSNR on Y of the crop. Made with {pinned}, by",
            "",
            "```bash",
            shlex.join(words),
            "```",
            "",
            "Pixels are repeated, not smoothed, and the strips are compressed after measuring.",
            *sections,
            "",
        ]
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("crops", nargs="+", type=Crop.parse, metavar="NAME:X,Y,SIZE")
    parser.add_argument("--credits", type=Path, required=True)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("-o", "--output", type=Path, default=Path("docs"))
    return parser.parse_args()


def main() -> None:
    options = arguments()
    models = options.model or ["pan", *best_other(options.scale)]
    said = json.loads(options.credits.read_text(encoding="utf-8"))
    folder = options.output / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    sections = []
    for crop in options.crops:
        squares = columns(read_hr(options.images / crop.name), crop, options.scale, models)
        path = folder / f"{Path(crop.name).stem}.webp"
        save(draw(squares), path)
        told = said[crop.name]
        labels = "; ".join(label for label, _ in squares)
        print(f"{crop.name}: {labels}; {path.stat().st_size:,} bytes")
        sections += ["", f"## {told['title']}", "", f"![{labels}](gallery/{path.name})", ""]
        sections.append(told["credit"])
    text = page(options, models, sections)
    (options.output / "gallery.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except (SrupliftError, OSError) as error:
        sys.exit(str(error))
