from __future__ import annotations

from pathlib import Path

import pytest

from sruplift.citations import CITATIONS, paper_name
from sruplift.models import MODELS
from sruplift.published import PAPERS, find_published_size


def test_the_papers_are_those_of_the_published_results() -> None:
    """Two tables, written for different readers, name the same papers."""
    for name, cited in CITATIONS.items():
        surname = cited.authors[0].split()[-1]
        assert PAPERS[name] == f"{surname} et al., {cited.title}"
    assert CITATIONS.keys() == PAPERS.keys()


@pytest.mark.parametrize("model", MODELS)
def test_every_network_has_its_paper(model: str) -> None:
    sizes = [find_published_size(model, scale) for scale in (2, 3, 4)]
    sources = {size.source.split()[0] for size in sizes if size}
    assert sources == {paper_name(model)}


def test_a_network_of_no_paper() -> None:
    with pytest.raises(KeyError):
        paper_name("esrgan")


def test_bibtex() -> None:
    assert CITATIONS["A2N"].bibtex() == (
        "@misc{chen2021a2n,\n"
        "  title         = {{Attention in Attention Network for Image Super-Resolution}},\n"
        "  author        = {Haoyu Chen and Jinjin Gu and Zhi Zhang},\n"
        "  year          = {2021},\n"
        "  eprint        = {2104.09497},\n"
        "  archivePrefix = {arXiv},\n"
        "}"
    )
    assert "  booktitle     = {AAAI Conference" in CITATIONS["HPINet"].bibtex()
    keys = [cited.key for cited in CITATIONS.values()]
    assert len(set(keys)) == len(keys)


def test_the_authors_are_those_that_the_papers_print(shared: Path) -> None:
    for name, cited in CITATIONS.items():
        head = (shared / "papers" / f"{name.lower()}.txt").read_text(encoding="utf-8")[:1500]
        assert cited.title.lower() in " ".join(head.split()).replace("**", "").lower()
        for author in cited.authors:
            assert author in " ".join(head.split()), author
