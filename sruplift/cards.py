"""The model card of the weights: the README.md that the Hugging Face Hub shows and searches.

Every figure comes from the manifest or from ``published.csv``. The YAML header is written by
huggingface_hub's own classes; the body is ours, for its template wants Jinja and asks other things.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sruplift.citations import CITATIONS, paper_name
from sruplift.datasets import BENCHMARKS
from sruplift.errors import UsageError, WeightsError, unknown_name
from sruplift.hub import check_repo
from sruplift.manifest import MANIFEST_NAME, Manifest, WeightsEntry
from sruplift.published import DATASETS, find_published

CARD_NAME = "README.md"
# Stands for the repository where nothing says which it is.
NO_REPO = "OWNER/NAME"
TAGS = ("super-resolution", "image-super-resolution", "upscaling", "pytorch", "safetensors")

_USE = """\
## Use

The files come with sruplift. Installed from a clone of its repository (`pip install .`), it needs
nothing from here:

```bash
sruplift upscale photo.jpg --model {model} --scale {scale}
```

An installation without them takes them from here, and checks each against the sha256 of its own
manifest, with `SRUPLIFT_HUB_REPO={repo}` in its environment. One file can be named as well:

```bash
sruplift upscale photo.jpg --model {model} --scale {scale} --weights hf://{repo}/{file}
```

From Python:

```python
from PIL import Image
from sruplift import Upscaler

upscaler = Upscaler("{model}", scale={scale})
with Image.open("photo.jpg") as photo:
    upscaler(photo).save("large.png")
```"""
_LIMITS = """\
## Limits

- The networks were trained on images that bicubic interpolation had made smaller, and undo that
  alone. Compression, noise, blur and other ways of shrinking are not removed: in a JPEG or a noisy
  photo they are enlarged with everything else.
- Detail that is not in the input is invented: what comes out is a likely picture, not what was
  there. Fine texture comes out smooth or wrong, small text and faces may change. It is no evidence
  of anything.
- The papers' rows above are what their authors measured with their own weights, which are not
  these."""


def render_card(manifest: Manifest, *, model: str | None = None, repo: str | None = None) -> str:
    """The card as Markdown with a YAML header: of all weights, or of one ``model``.

    ``repo`` is the ``owner/name`` that it is for; None takes the Hub that the manifest or
    ``SRUPLIFT_HUB_REPO`` names, else says ``OWNER/NAME``.

    Raises:
        UsageError: there are no weights of ``model``, or ``repo`` is no ``owner/name``.
        WeightsError: the manifest lists no weights at all.
    """
    if not manifest.weights:
        raise WeightsError("no weights have been released yet: there is nothing to write a card of")
    if model is not None and model not in manifest.model_names():
        raise UsageError(unknown_name("model", model, manifest.model_names()))
    if repo is not None:
        check_repo(repo)
    entries = [entry for entry in manifest.weights if model in (None, entry.model)]
    active = manifest.active_hub()
    repo = repo or (active.repo if active else NO_REPO)
    papers = list(CITATIONS) if model is None else [paper_name(model)]
    example = max(entries, key=lambda entry: entry.scale)
    sections = [
        _introduction(entries),
        _USE.format(model=example.model, scale=example.scale, file=example.file, repo=repo),
        _files(entries),
        _measurements(entries),
        _training(entries),
        _LIMITS,
        _licence(entries),
        _citations(papers),
    ]
    return f"---\n{_header(entries)}\n---\n\n" + "\n\n".join(sections) + "\n"


def _header(entries: Sequence[WeightsEntry]) -> str:
    """What the Hub reads: https://huggingface.co/docs/hub/model-cards#model-card-metadata."""
    from huggingface_hub import ModelCardData

    licences = _licences(entries)
    single = licences[0].lower() if len(licences) == 1 else None
    data = ModelCardData(
        license=single or "other",
        license_name=None if single else "-and-".join(licences).lower(),
        library_name="sruplift",
        pipeline_tag="image-to-image",
        tags=[*TAGS, *dict.fromkeys(entry.model for entry in entries)],
        metrics=["psnr", "ssim"],
    )
    # The class itself holds the results of a single model.
    index = [each for entry in entries for each in _model_index(entry)]
    if index:
        data["model-index"] = index
    return str(data.to_yaml(line_break="\n"))


def _model_index(entry: WeightsEntry) -> list[dict[str, Any]]:
    from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

    results = [
        EvalResult(
            task_type="image-to-image",
            task_name=f"Super-resolution x{entry.scale}",
            dataset_type=_dataset_id(name),
            dataset_name=name,
            metric_type=metric,
            metric_name=title,
            metric_value=value,
        )
        for name, means in entry.metrics.items()
        for metric, title, value in (
            ("psnr", "PSNR on Y, dB", means.psnr_y),
            ("ssim", "SSIM on Y", means.ssim_y),
        )
    ]
    return eval_results_to_model_index(_name(entry), results) if results else []


def _dataset_id(name: str) -> str:
    """The data set's repository on the Hub; its plain name where it has none."""
    spec = BENCHMARKS.get(name)
    return spec.repo if spec is not None and spec.repo else name.lower()


def _introduction(entries: Sequence[WeightsEntry]) -> str:
    scales = _listing(f"{scale}" for scale in sorted({entry.scale for entry in entries}))
    names = dict.fromkeys(paper_name(entry.model) for entry in entries)
    networks = _listing(f"[{name}]({CITATIONS[name].url})" for name in names)
    return (
        "# Weights of sruplift\n\n"
        f"Small networks that enlarge images {scales} times: {networks}, trained by the sruplift"
        " project with its own `sruplift train`. They are not the authors' weights."
        " sruplift is a command-line tool and Python library for single-image super-resolution,"
        " which runs, measures and trains them."
    )


def _files(entries: Sequence[WeightsEntry]) -> str:
    rows = [
        (f"`{e.file}`", _label(e), f"{e.parameters:,}", f"{e.size:,}", f"`{e.sha256}`")
        for e in entries
    ]
    table = _table(("file", "network", "parameters", "bytes", "sha256"), rows)
    return (
        f"## Files\n\n{table}\n\n"
        f"`{MANIFEST_NAME}` says the same for programs. `sruplift weights verify` checks the files"
        " of an installation against it."
    )


def _measurements(entries: Sequence[WeightsEntry]) -> str:
    """Two rows for each file, ours and the paper's, and the commands that measured ours."""
    measured = [entry for entry in entries if entry.metrics]
    if not measured:
        return "## Measured\n\nNothing has been measured with these files yet."
    names = [name for name in DATASETS if any(name in entry.metrics for entry in measured)]
    others = dict.fromkeys(name for entry in measured for name in entry.metrics)
    names += [name for name in others if name not in names]
    rows, notes = [], []
    for entry in measured:
        rows.append((_label(entry), "these weights", *(_ours(entry, name) for name in names)))
        source, cells, note = _published_row(entry, names)
        if source:
            rows.append(("", source, *cells))
        if note:
            notes.append(f"{source} of {_name(entry)}: {note}.")
    commands = "\n".join(dict.fromkeys(e.metrics_command for e in measured if e.metrics_command))
    parts = [
        "## Measured",
        _table(("weights", "", *names), rows),
        "PSNR (dB) / SSIM on the Y channel, beside what the paper prints. LR is made from the HR"
        " image by MATLAB's bicubic, the result is rounded to 8 bits, and as many pixels as the"
        " scale are cut from each side. Measured with the files above by",
        f"```bash\n{commands}\n```",
        *dict.fromkeys(notes),
    ]
    return "\n\n".join(parts)


def _ours(entry: WeightsEntry, dataset: str) -> str:
    means = entry.metrics.get(dataset)
    return f"{means.psnr_y:.2f} / {means.ssim_y:.4f}" if means else "-"


def _published_row(
    entry: WeightsEntry, datasets: Sequence[str]
) -> tuple[str, tuple[str, ...], str]:
    """Which table of which paper, its cells, and what it did differently; no source, no row."""
    found = [find_published(entry.model, entry.scale, name) for name in datasets]
    known = [each for each in found if each is not None]
    if not known:
        return "", (), ""
    cells = tuple(
        "-" if each is None else f"{_number(each.psnr, 2)} / {_number(each.ssim, 4)}"
        for each in found
    )
    return known[0].source, cells, known[0].note


def _training(entries: Sequence[WeightsEntry]) -> str:
    items = [
        f"- **{_label(entry)}**: {entry.iterations:,} iterations on `{entry.device}`, config"
        f" `{entry.config}`, by `{entry.command}`. Images: {entry.training_data}."
        for entry in entries
    ]
    return "## Training\n\n" + "\n".join(items)


def _licence(entries: Sequence[WeightsEntry]) -> str:
    licences = _licences(entries)
    if len(licences) == 1:
        return f"## Licence\n\n{licences[0]}, all files."
    rows = [(f"`{entry.file}`", entry.licence) for entry in entries]
    return f"## Licence\n\n{_table(('file', 'licence'), rows)}"


def _citations(papers: Sequence[str]) -> str:
    entries = "\n\n".join(CITATIONS[name].bibtex() for name in papers)
    who = "The network is" if len(papers) == 1 else "sruplift's networks are"
    return f"## Citation\n\n{who} the work of these authors:\n\n```bibtex\n{entries}\n```"


def _licences(entries: Sequence[WeightsEntry]) -> list[str]:
    return list(dict.fromkeys(entry.licence for entry in entries))


def _name(entry: WeightsEntry) -> str:
    return f"{entry.model} x{entry.scale}"


def _label(entry: WeightsEntry) -> str:
    return f"`{entry.model}` x{entry.scale}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _listing(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    escaped = ([cell.replace("|", r"\|") for cell in row] for row in lines)
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)
