"""A report of `sruplift eval` as one HTML file: tables, and crops to compare by eye.

Nothing is loaded from elsewhere, and the page forbids it: images are in the file, losslessly, so
that what is seen is what was measured.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sruplift.color import rgb_to_y
from sruplift.evaluate import Pictures, bicubic_upscale
from sruplift.reporting import (
    INTERVAL_SHORT,
    LR_PSNR,
    METRICS,
    Metric,
    inference,
    label,
    mean_text,
    paper_text,
    perceptual_metrics,
    sources,
)
from sruplift.results import DatasetResult, Report
from sruplift.scores import to_levels

# Edge of a crop in HR pixels, and how many images of a set are shown.
CROP = 160
SHOWN = 24
# An error of this many levels of Y is white in an error map.
WHITE = 32


@dataclass(frozen=True)
class Crop:
    """The part of an image where the result is worst, as WebP files.

    ``top`` and ``left`` are in HR pixels; ``error`` is the absolute difference of SR and HR on Y.
    """

    name: str
    psnr: float
    top: int
    left: int
    size: tuple[int, int]
    bicubic: bytes
    sr: bytes
    hr: bytes
    error: bytes


class Gallery:
    """Collects crops while images are measured; of each set the ``SHOWN`` with the lowest PSNR."""

    def __init__(self) -> None:
        self._crops: dict[tuple[str, int, int], list[Crop]] = {}

    def __call__(self, pictures: Pictures) -> None:
        """Take one image's pictures."""
        options = pictures.options
        crops = self._crops.setdefault((options.model, options.scale, pictures.dataset), [])
        psnr = pictures.result.scores.psnr_y
        if len(crops) == SHOWN and psnr >= crops[-1].psnr:
            return
        crops.append(make_crop(pictures))
        crops.sort(key=lambda crop: crop.psnr)
        del crops[SHOWN:]

    def crops(self, report: Report, dataset: int) -> Sequence[Crop]:
        """Those of one set, by its number, of one report, hardest first."""
        return self._crops.get((report.options.model, report.options.scale, dataset), ())


def make_crop(pictures: Pictures) -> Crop:
    """Cut the square with the largest squared error on Y out of every picture."""
    scale = pictures.options.scale
    bicubic, sr, hr = (
        to_levels(each[0])
        for each in (bicubic_upscale(pictures.lr, scale), pictures.sr, pictures.hr)
    )
    luma = [rgb_to_y(each[None].double() / 255)[0, 0] * 255 for each in (sr, hr)]
    error = (luma[0] - luma[1]).abs()
    top, left = worst_place(error, CROP)
    rows, columns = slice(top, top + CROP), slice(left, left + CROP)
    grey = error[rows, columns].mul(255 / WHITE).round().clamp(0, 255).to(torch.uint8)
    return Crop(
        name=pictures.result.name,
        psnr=pictures.result.scores.psnr_y,
        top=top,
        left=left,
        size=(grey.shape[0], grey.shape[1]),
        bicubic=_webp(bicubic[:, rows, columns]),
        sr=_webp(sr[:, rows, columns]),
        hr=_webp(hr[:, rows, columns]),
        error=_webp(grey.expand(3, -1, -1)),
    )


def worst_place(error: Tensor, edge: int) -> tuple[int, int]:
    """(top, left) of the square of ``edge`` pixels, cut to (H, W), with most squared error."""
    height, width = error.shape
    total = torch.zeros(height + 1, width + 1, dtype=torch.float64)
    total[1:, 1:] = error.double().square().cumsum(0).cumsum(1)
    rows, columns = min(edge, height), min(edge, width)
    sums = total[rows:, columns:] - total[:-rows, columns:]
    sums = sums - total[rows:, :-columns] + total[:-rows, :-columns]
    return divmod(int(sums.argmax()), sums.shape[1])


def _webp(levels: Tensor) -> bytes:
    """(3, H, W) ``uint8`` as a lossless WebP file."""
    target = io.BytesIO()
    pixels = np.ascontiguousarray(levels.permute(1, 2, 0).numpy())
    Image.fromarray(pixels).save(target, "WEBP", lossless=True, quality=80, exact=True)
    return target.getvalue()


def as_html(reports: Sequence[Report], gallery: Gallery) -> str:
    """The whole page: a section for each network and scale, a part of it for each set."""
    template = resources.files("sruplift").joinpath("htmlreport.html").read_text(encoding="utf-8")
    body = "\n".join(line for report in reports for line in _section(report, gallery))
    return template.replace("<!-- REPORTS -->", body)


def _section(report: Report, gallery: Gallery) -> Iterable[str]:
    metrics = (*METRICS, LR_PSNR, *perceptual_metrics(report))
    weights = report.weights
    facts = [f"{report.device}, {report.precision}; {inference(report)}"]
    if weights:
        facts.insert(0, f"{weights.path.name} (sha256 {weights.sha256})")
    yield f"<section><h2>{_text(label(report))} x{report.options.scale}</h2>"
    yield _paragraph(", ".join(facts))
    headings = ["data set", "images", *(metric.heading for metric in metrics)]
    yield _table(
        [*headings, "paper", "difference"], [_means(each, metrics) for each in report.datasets]
    )
    for note in (INTERVAL_SHORT, *sources(report)):
        yield _paragraph(note)
    for number, result in enumerate(report.datasets):
        yield from _dataset(result, metrics, gallery.crops(report, number))
    yield "</section>"


def _means(result: DatasetResult, metrics: Sequence[Metric]) -> list[str]:
    cells = [mean_text(result, metric, ci=True) for metric in metrics]
    return [result.name, str(len(result.images)), *cells, *paper_text(result)]


def _dataset(
    result: DatasetResult, metrics: Sequence[Metric], crops: Sequence[Crop]
) -> Iterable[str]:
    yield f"<h3>{_text(result.name)}</h3>"
    headings = ["image", "size", *(metric.heading for metric in metrics)]
    rows = [
        [
            image.name,
            f"{image.size[1]}x{image.size[0]}",
            *(metric.text(image.value(metric.name)) for metric in metrics),
        ]
        for image in result.images
    ]
    yield f"<details open><summary>every image</summary>{_table(headings, rows)}</details>"
    if len(crops) < len(result.images):
        yield _paragraph(f"The {len(crops)} of {len(result.images)} images with the lowest PSNR:")
    yield '<div class="crops">'
    yield from (_figure(crop) for crop in crops)
    yield "</div>"


def _figure(crop: Crop) -> str:
    """A slider over two pictures, the choice of the left one, and the error map."""
    height, width = crop.size
    place = f"{width}x{height} pixels at {crop.left}, {crop.top}"
    caption = f"{_text(crop.name)}: {crop.psnr:.2f} dB; {place}"
    size = f'width="{width}" height="{height}"'
    images = {
        name: f'<img class="{name}" alt="{name}" {size} src="{_data_uri(data)}">'
        for name, data in (("bicubic", crop.bicubic), ("original", crop.hr), ("result", crop.sr))
    }
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<div class="pair">{"".join(images.values())}'
        '<input type="range" min="0" max="100" value="50" aria-label="how much of each"></div>'
        f'<img class="error" alt="error" {size} src="{_data_uri(crop.error)}">'
        '<label>left: <select aria-label="left picture"><option>bicubic</option>'
        "<option>original</option></select>, right: result</label></figure>"
    )


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _paragraph(text: str) -> str:
    return f"<p>{_text(text)}</p>"


def _text(text: str) -> str:
    return html.escape(text)


def _data_uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode('ascii')}"
