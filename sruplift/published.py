"""The papers' own results, to be shown beside ours: ``published.csv`` as frozen dataclasses.

Each row is one line of one table of one paper, PSNR in dB and SSIM on Y of the 8-bit result with
``crop_border`` = scale. The notes say where a paper measured otherwise.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources

# The first word of a row's ``paper`` -> the paper.
PAPERS = {
    "PAN": "Zhao et al., Efficient Image Super-Resolution Using Pixel Attention",
    "A2N": "Chen et al., Attention in Attention Network for Image Super-Resolution",
    "MAFFSRN": "Muqeet et al., Multi-Attention Based Ultra Lightweight Image Super-Resolution",
    "SRRAM": "Kim et al., RAM: Residual Attention Module for Single Image Super-Resolution",
    "HPINet": (
        "Liu et al., From Coarse to Fine: Hierarchical Pixel Integration for Lightweight Image"
        " Super-Resolution"
    ),
}
DATASETS = ("Set5", "Set14", "BSD100", "Urban100", "Manga109")
_COLUMNS = {"BSD100": "b100"}


@dataclass(frozen=True)
class Published:
    """A paper's mean PSNR (dB) and SSIM on one data set; ``None`` where its table has no number.

    ``source`` names the paper's table, ``note`` what was done differently. ``round_y`` says that
    the paper rounds Y to whole levels first, which costs 0.01 to 0.09 dB.
    """

    psnr: float | None
    ssim: float | None
    source: str
    note: str

    @property
    def round_y(self) -> bool:
        """Whether the paper measures on Y rounded to whole levels."""
        return "Y rounded" in self.note

    @property
    def paper(self) -> str:
        """First author and title of the paper."""
        return PAPERS[self.source.split()[0]]


@dataclass(frozen=True)
class PublishedSize:
    """A network's size as its paper prints it; ``None`` where it does not.

    Parameters in thousands, Mult-Adds in billions (G) for an output of 1280 x 720 pixels.
    """

    parameters_k: int | None
    mult_adds_g: float | None
    source: str


def find_published(model: str, scale: int, dataset: str) -> Published | None:
    """What the paper of ``model`` reports at ``scale`` on ``dataset``, if it does.

    ``dataset`` is one of ``DATASETS``; any other has no published numbers.
    """
    row = _rows().get((model, scale))
    if row is None or dataset not in DATASETS:
        return None
    column = _COLUMNS.get(dataset, dataset.lower())
    psnr, ssim = (_number(row[f"{column}_{metric}"]) for metric in ("psnr", "ssim"))
    if psnr is None and ssim is None:
        return None
    return Published(psnr, ssim, row["paper"], row["note"])


def find_published_size(model: str, scale: int) -> PublishedSize | None:
    """What the paper of ``model`` says of its size at ``scale``, if it does."""
    row = _rows().get((model, scale))
    if row is None:
        return None
    thousands, giga = row["params_k"], row["mult_adds_g"]
    return PublishedSize(int(thousands) if thousands else None, _number(giga), row["paper"])


@functools.cache
def _rows() -> dict[tuple[str, int], dict[str, str]]:
    text = resources.files("sruplift").joinpath("published.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {(row["model"], int(row["scale"])): row for row in rows}


def _number(cell: str) -> float | None:
    return float(cell) if cell else None
