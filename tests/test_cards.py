from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from released import Release, make_release

from sruplift.cards import NO_REPO, render_card
from sruplift.citations import CITATIONS
from sruplift.errors import UsageError, WeightsError
from sruplift.manifest import Hub, Manifest, Metrics, WeightsEntry, read_manifest
from sruplift.published import find_published

MANIFEST = read_manifest()
CARD = render_card(MANIFEST)


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WeightsEntry:
    release: Release = make_release(tmp_path, monkeypatch, bundled=True)
    return release.entry


def header(card: str) -> dict[str, object]:
    loaded = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(loaded, dict)
    return loaded


def rows(card: str, section: str) -> list[list[str]]:
    """The cells of the table in a section, without its header."""
    text = card.split(f"## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:]]


def test_the_hubs_own_reader_reads_it() -> None:
    data = ModelCard(CARD).data
    assert data.license == "apache-2.0"
    assert data.library_name == "sruplift"
    assert data.pipeline_tag == "image-to-image"
    assert {"super-resolution", *MANIFEST.model_names()} <= set(data.tags)
    measured = {
        (result.task_name, result.dataset_type, result.metric_type, result.metric_value)
        for result in data.eval_results
    }
    for entry in MANIFEST.weights:
        for name, means in entry.metrics.items():
            where = (f"Super-resolution x{entry.scale}", f"eugenesiow/{name}")
            assert (*where, "psnr", means.psnr_y) in measured
            assert (*where, "ssim", means.ssim_y) in measured


def test_each_network_and_scale_has_its_own_results() -> None:
    index = header(CARD)["model-index"]
    assert isinstance(index, list)
    assert [model["name"] for model in index] == [f"{e.model} x{e.scale}" for e in MANIFEST.weights]
    for model, entry in zip(index, MANIFEST.weights, strict=True):
        assert [each["dataset"]["name"] for each in model["results"]] == list(entry.metrics)


def test_files_are_the_manifests() -> None:
    assert rows(CARD, "Files") == [
        [
            f"`{entry.file}`",
            f"`{entry.model}` x{entry.scale}",
            f"{entry.parameters:,}",
            f"{entry.size:,}",
            f"`{entry.sha256}`",
        ]
        for entry in MANIFEST.weights
    ]


def test_each_measurement_stands_beside_the_papers() -> None:
    table = rows(CARD, "Measured")
    names = ("Set5", "Set14", "BSD100")
    for entry in MANIFEST.weights:
        place = [row[0] for row in table].index(f"`{entry.model}` x{entry.scale}")
        means = [entry.metrics[name] for name in names]
        assert table[place][2:] == [f"{mean.psnr_y:.2f} / {mean.ssim_y:.4f}" for mean in means]
        found = [find_published(entry.model, entry.scale, name) for name in names]
        papers = [paper for paper in found if paper is not None]
        following = table[place + 1 : place + 2]
        if papers:
            ((_, source, *values),) = following
            assert {paper.source for paper in papers} == {source}
            ssims = ["-" if paper.ssim is None else f"{paper.ssim:.4f}" for paper in papers]
            printed = zip(papers, ssims, strict=True)
            assert values == [f"{paper.psnr:.2f} / {ssim}" for paper, ssim in printed]
        else:  # HPINet's paper has the small network at x4 only.
            assert all(row[0].startswith("`") for row in following)
        assert entry.metrics_command in CARD


def test_how_each_was_trained() -> None:
    section = CARD.split("## Training\n")[1].split("\n## ")[0]
    for entry, line in zip(MANIFEST.weights, section.strip().splitlines(), strict=True):
        assert f"`{entry.model}` x{entry.scale}" in line
        for fact in (f"{entry.iterations:,}", entry.device, entry.config, entry.command):
            assert fact in line
        assert entry.training_data in line


def test_it_cites_every_paper_and_limits_itself() -> None:
    for cited in CITATIONS.values():
        assert cited.bibtex() in CARD
    limits = CARD.split("## Limits\n")[1].split("\n## ")[0]
    for word in ("bicubic", "JPEG", "noise", "invented"):
        assert word in limits


def test_one_network_alone() -> None:
    card = render_card(MANIFEST, model="pan")
    own = [entry for entry in MANIFEST.weights if entry.model == "pan"]
    assert len(rows(card, "Files")) == len(own)
    assert CITATIONS["PAN"].bibtex() in card
    assert CITATIONS["A2N"].bibtex() not in card


def test_a_network_without_weights() -> None:
    with pytest.raises(UsageError, match="unknown model 'pam'; did you mean 'pan'"):
        render_card(MANIFEST, model="pam")


def test_no_weights_no_card() -> None:
    with pytest.raises(WeightsError, match="no weights have been released"):
        render_card(Manifest())


@pytest.mark.parametrize(
    ("hub", "repo", "named"),
    [
        (None, None, NO_REPO),
        (Hub("own/er"), None, "own/er"),
        (Hub("own/er"), "other/name", "other/name"),
    ],
)
def test_it_names_its_repository(hub: Hub | None, repo: str | None, named: str) -> None:
    card = render_card(dataclasses.replace(MANIFEST, hub=hub), repo=repo)
    assert f"SRUPLIFT_HUB_REPO={named}`" in card
    assert re.findall(r"hf://(.*)/\w+\.safetensors", card) == [named]


def test_what_is_not_known_is_left_out(entry: WeightsEntry) -> None:
    """A data set that no paper reports, a value that the paper's table lacks, nothing measured."""
    metrics = {"Set14": Metrics(28.5, 0.78), "photos": Metrics(30.0, 0.9)}
    odd = dataclasses.replace(entry, model="hpinet-s", scale=4, metrics=metrics)
    card = render_card(Manifest(weights=(odd,)))
    assert rows(card, "Measured") == [
        ["`hpinet-s` x4", "these weights", "28.50 / 0.7800", "30.00 / 0.9000"],
        ["", "HPINet Table 3", "28.80 / -", "-"],
    ]
    assert "HPINet Table 3 of hpinet-s x4: Y rounded to uint8." in card
    types = [result.dataset_type for result in ModelCard(card).data.eval_results]
    assert set(types) == {"eugenesiow/Set14", "photos"}
    unmeasured = render_card(Manifest(weights=(dataclasses.replace(entry, metrics={}),)))
    assert "Nothing has been measured" in unmeasured
    assert "model-index" not in header(unmeasured)


def test_several_licences(entry: WeightsEntry) -> None:
    other = dataclasses.replace(entry, scale=3, file="pan_x3.safetensors", licence="CC-BY-4.0")
    card = render_card(Manifest(weights=(entry, other)))
    assert header(card)["license"] == "other"
    assert header(card)["license_name"] == "apache-2.0-and-cc-by-4.0"
    assert [row[1] for row in rows(card, "Licence")] == ["Apache-2.0", "CC-BY-4.0"]


def test_a_bar_does_not_break_a_table(entry: WeightsEntry) -> None:
    other = dataclasses.replace(entry, licence="MIT|BSD")
    assert r"MIT\|BSD" in render_card(Manifest(weights=(entry, other)))


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", CARD, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (12, 8), "teal").save("photo.jpg")
    exec(example, {})
    scale = max(entry.scale for entry in MANIFEST.weights)
    with Image.open("large.png") as large:
        assert large.size == (12 * scale, 8 * scale)
