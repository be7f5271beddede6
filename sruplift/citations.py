"""The papers of networks and methods, to be cited: authors, venue, year, arXiv number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Citation:
    """One paper. ``authors`` are as the paper prints them; ``venue`` is empty for arXiv alone."""

    key: str
    title: str
    authors: tuple[str, ...]
    year: int
    arxiv: str
    venue: str = ""

    @property
    def url(self) -> str:
        """The paper's page on arXiv."""
        return f"https://arxiv.org/abs/{self.arxiv}"

    def bibtex(self) -> str:
        """The entry for a bibliography."""
        # Braces keep the capitals of names and abbreviations.
        fields = {"title": f"{{{self.title}}}", "author": " and ".join(self.authors)}
        if self.venue:
            fields["booktitle"] = self.venue
        fields |= {"year": str(self.year), "eprint": self.arxiv, "archivePrefix": "arXiv"}
        kind = "inproceedings" if self.venue else "misc"
        lines = [f"  {name:<13} = {{{value}}}," for name, value in fields.items()]
        return "\n".join([f"@{kind}{{{self.key},", *lines, "}"])


# By the first word of a row's ``paper`` in ``published.csv``.
CITATIONS = {
    "PAN": Citation(
        "zhao2020pan",
        "Efficient Image Super-Resolution Using Pixel Attention",
        ("Hengyuan Zhao", "Xiangtao Kong", "Jingwen He", "Yu Qiao", "Chao Dong"),
        2020,
        "2010.01073",
        "European Conference on Computer Vision Workshops",
    ),
    "A2N": Citation(
        "chen2021a2n",
        "Attention in Attention Network for Image Super-Resolution",
        ("Haoyu Chen", "Jinjin Gu", "Zhi Zhang"),
        2021,
        "2104.09497",
    ),
    "MAFFSRN": Citation(
        "muqeet2020maffsrn",
        "Multi-Attention Based Ultra Lightweight Image Super-Resolution",
        (
            "Abdul Muqeet",
            "Jiwon Hwang",
            "Subin Yang",
            "JungHeum Kang",
            "Yongwoo Kim",
            "Sung-Ho Bae",
        ),
        2020,
        "2008.12912",
        "European Conference on Computer Vision Workshops",
    ),
    "SRRAM": Citation(
        "kim2018ram",
        "RAM: Residual Attention Module for Single Image Super-Resolution",
        ("Jun-Hyuk Kim", "Jun-Ho Choi", "Manri Cheon", "Jong-Seok Lee"),
        2018,
        "1811.12043",
    ),
    "HPINet": Citation(
        "liu2023hpinet",
        "From Coarse to Fine: Hierarchical Pixel Integration for Lightweight Image"
        " Super-Resolution",
        ("Jie Liu", "Chao Chen", "Jie Tang", "Gangshan Wu"),
        2023,
        "2211.16776",
        "AAAI Conference on Artificial Intelligence",
    ),
}

# Of ``sruplift explain``.
LOCAL_ATTRIBUTION_MAPS = Citation(
    "gu2021lam",
    "Interpreting Super-Resolution Networks with Local Attribution Maps",
    ("Jinjin Gu", "Chao Dong"),
    2021,
    "2011.11036",
    "IEEE/CVF Conference on Computer Vision and Pattern Recognition",
)


def paper_name(model: str) -> str:
    """The key in ``CITATIONS`` of the paper that ``model`` or its variant (``a2n-m``) is from.

    Raises:
        KeyError: no paper here has such a network.
    """
    family = model.partition("-")[0]
    return {name.lower(): name for name in CITATIONS}[family]
